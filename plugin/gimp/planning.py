"""Plan an edit: describe the edit, copy the selection, and compute the region that is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from gi.repository import Babl, Gegl, Gimp

from plugin import region, settings
from plugin.errors import CallingError, UserError
from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.layers import (
    check_open,
    let_go,
    made,
    new_layer,
    offsets,
)
from plugin.gimp.translation import _
from plugin.region import Box, Region

_TITLE = 40
"""The maximum length, in characters, of a layer name that is made from a prompt."""


@dataclass(frozen=True)
class Request:
    """The arguments of the procedure `dimilinks-edit`, with the same names.

    `titled` is true if a person asked for the edit, in the window or with GIMP's command *Repeat*.
    The result layers are then named after the prompt, and variations are put into a group. For
    scripts, `titled` is false, and the layers get plain names without the prompt.
    """

    prompt: str
    model: str
    size: str
    resolution: str
    output: str
    source: str
    use_selection: bool
    variations: int
    reference_layers: Sequence[Gimp.Drawable]
    reference_files: Sequence[str]
    blend: int
    context: int
    repair: bool
    titled: bool = False

    @property
    def visible(self) -> bool:
        return self.source == "visible"

    @property
    def replace(self) -> bool:
        return self.output == "replace"


class Selected(NamedTuple):
    """A selection as it was at one moment, in canvas coordinates.

    `bounds` is the bounding box of all selected pixels. `shares` is a buffer with a value for each
    pixel, which says how much the pixel is selected. The buffer covers at least `bounds`.
    """

    shares: Gegl.Buffer
    bounds: Box


def selection_of(image: Gimp.Image) -> Selected | None:
    """Copy the current selection, or return None if nothing is selected. Raises UserError.

    GIMP copies the selection in one step, into a mask that is not added to any layer. The bounds of
    the selection are read before and after this step. If they differ, the user has changed the
    selection meanwhile, so this function copies the selection again.
    """
    while True:
        check_open(image)
        bounds = selection_bounds(image)
        if bounds is None:
            return None
        holder = new_layer(image, "", (bounds.width, bounds.height))
        holder.set_offsets(bounds.x, bounds.y)
        mask = made(holder.create_mask(Gimp.AddMaskType.SELECTION))
        try:
            if selection_bounds(image) == bounds:
                return Selected(_in_memory(mask, bounds), bounds)
        finally:
            let_go(image, mask)
            let_go(image, holder)


def _in_memory(mask: Gimp.LayerMask, place: Box) -> Gegl.Buffer:
    """Return a new buffer that covers the box `place` and contains the values of the mask.

    Unlike the mask, this buffer can be read later without calls to GIMP.
    """
    shares = Gegl.Buffer.new(Babl.get_name(mask.get_format()), *astuple(place))
    whole = pixels.rectangle(pixels.extent(mask))
    mask.get_buffer().copy(whole, Gegl.AbyssPolicy.NONE, shares, pixels.rectangle(place))
    return shares


def selection_bounds(image: Gimp.Image) -> Box | None:
    """Return the bounding box of the current selection, or None if nothing is selected."""
    _ok, there, x1, y1, x2, y2 = Gimp.Selection.bounds(image)
    return Box(x1, y1, x2 - x1, y2 - y1) if there else None


@dataclass(frozen=True)
class Edited:
    """The layer or canvas that is edited, as it was at one moment.

    `extent` is the box of the whole layer in layer coordinates, or of the whole canvas. `origin` is
    the position of the origin of these coordinates on the canvas. `canvas` is the box of the
    canvas. `selected` is None if the whole layer or canvas is edited.
    """

    name: str
    extent: Box
    origin: tuple[int, int]
    canvas: Box
    selected: Selected | None


def edited(
    image: Gimp.Image, layer: Gimp.Layer, request: Request, selected: Selected | None
) -> Edited:
    """Return a description of the layer or canvas that is edited.

    `layer` can be a copy of the real layer.
    """
    canvas = Box(0, 0, image.get_width(), image.get_height())
    if request.visible:
        return Edited(layer.get_name(), canvas, (0, 0), canvas, selected)
    return Edited(layer.get_name(), pixels.extent(layer), offsets(layer), canvas, selected)


@dataclass(frozen=True)
class Plan:
    """The part of a layer or of the canvas that is sent.

    `wanted` is the bounding box of the pixels to be edited, and `region` is the region around
    `wanted` that is sent. Both are in the coordinates of the layer or canvas.
    """

    region: Region
    wanted: Box


def planned(what: Edited, request: Request) -> Plan:
    """Compute which part of the layer or canvas is sent.

    Raises UserError if the selection doesn't touch the layer or canvas, or if a setting can't be
    used. Raises CallingError if the service can't make the size in the request.
    """
    wanted = what.extent
    if what.selected is not None:
        dx, dy = what.origin
        there = what.selected.bounds.intersection(what.canvas).intersection(wanted.moved(dx, dy))
        if not there.empty:
            there = pixels.selected_bounds(what.selected.shares, there)
        if there.empty:
            raise UserError(
                _(
                    "The selection doesn't touch the layer “{name}”. Select a part of it, or "
                    "select nothing to edit the whole layer."
                ).format(name=what.name)
            )
        wanted = there.moved(-dx, -dy)
    context = request.context if request.context >= 0 else None
    ceiling = settings.ceiling()
    try:
        sent = region.plan(wanted, what.extent, request.size, request.resolution, ceiling, context)
    except UserError as error:
        raise CallingError(str(error)) from error
    return Plan(sent, wanted)


def shortened(prompt: str) -> str:
    """Return the prompt as a single line, cut to the maximum length of a layer name."""
    words = " ".join(prompt.split())
    return words if len(words) <= _TITLE else words[: _TITLE - 1].rstrip() + "…"
