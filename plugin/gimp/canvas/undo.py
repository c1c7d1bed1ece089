"""Group changes into undo steps, and keep temporary changes out of the undo history."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from gi.repository import Gimp

from plugin.gimp.canvas.layers import unlocked

_FROZEN = "dimilinks-undo-frozen"
"""The name of the parasite (data that GIMP attaches to an image) that marks a frozen undo history.

While the undo history is frozen, GIMP records no changes in it.
"""
_FROZEN_SECONDS = 0.3
"""A process of the plug-in keeps the history frozen for at most this many seconds."""


@contextlib.contextmanager
def one_step(image: Gimp.Image) -> Iterator[None]:
    """Combine all changes in the `with` block into one undo step.

    Afterwards, select the layers, channels or paths again that were selected before.
    """
    with chosen_kept(image):
        image.undo_group_start()
        try:
            yield
        finally:
            image.undo_group_end()


@contextlib.contextmanager
def chosen_kept(image: Gimp.Image) -> Iterator[None]:
    """After the `with` block, select the same layers again that were selected before.

    If no layers were selected, do this with the channels, or else with the paths.
    """
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
    """Save the layer's pixels in the undo history before they are overwritten.

    Return False if this is not possible. To make GIMP save the pixels, this function scales the
    layer to its present size: GIMP then gives the layer a new buffer, without copying the pixels,
    and keeps the old buffer in the undo history. GIMP's function to merge a plug-in's changes can't
    be used, because it changes only selected pixels. Resizing the layer instead can't be undone on
    copies of layers in GIMP 3.0.
    """
    with unlocked(layer, "position"):
        return bool(layer.scale(layer.get_width(), layer.get_height(), False))


@contextlib.contextmanager
def without_undo(image: Gimp.Image) -> Iterator[None]:
    """Keep the changes in the `with` block, which must be quick, out of the undo history.

    If this process dies in the `with` block, the undo history stays frozen. The image is therefore
    marked meanwhile, so that `thaw_abandoned` can find out and unfreeze the history.
    """
    image.attach_parasite(Gimp.Parasite.new(_FROZEN, 0, b"frozen"))
    image.undo_freeze()
    try:
        yield
    finally:
        image.undo_thaw()
        image.detach_parasite(_FROZEN)


def thaw_abandoned(image: Gimp.Image) -> None:
    """Enable undo again if a process of the plug-in died after it had frozen the undo history."""
    if image.undo_is_enabled() or image.get_parasite(_FROZEN) is None:
        return
    # Wait, because another window of the plug-in may just now be using `without_undo`, which takes
    # only a few milliseconds.
    time.sleep(_FROZEN_SECONDS)
    if not image.undo_is_enabled() and image.get_parasite(_FROZEN) is not None:
        image.undo_thaw()
        image.detach_parasite(_FROZEN)
