"""Group changes into undo steps, and keep temporary changes out of the undo history."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from gi.repository import Gimp

from plugin.gimp.layers import unlocked

_FROZEN = "dimilinks-undo-frozen"
"""The name of the parasite of an image whose undo is frozen."""
_FROZEN_SECONDS = 0.3
"""The longest time, in seconds, for which a process of the plug-in keeps undo frozen."""


@contextlib.contextmanager
def one_step(image: Gimp.Image) -> Iterator[None]:
    """Make one undo step of all changes in the `with` block.

    Also restore the selected layers, channels or paths afterwards.
    """
    with chosen_kept(image):
        image.undo_group_start()
        try:
            yield
        finally:
            image.undo_group_end()


@contextlib.contextmanager
def chosen_kept(image: Gimp.Image) -> Iterator[None]:
    """Restore the selected layers, or else channels or paths, after the `with` block."""
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
    """Save the layer in the undo history before its pixels are written.

    Return False if this is not possible. The layer is scaled to the size that it already has. GIMP
    then moves its pixels to a new buffer without copying them, and keeps the old buffer in the undo
    history. Unlike GIMP's own merging of pixels, this doesn't depend on the selection. (A resize
    can't be used: in GIMP 3.0, copies of layers can't undo it.)
    """
    with unlocked(layer, "position"):
        return bool(layer.scale(layer.get_width(), layer.get_height(), False))


@contextlib.contextmanager
def without_undo(image: Gimp.Image) -> Iterator[None]:
    """Make quick changes in the `with` block that are not recorded in the undo history.

    If the process dies meanwhile, undo would stay frozen. The image is therefore marked while its
    undo is frozen, and `thaw_abandoned` recognises this mark.
    """
    image.attach_parasite(Gimp.Parasite.new(_FROZEN, 0, b"frozen"))
    image.undo_freeze()
    try:
        yield
    finally:
        image.undo_thaw()
        image.detach_parasite(_FROZEN)


def thaw_abandoned(image: Gimp.Image) -> None:
    """Enable undo again if a process of the plug-in has died while it was frozen."""
    if image.undo_is_enabled() or image.get_parasite(_FROZEN) is None:
        return
    # Another window may have frozen it just now, which takes only a few milliseconds.
    time.sleep(_FROZEN_SECONDS)
    if not image.undo_is_enabled() and image.get_parasite(_FROZEN) is not None:
        image.undo_thaw()
        image.detach_parasite(_FROZEN)
