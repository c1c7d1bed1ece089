"""Capture an edit: copy what it is made from, and write the pixels that leave GIMP to a job folder.

The user continues to work during an edit. The selection and the layers are therefore copied at one
moment, before anything slow begins. Everything that placing the result needs later is recorded as
it was at that moment.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gi.repository import Babl, Gegl, Gimp, Gio

from plugin import job, region, settings
from plugin.gimp import landmarks, pixels
from plugin.gimp.landmarks import Landmarks, Look
from plugin.gimp.layers import (
    all_seen,
    ancestors,
    check_open,
    check_replaceable,
    copy_of,
    drawn,
    let_go,
    looks_like_itself,
    made,
    new_layer,
    offsets,
    shaped_by_mask,
)
from plugin.gimp.messages import CallingError, EditError, NotReplaceable, _
from plugin.gimp.pixels import Picture
from plugin.job import Job, JobRequest
from plugin.limits import MOST_PICTURES
from plugin.region import Box, Region

PLACE = "place.json"
_TITLE = 40
"""The maximum length of a prompt that is used as the name of a layer, in characters."""


@dataclass(frozen=True)
class Request:
    """The arguments of `dimilinks-edit`, with the same names.

    `titled` is set if a person asked for the edit, in the window or with *Repeat*. The result
    layers are then named after the prompt, and variations are put into a group. Scripts get layers
    with plain names, and the image contains no prompt.
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
    """Where the results of a job belong in the image, as saved in `place.json`.

    `layer` is the tattoo of the layer that was edited. `visible` is true if everything visible was
    edited instead. `on_canvas` is the part that was sent, in canvas coordinates, and `marks`
    contains what is needed to find this part again. `name` is the name of the result layers.
    `sandbox` is true if the sandbox made the results.
    """

    layer: int
    visible: bool
    name: str
    sandbox: bool
    on_canvas: Box
    marks: Landmarks

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` can read."""
        return {
            **vars(self),
            "on_canvas": astuple(self.on_canvas),
            "marks": self.marks.to_json(),
        }

    @staticmethod
    def from_json(saved: Any) -> Place:
        """Read an object that `to_json` returned.

        Raises KeyError, TypeError or ValueError if the object is damaged.
        """
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
    """A layer or the canvas as it was when its edit began, and the job of the edit.

    `selection` is a copy of the selection in canvas coordinates, or None if the whole layer or
    canvas is edited. `keeps_alpha` is true if the result gets the alpha of the source.
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
        """The part that was sent, in layer coordinates, or canvas coordinates if `visible`."""
        return self.place.marks.box

    @property
    def on_canvas(self) -> Box:
        """The same part in canvas coordinates."""
        return self.place.on_canvas


def targets(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> list[Gimp.Layer]:
    """Return the layers to edit, without duplicates.

    A layer mask stands for its layer. If everything visible is edited, only the first layer is
    returned. Raises NotReplaceable if the result has to go to a new layer, CallingError if
    `drawables` can't be edited, and EditError if the image has a floating selection.
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


class Selected(NamedTuple):
    """A selection as it was at one moment, in canvas coordinates.

    `bounds` is the bounding box of everything that is selected. `shares` contains at least the
    values inside `bounds`; outside, nothing is selected.
    """

    shares: Gegl.Buffer
    bounds: Box


def selection_of(image: Gimp.Image) -> Selected | None:
    """Copy the current selection, or return None if nothing is selected. Raises EditError.

    GIMP copies the selection in one step, into a mask that is not added to any layer. The bounds
    are read before and after. If they are the same, they belong to the copy; otherwise the
    selection is copied again.
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
    """Copy the values of a mask to `place` in a new buffer.

    Reading this buffer later needs no calls to GIMP.
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
    """The layer or canvas that is edited, as it is at one moment.

    `extent` is all of it, in its own coordinates, and `origin` is the position of these coordinates
    on the canvas. `selected` is None if the whole layer or canvas is edited.
    """

    name: str
    extent: Box
    origin: tuple[int, int]
    canvas: Box
    selected: Selected | None


def edited(
    image: Gimp.Image, layer: Gimp.Layer, request: Request, selected: Selected | None
) -> Edited:
    """Describe what an edit of `layer` is applied to. `layer` may be a copy of the real layer."""
    canvas = Box(0, 0, image.get_width(), image.get_height())
    if request.visible:
        return Edited(layer.get_name(), canvas, (0, 0), canvas, selected)
    return Edited(layer.get_name(), pixels.extent(layer), offsets(layer), canvas, selected)


@dataclass(frozen=True)
class Plan:
    """The part of a layer or of the canvas that is sent.

    `wanted` is the part to be edited. It and `region` are in the coordinates of the layer or
    canvas.
    """

    region: Region
    wanted: Box


def planned(what: Edited, request: Request) -> Plan:
    """Plan which part is sent for an edit.

    Raises EditError if the selection doesn't touch the layer or canvas, and CallingError if the
    size is impossible or a setting can't be used.
    """
    wanted = what.extent
    if what.selected is not None:
        dx, dy = what.origin
        there = what.selected.bounds.intersection(what.canvas).intersection(wanted.moved(dx, dy))
        if not there.empty:
            there = pixels.selected_bounds(what.selected.shares, there)
        if there.empty:
            raise EditError(
                _(
                    "The selection doesn't touch the layer “{name}”: select a part of it, or "
                    "select nothing to edit the whole layer."
                ).format(name=what.name)
            )
        wanted = there.moved(-dx, -dy)
    context = request.context if request.context >= 0 else None
    try:
        sent = region.plan(
            wanted, what.extent, request.size, request.resolution, settings.ceiling(), context
        )
    except ValueError as error:
        raise CallingError(str(error)) from error
    return Plan(sent, wanted)


def _result_name(name: str, request: Request) -> str:
    if request.titled:
        return shortened(request.prompt)
    return _("{layer} edit").format(layer=_("Visible") if request.visible else name)


def shortened(prompt: str) -> str:
    """Return the prompt, cut to the length of a title."""
    words = " ".join(prompt.split())
    return words if len(words) <= _TITLE else words[: _TITLE - 1].rstrip() + "…"


def capture(image: Gimp.Image, layers: Sequence[Gimp.Layer], request: Request) -> list[Capture]:
    """Export what the edit of each layer needs into a new job for each, and return the captures.

    The selection and the layers are copied before anything slow begins, so that later changes by
    the user only affect the next edit. Raises EditError if an edit can't be made or its result
    would be invisible, and OSError if a job can't be written. No job is left behind in these cases.
    """
    with contextlib.ExitStack() as copies:
        selected = selection_of(image) if request.use_selection else None
        sources = [_Source.of(image, layer, request, selected, copies) for layer in layers]
        references = [_reference(each, copies) for each in request.reference_layers]
        captures: list[Capture] = []
        try:
            for source in sources:
                captures.append(_exported(source, request, references))
        except BaseException:
            for done in captures:
                done.job.discard()
            raise
    return captures


def _reference(layer: Gimp.Drawable, copies: contextlib.ExitStack) -> Gimp.Layer:
    """Copy a reference layer. The copy exists until `copies` is closed. Raises EditError."""
    try:
        return copies.enter_context(copy_of(layer))
    except EditError as error:
        raise EditError(
            _("A reference layer was deleted, or its image was closed: take it off the list.")
        ) from error


@dataclass(frozen=True)
class _Source:
    """A layer or the canvas, with a copy of its pixels, as the source of an edit.

    `copy` is a copy of the layer, or one layer with everything visible. It is in no image. `tattoo`
    is that of the original layer.
    """

    image: Gimp.Image
    layer: Gimp.Layer
    tattoo: int
    copy: Gimp.Layer
    what: Edited

    @staticmethod
    def of(
        image: Gimp.Image,
        layer: Gimp.Layer,
        request: Request,
        selected: Selected | None,
        copies: contextlib.ExitStack,
    ) -> _Source:
        """Copy what is edited. The copy exists until `copies` is closed. Raises EditError."""
        name, tattoo = layer.get_name(), layer.get_tattoo()
        copy = copies.enter_context(all_seen(image) if request.visible else copy_of(layer))
        what = replace(edited(image, copy, request, selected), name=name)
        return _Source(image, layer, tattoo, copy, what)

    def look(self, request: Request) -> Look:
        """Return a coarse picture of the layer or canvas, by which a change is recognised."""
        shown = self.image if request.visible else self.layer
        # GIMP may have cached a thumbnail of the original, but would have to make one of a copy.
        return landmarks.glance(shown if shown.is_valid() else self.copy)


def _exported(source: _Source, request: Request, references: Sequence[Gimp.Layer]) -> Capture:
    """Write the job of one edit, and return its capture. Raises EditError and OSError."""
    plan = planned(source.what, request)
    box = plan.region.content
    if request.visible or request.replace or looks_like_itself(source.copy):
        return _written(source, pixels.picture(source.copy), request, plan, references)
    with drawn(source.copy, box) as shown:
        return _written(source, shown, request, plan, references)


def _written(
    source: _Source,
    shown: Picture,
    request: Request,
    plan: Plan,
    references: Sequence[Gimp.Layer],
) -> Capture:
    box, what, copy = plan.region.content, source.what, source.copy
    on_canvas = box.moved(*what.origin)
    selection = what.selected.shares if what.selected is not None else None
    keeps_alpha = selection is None or (
        not request.visible
        and (bool(copy.get_lock_alpha()) or (not request.replace and shaped_by_mask(copy)))
    )
    _check_shows(source, shown, request, plan, keeps_alpha)
    place = Place(
        source.tattoo,
        request.visible,
        _result_name(what.name, request),
        settings.base_url() == settings.SANDBOX,
        on_canvas,
        landmarks.take(source.look(request), (what.extent.width, what.extent.height), shown, box),
    )
    with job.prepare() as folder:
        pixels.write_png(shown, box, folder / "source.png")
        if selection is not None:
            pixels.write_mask_png(selection, on_canvas, folder / "mask.png")
        room = MOST_PICTURES - 1 - (selection is not None)
        names = _write_references(folder, request, references, room)
        (folder / PLACE).write_text(json.dumps(place.to_json()), "utf-8")
        asked = JobRequest(
            request.prompt,
            request.model,
            plan.region,
            request.variations,
            tuple(names),
            request.blend,
            request.repair,
            keeps_alpha,
            time.time(),
        )
        prepared = job.publish(folder, asked)
    return Capture(source.image, source.layer, request, place, selection, keeps_alpha, prepared)


def _check_shows(
    source: _Source, shown: Picture, request: Request, plan: Plan, keeps_alpha: bool
) -> None:
    """Raise EditError if no part of the result would be visible.

    The user would have to pay for it nevertheless. A result that keeps the alpha of its source is
    visible only where the source is. A replaced layer keeps its layer mask. A result gets the
    opacity of its layer.
    """
    what, copy = source.what, source.copy
    wanted = plan.wanted
    hidden = False
    if keeps_alpha and shown.alpha:
        hidden = not _any_edited(functools.partial(pixels.alpha, shown), wanted, what)
    if request.replace and shaped_by_mask(copy):
        mask = copy.get_mask().get_buffer()
        shown_by_mask = functools.partial(pixels.shares, mask)
        hidden = hidden or not _any_edited(shown_by_mask, wanted, what)
    if hidden and what.selected is not None:
        raise EditError(
            _(
                "Nothing of “{name}” shows where you selected, and its mask or its locked alpha "
                "would hide the result as well: select another part, or unlock the alpha, or "
                "disable the mask."
            ).format(name=what.name)
        )
    if hidden:
        raise EditError(
            _(
                "Nothing of “{name}” shows: it is transparent, or its mask hides it, and the "
                "result would be hidden as well. Select the part to fill (Select ▸ All for "
                "everything), or disable the mask."
            ).format(name=what.name)
        )
    if not request.visible and copy.get_opacity() == 0:
        raise EditError(
            _(
                "The opacity of “{name}” is 0, and the result would have the same: raise it first."
            ).format(name=what.name)
        )


def _any_edited(read: Callable[[Box], bytes], box: Box, what: Edited) -> bool:
    """Return whether `read` gives a value other than 0 for any edited pixel of `box`."""
    if what.selected is None:
        return pixels.any_in(read, box)
    return pixels.any_selected(read, box, what.selected.shares, box.moved(*what.origin))


def hidden_by(layer: Gimp.Layer, request: Request) -> str:
    """Return a message that names what hides the result, or "" if nothing does."""
    if request.visible:
        return ""
    for each in ancestors(layer):
        if each is layer and not request.replace:
            # A new layer is visible even if the layer that it was made from is hidden.
            continue
        if not each.get_visible() or each.get_opacity() == 0:
            return _("The result is hidden with “{name}”: show that to see it.").format(
                name=each.get_name()
            )
    return ""


def recalled(done: Job, image: Gimp.Image) -> Capture:
    """Recreate the capture of an earlier job, so that its results can become layers of `image`.

    Arguments that the job doesn't contain get default values. The `layer` of the capture is None if
    `image` has no layer with its tattoo. Raises EditError if the files of the job are missing or
    damaged.
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


def _write_references(
    folder: Path, request: Request, layers: Sequence[Gimp.Layer], room: int
) -> list[str]:
    names: list[str] = []
    count = len(layers) + len(request.reference_files)
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

    for layer in layers:
        write(pixels.picture(layer))
    for path in request.reference_files:
        opened = _open(path)
        try:
            with all_seen(opened) as seen:
                write(pixels.picture(seen))
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
    # Rotate the picture as its EXIF data say, which is how the user sees it elsewhere. GIMP does
    # this only when it opens a file in a window, and leaves it to the caller otherwise.
    opened.policy_rotate(False)
    return opened
