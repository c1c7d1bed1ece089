"""From the image to the job folder: what is edited, and the pixels that leave GIMP.

Everything that the import will need is remembered here as it was, for the user goes on working
while the service thinks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gi.repository import Gegl, Gimp, Gio

from plugin import job, region
from plugin.gimp import pixels
from plugin.gimp.messages import CallingError, EditError, _
from plugin.job import MOST_PICTURES, Job
from plugin.region import Box


@dataclass(frozen=True)
class Request:
    """The arguments of `dimilinks-edit`, by the same names."""

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
    repair: bool

    @property
    def visible(self) -> bool:
        return self.source == "visible"

    @property
    def replace(self) -> bool:
        return self.output == "replace"


@dataclass(frozen=True)
class Capture:
    """One layer, or the canvas, as it was when its edit began.

    `box` is what was sent of it, in the layer's coordinates (the canvas's for `visible`), and
    `on_canvas` the same place in the canvas's; `selection` is a copy of the selection there, None
    for a whole-layer edit. `size` is the layer's width and height.
    """

    image: Gimp.Image
    layer: Gimp.Layer
    size: tuple[int, int]
    visible: bool
    box: Box
    on_canvas: Box
    selection: Gegl.Buffer | None
    job: Job


def targets(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> list[Gimp.Layer]:
    """Return the layers to edit, each once. Raises EditError for one that can't be edited so."""
    layers: dict[int, Gimp.Layer] = {}
    for drawable in drawables:
        if isinstance(drawable, Gimp.LayerMask):
            drawable = Gimp.Layer.from_mask(drawable)
        if not isinstance(drawable, Gimp.Layer):
            raise CallingError(
                _("“{name}” is a channel: select a layer to edit.").format(name=drawable.get_name())
            )
        if drawable.get_image().get_id() != image.get_id():
            raise CallingError(
                _("“{name}” belongs to another image than the one to edit.").format(
                    name=drawable.get_name()
                )
            )
        layers[drawable.get_id()] = drawable
    if not layers:
        raise CallingError(_("There is no layer to edit: select one."))
    chosen = list(layers.values())
    if request.visible:
        # Everything visible is one picture, however many layers are selected.
        chosen = chosen[:1]
    if request.replace:
        if request.visible:
            raise CallingError(
                _(
                    "Everything visible can't replace one layer: it would paint the others into "
                    "it. Choose a new layer, or edit the layer alone."
                )
            )
        for layer in chosen:
            check_replaceable(layer)
    return chosen


def check_replaceable(layer: Gimp.Layer) -> None:
    """Raise EditError if new pixels can't be written into `layer`."""
    kinds = (
        (layer.is_group(), _("a layer group")),
        (layer.is_text_layer(), _("a text layer")),
        # Only GIMP 3.2 has these two.
        (hasattr(layer, "is_link_layer") and layer.is_link_layer(), _("a link layer")),
        (hasattr(layer, "is_vector_layer") and layer.is_vector_layer(), _("a vector layer")),
        (layer.is_floating_sel(), _("a floating selection")),
        (_locked(layer), _("locked")),
    )
    for is_so, kind in kinds:
        if is_so:
            raise EditError(
                _("“{name}” is {kind} and can't be replaced: choose a new layer instead.").format(
                    name=layer.get_name(), kind=kind
                )
            )


def _locked(layer: Gimp.Layer | None) -> bool:
    while layer is not None:
        if layer.get_lock_content():
            return True
        layer = layer.get_parent()
    return False


def capture(image: Gimp.Image, layer: Gimp.Layer, request: Request) -> Capture:
    """Export what an edit of `layer` needs into a new job.

    Raises EditError if the selection misses the layer or a reference can't be read, OSError if
    the job can't be written.
    """
    if not request.visible:
        return _capture(image, layer, layer, request)
    seen = Gimp.Layer.new_from_visible(image, image, "visible")
    try:
        return _capture(image, layer, seen, request)
    finally:
        seen.delete()


def _capture(
    image: Gimp.Image, layer: Gimp.Layer, picture: Gimp.Drawable, request: Request
) -> Capture:
    dx, dy = (0, 0) if request.visible else offsets(layer)
    extent = Box(0, 0, picture.get_width(), picture.get_height())
    selection = image.get_selection().get_buffer()
    canvas = Box(0, 0, image.get_width(), image.get_height())
    wanted = extent
    masked = request.use_selection and not Gimp.Selection.is_empty(image)
    if masked:
        there = selection_bounds(image).intersection(canvas).intersection(extent.moved(dx, dy))
        if not there.empty:
            there = pixels.selected_bounds(selection, there)
        if there.empty:
            raise EditError(
                _(
                    "The selection doesn't touch the layer “{name}”: select a part of it, or "
                    "select nothing to edit the whole layer."
                ).format(name=layer.get_name())
            )
        wanted = there.moved(-dx, -dy)
    try:
        planned = region.plan(wanted, extent, request.size, request.resolution)
    except ValueError as error:
        raise CallingError(str(error)) from error
    box = planned.content
    on_canvas = box.moved(dx, dy)
    snapshot = None
    with job.prepare() as folder:
        pixels.write_png(picture.get_buffer(), box, folder / "source.png", picture.has_alpha())
        if masked:
            snapshot = selection.create_sub_buffer(
                pixels.rectangle(on_canvas.intersection(canvas))
            ).dup()
            pixels.write_mask_png(selection, on_canvas, folder / "mask.png")
        references = _write_references(folder, request, MOST_PICTURES - 1 - masked)
        prepared = job.publish(
            folder,
            {
                "prompt": request.prompt,
                "model": request.model,
                "region": planned.to_json(),
                "variations": request.variations,
                "references": references,
                "blend": request.blend,
                "repair": request.repair,
                "created": time.time(),
            },
        )
    size = (layer.get_width(), layer.get_height())
    return Capture(image, layer, size, request.visible, box, on_canvas, snapshot, prepared)


def offsets(layer: Gimp.Layer) -> tuple[int, int]:
    _ok, x, y = layer.get_offsets()
    return x, y


def selection_bounds(image: Gimp.Image) -> Box:
    _ok, _there, x1, y1, x2, y2 = Gimp.Selection.bounds(image)
    return Box(x1, y1, x2 - x1, y2 - y1)


def _write_references(folder: Path, request: Request, room: int) -> list[str]:
    names: list[str] = []
    count = len(request.reference_layers) + len(request.reference_files)
    if count > room:
        raise CallingError(
            _("The service takes at most {room} references with this edit, not {count}.").format(
                room=room, count=count
            )
        )

    def write(drawable: Gimp.Drawable) -> None:
        name = f"reference-{len(names) + 1}.png"
        extent = Box(0, 0, drawable.get_width(), drawable.get_height())
        pixels.write_png(drawable.get_buffer(), extent, folder / name, drawable.has_alpha())
        names.append(name)

    for drawable in request.reference_layers:
        write(drawable)
    for path in request.reference_files:
        opened = _open(path)
        try:
            write(Gimp.Layer.new_from_visible(opened, opened, "reference"))
        finally:
            opened.delete()
    return names


def _open(path: str) -> Gimp.Image:
    message = _("The reference “{path}” can't be opened: take it off the list.").format(path=path)
    try:
        opened = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
    except Exception as error:
        raise EditError(message) from error
    if opened is None:
        raise EditError(message)
    return opened
