"""Compute the weight of a result at each pixel, which keeps the result inside the selection."""

from __future__ import annotations

from gi.repository import Gegl

from plugin.gimp.canvas import pixels
from plugin.gimp.capture import Capture
from plugin.region import Box


def write(capture: Capture, target: Gegl.Buffer, pixel_format: str) -> None:
    """Write the weights of the result of `capture` to the buffer `target`, starting at (0, 0).

    The weight of a pixel is the value of the selection, multiplied by the weight in `blend.png` if
    there is a blend. Outside the selection, the weight is exactly 0. `pixel_format` is the format
    of `target`.
    """
    assert capture.selection is not None
    whole = Box(0, 0, capture.box.width, capture.box.height)
    capture.selection.copy(
        pixels.rectangle(capture.on_canvas), Gegl.AbyssPolicy.NONE, target, pixels.rectangle(whole)
    )
    blend = capture.job.folder / "blend.png"
    if blend.exists():
        pixels.multiply(target, pixels.linear_gray(blend, whole))
    if capture.selection.get_property("px-size") > 1:
        # If the selection has more than one byte per pixel, its feathered edge ends with values
        # that are too small to count as selected. Set the weights of these pixels to 0.
        pixels.clear_outside(target, pixel_format, whole, capture.selection, capture.on_canvas)
    target.flush()
