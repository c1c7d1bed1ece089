"""The weight of a result at each pixel: it keeps the result inside the selection."""

from __future__ import annotations

from gi.repository import Gegl

from plugin.gimp.canvas import pixels
from plugin.gimp.capture import Capture
from plugin.region import Box


def write(capture: Capture, target: Gegl.Buffer, pixel_format: str) -> None:
    """Write the weights of the result of `capture` to `target`, from its origin on.

    A weight is the selection times the blend, and exactly 0 outside the selection. `pixel_format`
    is the target's own.
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
        # The end of a feathered selection has values too small to count as selected.
        pixels.clear_outside(target, pixel_format, whole, capture.selection, capture.on_canvas)
    target.flush()
