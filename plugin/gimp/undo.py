"""What one undo takes back, and what the undo history is not to know of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gi.repository import Gimp


@contextlib.contextmanager
def one_step(image: Gimp.Image) -> Iterator[None]:
    """Make one undo step of what is done, and leave the user's choice of layers as it was."""
    with chosen_kept(image):
        image.undo_group_start()
        try:
            yield
        finally:
            image.undo_group_end()


@contextlib.contextmanager
def chosen_kept(image: Gimp.Image) -> Iterator[None]:
    """Leave the user's choice of layers, or else of channels or paths, as it was."""
    chosen = (
        (image.set_selected_layers, image.get_selected_layers()),
        (image.set_selected_channels, image.get_selected_channels()),
        (image.set_selected_paths, image.get_selected_paths()),
    )
    try:
        yield
    finally:
        for choose, items in chosen:
            if left := [item for item in items if item.is_valid()]:
                choose(left)
                break


@contextlib.contextmanager
def without_undo(image: Gimp.Image) -> Iterator[None]:
    image.undo_freeze()
    try:
        yield
    finally:
        image.undo_thaw()
