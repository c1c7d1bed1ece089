"""From the image to the job folder: what is edited, and the pixels that leave GIMP.

Everything that the import will need is remembered here as it was, for the user goes on working
while the service thinks.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from gi.repository import Gegl, Gimp, Gio

from plugin import job, region, settings
from plugin.gimp import landmarks, pixels
from plugin.gimp.landmarks import Landmarks
from plugin.gimp.messages import CallingError, EditError, NotReplaceable, _
from plugin.gimp.pixels import Picture
from plugin.job import Job, JobRequest
from plugin.limits import MOST_PICTURES
from plugin.region import Box, Region

PLACE = "place.json"
_TITLE = 40
"""Characters of a prompt that name a layer."""


@dataclass(frozen=True)
class Request:
    """The arguments of `dimilinks-edit`, by the same names.

    `titled` edits were asked for in a window: their layers are named after the prompt, and
    variations share a group. Scripts get plain names and no prompt in the image.
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


@dataclass(frozen=True)
class Place:
    """Where the results of a job belong, and as what: `place.json`.

    `layer` is the tattoo of the one that was edited; `visible` that it was the canvas. `on_canvas`
    is what was sent of it, in the canvas's coordinates, and `marks` what tells where that is by
    now. `name` is what a result's layer is called, `sandbox` whether the sandbox made it.
    """

    layer: int
    visible: bool
    name: str
    sandbox: bool
    on_canvas: Box
    marks: Landmarks

    def to_json(self) -> dict[str, Any]:
        """Return it as the object that `from_json` reads."""
        return {
            **vars(self),
            "on_canvas": astuple(self.on_canvas),
            "marks": self.marks.to_json(),
        }

    @staticmethod
    def from_json(saved: Any) -> Place:
        """Read it again. Raises KeyError, TypeError or ValueError if it is damaged."""
        on_canvas = Box.from_json(saved["on_canvas"])
        marks = Landmarks.from_json(saved["marks"])
        layer, name = saved["layer"], saved["name"]
        visible, sandbox = saved["visible"], saved["sandbox"]
        flags = isinstance(visible, bool) and isinstance(sandbox, bool)
        if not (flags and isinstance(name, str) and isinstance(layer, int)):
            raise TypeError
        if on_canvas.empty or (on_canvas.width, on_canvas.height) != (
            marks.box.width,
            marks.box.height,
        ):
            raise ValueError
        name.encode()
        return Place(layer, visible, name, sandbox, on_canvas, marks)


@dataclass(frozen=True)
class Capture:
    """One layer, or the canvas, as it was when its edit began.

    `selection` is a copy of the selection where it was sent, in the canvas's coordinates; None for
    a whole-layer edit.
    """

    image: Gimp.Image
    layer: Gimp.Layer
    request: Request
    place: Place
    selection: Gegl.Buffer | None
    keeps_alpha: bool
    job: Job

    @property
    def box(self) -> Box:
        """What was sent, in the layer's coordinates (the canvas's for `visible`)."""
        return self.place.marks.box

    @property
    def on_canvas(self) -> Box:
        """The same place in the canvas's coordinates."""
        return self.place.on_canvas


