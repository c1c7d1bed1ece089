"""Capture an edit: copy the layers and the selection, and write a job folder with their pixels.

The user continues to work during an edit. The layers and the selection are therefore copied at one
moment, before anything slow begins. The job also records where the pixels were at that moment,
because the result is placed on these pixels later.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from gi.repository import Gegl, Gimp, Gio

from plugin import job, settings
from plugin.errors import CallingError, UserError
from plugin.gimp.canvas import landmarks, pixels
from plugin.gimp.canvas.landmarks import Landmarks, Look
from plugin.gimp.canvas.layers import (
    all_seen,
    ancestors,
    copy_of,
    drawn,
    looks_like_itself,
    shaped_by_mask,
)
from plugin.gimp.canvas.pixels import Picture
from plugin.gimp.planning import (
    Edited,
    Plan,
    Request,
    Selected,
    edited,
    planned,
    selection_of,
    shortened,
)
from plugin.gimp.translation import _
from plugin.job import Job, JobRequest
from plugin.limits import MOST_PICTURES
from plugin.region import Box

PLACE = "place.json"
"""The name of the file in the job folder that contains a `Place`."""


@dataclass(frozen=True)
class Place:
    """Where the results of a job belong in the image: the contents of `place.json`.

    `layer` is the tattoo of the layer that was edited: a number by which GIMP recognises the layer
    even in a reopened image. `visible` is true if everything visible was edited instead of this
    layer. `on_canvas` is the box that was sent, in canvas coordinates. `marks` are the landmarks by
    which the pixels in this box are found again. `name` is the name of the result layers. `sandbox`
    is true if the results come from the sandbox, the built-in stand-in for the service.
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
    """The edit of one layer or of the canvas, as it was when the edit began, and the job.

    `layer` is the layer itself, so the user can change or delete it during the edit. `selection` is
    a copy of the selection in canvas coordinates, or None if the whole layer or canvas is edited.
    `keeps_alpha` is true if the results get the alpha of the pixels that were sent.
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
        """The box that was sent: in layer coordinates, or in canvas coordinates if `visible`."""
        return self.place.marks.box

    @property
    def on_canvas(self) -> Box:
        """The box that was sent, in canvas coordinates."""
        return self.place.on_canvas


def _result_name(name: str, request: Request) -> str:
    if request.titled:
        return shortened(request.prompt)
    return _("{layer} edit").format(layer=_("Visible") if request.visible else name)


def capture(image: Gimp.Image, layers: Sequence[Gimp.Layer], request: Request) -> list[Capture]:
    """Write a new job for the edit of each layer, and return the captures.

    The selection and the layers are copied before anything slow begins, so that later changes by
    the user don't affect these edits. Raises UserError if an edit can't be made or its result would
    be invisible, and OSError if a job can't be written. In both cases, the jobs that were already
    written are removed.
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
    """Copy a layer that the user has chosen as a reference picture.

    The copy is deleted when `copies` is closed. Raises UserError.
    """
    try:
        return copies.enter_context(copy_of(layer))
    except UserError as error:
        raise UserError(
            _(
                "A reference layer was deleted, or its image was closed. Remove it from the "
                "list of reference pictures, then try again."
            )
        ) from error


