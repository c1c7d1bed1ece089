"""What one undo takes back, and what the undo history is not to know of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from gi.repository import Gimp

from plugin.gimp.layers import unlocked

_FROZEN = "dimilinks-undo-frozen"
"""The parasite of an image whose undo is frozen."""
_FROZEN_SECONDS = 0.3
"""For longer than that no process of ours keeps it so."""


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
        for choose, items in chosen if image.is_valid() else ():
            if left := [item for item in items if item.is_valid()]:
                choose(left)
                break


def keep_for_undo(layer: Gimp.Layer) -> bool:
    """Have the undo history keep the layer as it is, before pixels are written; False if it can't.

    A layer that is scaled to the size that it has gets the same pixels in a new buffer, and the
    history has the old one. GIMP copies no pixels for that, and asks for no selection, by which
    its own way of merging pixels would go. (In 3.0 copies of layers can't undo a resize.)
    """
    with unlocked(layer, "position"):
        return bool(layer.scale(layer.get_width(), layer.get_height(), False))


@contextlib.contextmanager
def without_undo(image: Gimp.Image) -> Iterator[None]:
    """Do something quick that is not for the undo history.

    A process that dies meanwhile would leave the image without undo: the image has a mark as long
    as its undo is frozen, by which `thaw_abandoned` knows it.
    """
    image.attach_parasite(Gimp.Parasite.new(_FROZEN, 0, b"frozen"))
    image.undo_freeze()
    try:
        yield
    finally:
        image.undo_thaw()
        image.detach_parasite(_FROZEN)


def thaw_abandoned(image: Gimp.Image) -> None:
    """Give an image its undo back if a process of ours died before it could do so itself."""
    if image.undo_is_enabled() or image.get_parasite(_FROZEN) is None:
        return
    # Another window may be at it right now: that takes it a few milliseconds.
    time.sleep(_FROZEN_SECONDS)
    if not image.undo_is_enabled() and image.get_parasite(_FROZEN) is not None:
        image.undo_thaw()
        image.detach_parasite(_FROZEN)