def targets(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> list[Gimp.Layer]:
    """Return the layers to edit, each once.

    Raises EditError for one that can't be edited at all, NotReplaceable for one that needs a new
    layer.
    """
    if image.get_floating_sel() is not None:
        raise EditError(
            _(
                "The image has a floating selection: anchor it, or make it a layer (Layer ▸ To New "
                "Layer), then edit."
            )
        )
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
            raise NotReplaceable(
                _(
                    "Everything visible can't replace one layer: it would paint the others into "
                    "it. Choose a new layer, or edit the layer alone."
                )
            )
        for layer in chosen:
            check_replaceable(layer)
    return chosen


def check_replaceable(layer: Gimp.Layer) -> None:
    """Raise NotReplaceable if new pixels can't be written into `layer`."""
    kinds = (
        (layer.is_group(), _("a layer group")),
        (layer.is_text_layer(), _("a text layer")),
        # Only GIMP 3.2 has these two.
        (hasattr(layer, "is_link_layer") and layer.is_link_layer(), _("a link layer")),
        (hasattr(layer, "is_vector_layer") and layer.is_vector_layer(), _("a vector layer")),
        (_locked(layer), _("locked")),
    )
    for is_so, kind in kinds:
        if is_so:
            raise NotReplaceable(
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
    plan = planned(image, layer, request)
    with picture(image, layer, request, plan.region.content) as shown:
        return _capture(image, layer, shown, request, plan)


@contextlib.contextmanager
def picture(
    image: Gimp.Image, layer: Gimp.Layer, request: Request, box: Box | None = None
) -> Iterator[Picture]:
    """Give the pixels that are edited; at least those in `box` if only these are needed.

    For a new layer that is what the layer looks like by itself: its mask and its filters don't
    apply to the result. They go on applying to a layer that is replaced, so there it is the
    layer's own pixels. So an edit that changes nothing leaves the image looking as it did, unless
    a new layer has to be laid over what is seen through its layer already.
    """
    if request.visible:
        with _seen(image) as seen:
            yield seen
    elif as_it_is(layer, request):
        yield pixels.picture(layer)
    else:
        box = box or pixels.extent(layer)
        with _alone(layer, box) as alone, _seen(alone) as seen:
            yield pixels.moved(seen, box)


def as_it_is(layer: Gimp.Layer, request: Request) -> bool:
    """Whether an edit of the layer, not of everything visible, takes its own pixels."""
    return request.replace or not (_shaped_by_mask(layer) or _filtered(layer))


@contextlib.contextmanager
def _seen(image: Gimp.Image) -> Iterator[Picture]:
    """Give everything visible, in a layer that no image holds and that is let go of."""
    seen = Gimp.Layer.new_from_visible(image, image, "seen")
    try:
        yield pixels.picture(seen)
    finally:
        seen.delete()


def _shaped_by_mask(layer: Gimp.Layer) -> bool:
    return layer.get_mask() is not None and bool(layer.get_apply_mask())


def _filtered(layer: Gimp.Layer) -> bool:
    return any(each.get_visible() for each in layer.get_filters())


@contextlib.contextmanager
def _alone(layer: Gimp.Layer, box: Box) -> Iterator[Gimp.Image]:
    """Give an image that shows what is in `box` of the layer and nothing else.

    GIMP draws no more than the canvas, whatever reaches beyond it.
    """
    image = layer.get_image()
    base = image.get_base_type()
    if base == Gimp.ImageBaseType.INDEXED:
        base = Gimp.ImageBaseType.RGB
    alone = Gimp.Image.new_with_precision(box.width, box.height, base, image.get_precision())
    try:
        profile = image.get_color_profile()
        if profile is not None:
            alone.set_color_profile(profile)
        copy = Gimp.Layer.new_from_drawable(layer, alone)
        alone.insert_layer(copy, None, 0)
        copy.set_offsets(-box.x, -box.y)
        copy.set_visible(True)
        copy.set_opacity(100)
        copy.set_mode(Gimp.LayerMode.NORMAL)
        copy.set_show_mask(False)
        yield alone
    finally:
        alone.delete()


@dataclass(frozen=True)
class Plan:
    """What would be sent of a layer, or of the canvas.

    `origin` is where the coordinates of `region` and `wanted`, which is what is to be edited,
    begin on the canvas. `masked`: by the selection.
    """

    region: Region
    wanted: Box
    origin: tuple[int, int]
    masked: bool


def planned(image: Gimp.Image, layer: Gimp.Layer, request: Request) -> Plan:
    """Plan the edit of `layer`. Raises EditError if the selection misses it."""
    canvas = Box(0, 0, image.get_width(), image.get_height())
    dx, dy = (0, 0) if request.visible else offsets(layer)
    extent = canvas if request.visible else pixels.extent(layer)
    wanted = extent
    masked = request.use_selection and not Gimp.Selection.is_empty(image)
    if masked:
        there = selection_bounds(image).intersection(canvas).intersection(extent.moved(dx, dy))
        if not there.empty:
            there = pixels.selected_bounds(image.get_selection().get_buffer(), there)
        if there.empty:
            raise EditError(
                _(
                    "The selection doesn't touch the layer “{name}”: select a part of it, or "
                    "select nothing to edit the whole layer."
                ).format(name=layer.get_name())
            )
        wanted = there.moved(-dx, -dy)
    context = request.context if request.context >= 0 else None
    try:
        sent = region.plan(
            wanted, extent, request.size, request.resolution, settings.ceiling(), context
        )
    except ValueError as error:
        raise CallingError(str(error)) from error
    return Plan(sent, wanted, (dx, dy), masked)


def _result_name(layer: Gimp.Layer, request: Request) -> str:
    if request.titled:
        return shortened(request.prompt)
    return _("{layer} edit").format(layer=_("Visible") if request.visible else layer.get_name())


def shortened(prompt: str) -> str:
    """Return the beginning of a prompt, as a title."""
    words = " ".join(prompt.split())
    return words if len(words) <= _TITLE else words[: _TITLE - 1].rstrip() + "…"


def _capture(
    image: Gimp.Image, layer: Gimp.Layer, shown: Picture, request: Request, plan: Plan
) -> Capture:
    box, masked, (dx, dy) = plan.region.content, plan.masked, plan.origin
    selection = image.get_selection().get_buffer()
    canvas = Box(0, 0, image.get_width(), image.get_height())
    on_canvas = box.moved(dx, dy)
    keeps_alpha = not masked or (
        not request.visible
        and (bool(layer.get_lock_alpha()) or (not request.replace and _shaped_by_mask(layer)))
    )
    if masked and keeps_alpha and not pixels.shows(shown.buffer, plan.wanted):
        raise EditError(
            _(
                "Nothing of “{name}” shows where you selected, and its mask or its locked alpha "
                "would hide the result as well: select another part, or unlock the alpha, or "
                "disable the mask."
            ).format(name=layer.get_name())
        )
    place = Place(
        layer.get_tattoo(),
        request.visible,
        _result_name(layer, request),
        settings.base_url() == settings.SANDBOX,
        on_canvas,
        landmarks.take(image if request.visible else layer, shown, box),
    )
    snapshot = None
    with job.prepare() as folder:
        pixels.write_png(shown, box, folder / "source.png")
        if masked:
            snapshot = selection.create_sub_buffer(
                pixels.rectangle(on_canvas.intersection(canvas))
            ).dup()
            pixels.write_mask_png(selection, on_canvas, folder / "mask.png")
        references = _write_references(folder, request, MOST_PICTURES - 1 - masked)
        (folder / PLACE).write_text(json.dumps(place.to_json()), "utf-8")
        asked = JobRequest(
            request.prompt,
            request.model,
            plan.region,
            request.variations,
            tuple(references),
            request.blend,
            request.repair,
            keeps_alpha,
            time.time(),
        )
        prepared = job.publish(folder, asked)
    return Capture(image, layer, request, place, snapshot, keeps_alpha, prepared)


def recalled(done: Job, image: Gimp.Image) -> Capture:
    """Return what is remembered of a job's capture, for its results to become layers of `image`.

    Raises EditError if too little of it is left.
    """
    try:
        place = Place.from_json(json.loads((done.folder / PLACE).read_text("utf-8")))
        asked = done.request
        size = (place.on_canvas.width, place.on_canvas.height)
        masked = (done.folder / "mask.png").exists()
        if masked and pixels.png_size(done.folder / "mask.png") != size:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EditError(
            _(
                "Where this edit belongs is not known any more. Its pictures are in {folder}: "
                "bring them in with File ▸ Open as Layers…"
            ).format(folder=done.folder)
        ) from error
    request = Request(
        prompt=asked.prompt,
        model=asked.model,
        size="auto",
        resolution="auto",
        output="new-layer",
        source="visible" if place.visible else "layer",
        use_selection=True,
        variations=asked.variations,
        reference_layers=[],
        reference_files=[],
        blend=asked.blend,
        context=-1,
        repair=asked.repair,
        titled=True,
    )
    selection = None
    if masked:
        on_canvas = place.on_canvas
        whole = Box(0, 0, *size)
        shares = pixels.linear_gray(done.folder / "mask.png", whole)
        selection = Gegl.Buffer.new("Y u8", *astuple(on_canvas))
        shares.copy(
            pixels.rectangle(whole), Gegl.AbyssPolicy.NONE, selection, pixels.rectangle(on_canvas)
        )
    layer = image.get_layer_by_tattoo(place.layer)
    keeps_alpha = selection is None if asked.keep_alpha is None else asked.keep_alpha
    return Capture(image, layer, request, place, selection, keeps_alpha, done)


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

    def write(shown: Picture) -> None:
        name = f"reference-{len(names) + 1}.png"
        pixels.write_png(shown, pixels.covered(shown.buffer), folder / name)
        names.append(name)

    for drawable in request.reference_layers:
        write(pixels.picture(drawable))
    for path in request.reference_files:
        opened = _open(path)
        try:
            with _seen(opened) as seen:
                write(seen)
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