@dataclass(frozen=True)
class _Source:
    """The source of an edit: a layer or the canvas, with a copy of its pixels.

    `copy` is in no image. It is either a copy of `layer`, or a single layer that shows everything
    visible. `tattoo` is the tattoo of `layer`. `what` describes the layer or canvas and the
    selection.
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
        """Copy the layer, or everything visible.

        The copy is deleted when `copies` is closed. Raises UserError.
        """
        name, tattoo = layer.get_name(), layer.get_tattoo()
        copy = copies.enter_context(all_seen(image) if request.visible else copy_of(layer))
        what = replace(edited(image, copy, request, selected), name=name)
        return _Source(image, layer, tattoo, copy, what)

    def look(self, request: Request) -> Look:
        """Return a coarse picture of the layer or canvas, by which later changes are recognised."""
        shown = self.image if request.visible else self.layer
        # Use the original if it still exists, because GIMP has often cached its thumbnail already.
        # For a copy, GIMP would have to make the thumbnail first.
        return landmarks.glance(shown if shown.is_valid() else self.copy)


def _exported(source: _Source, request: Request, references: Sequence[Gimp.Layer]) -> Capture:
    """Plan the edit of `source`, write the job, and return the capture.

    Raises UserError and OSError.
    """
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
    """Raise UserError if no part of the result would be visible.

    This saves the user from paying for such a result. A result can be invisible for three reasons.
    A result that keeps the alpha of its source is visible only where the source is visible. The
    result in a replaced layer is visible only where the layer mask shows it. And the result has the
    same opacity as the edited layer, which can be 0.
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
        raise UserError(
            _(
                "Nothing of “{name}” is visible in the selection, and its layer mask or "
                "locked alpha channel would hide the result, too. Select another part, unlock "
                "the alpha channel, or disable the mask."
            ).format(name=what.name)
        )
    if hidden:
        raise UserError(
            _(
                "Nothing of “{name}” is visible: it is transparent, or its layer mask hides "
                "it. The result would be hidden, too. Select the part to fill (Select ▸ All "
                "for everything), or disable the mask."
            ).format(name=what.name)
        )
    if not request.visible and copy.get_opacity() == 0:
        raise UserError(
            _(
                "The opacity of “{name}” is 0, so the result would be invisible, too. Raise "
                "the opacity first."
            ).format(name=what.name)
        )


def _any_edited(read: Callable[[Box], bytes], box: Box, what: Edited) -> bool:
    """Return whether `read` returns a value other than 0 for any pixel of `box`.

    If there is a selection, only the selected pixels count.
    """
    if what.selected is None:
        return pixels.any_in(read, box)
    return pixels.any_selected(read, box, what.selected.shares, box.moved(*what.origin))


def hidden_by(layer: Gimp.Layer, request: Request) -> str:
    """Return a message that names the layer or group that hides the result.

    Return "" if the result is not hidden.
    """
    if request.visible:
        return ""
    for each in ancestors(layer):
        if each is layer and not request.replace:
            # A new layer is visible even if the layer that it was made from is hidden.
            continue
        if not each.get_visible() or each.get_opacity() == 0:
            return _(
                "The result is invisible, because “{name}” is hidden or its opacity is 0. "
                "Show this layer, or raise its opacity."
            ).format(name=each.get_name())
    return ""


def recalled(done: Job, image: Gimp.Image) -> Capture:
    """Recreate the capture of an earlier job, so that its results can become layers of `image`.

    The `request` of the capture has default values for the arguments that the job doesn't contain.
    The `layer` of the capture is None if no layer of `image` has the tattoo of the layer that was
    edited. Raises UserError if files of the job are missing or damaged.
    """
    try:
        place = Place.from_json(json.loads((done.folder / PLACE).read_text("utf-8")))
        asked = done.read_request()
        size = (place.on_canvas.width, place.on_canvas.height)
        masked = (done.folder / "mask.png").exists()
        if masked and pixels.png_size(done.folder / "mask.png") != size:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError) as error:
        raise UserError(
            _(
                "Dimilinks no longer knows where in the image this edit belongs. Open the "
                "pictures in {folder} with File ▸ Open as Layers…"
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
            _(
                "The service accepts at most {room} reference pictures with this edit, but "
                "there are {count}. Remove some from the list."
            ).format(room=room, count=count)
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
    message = _(
        "The reference picture “{path}” can't be opened. Remove it from the list of reference "
        "pictures, then try again."
    ).format(path=path)
    try:
        opened = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
    except Exception as error:
        raise UserError(message) from error
    if opened is None:
        raise UserError(message)
    # Rotate the picture as its EXIF data say, because other programs show it to the user this way.
    # GIMP itself rotates a picture only when it opens the file in a window.
    opened.policy_rotate(False)
    return opened
