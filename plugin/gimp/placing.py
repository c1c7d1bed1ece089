"""Place the results of a job in the image, as new layers or in the edited layer itself.

Slow work is done on layers that are in no image, where the user can't interfere. Inserting new
layers then takes milliseconds. The changes to the image don't depend on the selection of that
moment. Everything outside the selection that was sent stays the same, bit for bit: the layer mask
of a new layer is exactly 0 there, and only the pixels inside a replaced layer are written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import astuple, dataclass, replace

from gi.repository import Babl, Gegl, Gimp

from plugin import lock, settings
from plugin.gimp import landmarks, launch, pixels, results, write_procedure, writing
from plugin.gimp.capture import Capture, recalled
from plugin.gimp.layers import (
    all_seen,
    check_replaceable,
    copy_of,
    drawn,
    keeping,
    let_go,
    looks_like_itself,
    made,
    new_layer,
    offsets,
    unlocked,
)
from plugin.gimp.messages import EditError, _
from plugin.gimp.pixels import Picture
from plugin.gimp.undo import keep_for_undo, one_step
from plugin.gimp.writing import Inside, Written
from plugin.job import Job
from plugin.region import Box

_REPLACING = 1
"""The variation that replaces a layer. There is only one."""
_QUICK_BYTES = 30_000_000, 9_000_000
"""The most bytes that this process writes itself, for a whole layer and for a selected part.

This is only done if nobody can lock or delete the layer meanwhile. Starting another process would
take longer than writing.
"""
_CLIPPING = {
    Gimp.LayerCompositeMode.CLIP_TO_LAYER: Gimp.LayerCompositeMode.UNION,
    Gimp.LayerCompositeMode.INTERSECTION: Gimp.LayerCompositeMode.CLIP_TO_BACKDROP,
}
"""The composite modes that clip what is below a layer, and the same modes without this effect."""
_OTHERS_TAKE = 10
"""Seconds after which a result no longer waits for those of other windows."""
_TRIES = 4
"""The number of attempts to place a result whose layer the user changes at the same moment."""


@dataclass(frozen=True)
class Placed:
    """A result in the image, as a variation of a job and its layer."""

    job: Job
    variation: int
    layer: Gimp.Layer


class _Changed(Exception):
    """The image or the layer is not as it was when the result was prepared."""


def get_ready(capture: Capture) -> None:
    """Prepare the pixel conversions in another thread, as the first result would wait for them."""
    replacing = capture.request.replace
    try:
        if replacing:
            with copy_of(capture.layer) as copy:
                own_format = Babl.get_name(copy.get_format())
        else:
            layer = new_layer(capture.image, "", (1, 1))
            own_format = Babl.get_name(layer.get_format())
            let_go(capture.image, layer)
    except EditError:
        return
    blending = replacing and capture.selection is not None
    threading.Thread(target=pixels.get_ready, args=(own_format, blending), daemon=True).start()


def unplaced(capture: Capture) -> list[int]:
    """Return the numbers of the variations that are fitted but not in the image yet.

    Some variations of a job may arrive later than others.
    """
    return [number for number in _fitted(capture) if number not in capture.job.imported]


def place(captures: list[Capture]) -> tuple[list[Placed], list[str]]:
    """Put the results of all captures into their image, in one undo step.

    Return the placed results, and a message for each result that can't be placed. Such a result
    stays in its job.
    """
    return _put([_result(capture) for capture in captures])


def put_back(done: Job, image: Gimp.Image, variation: int) -> tuple[list[Placed], list[str]]:
    """Put a result of an earlier job into `image` as a new layer, in one undo step.

    It is placed on the pixels that it was made from. If these are not in the image any more, it is
    placed on top, where it was on the canvas, and a message says so. Return the placed results and
    the messages. Raises EditError.
    """
    capture = recalled(done, image)
    box = None
    notes = []
    if capture.request.visible or capture.layer is not None:
        with contextlib.suppress(EditError):
            box = _where(capture)
    if box is None:
        # This raises EditError if the fitted pictures themselves are the problem.
        capture = replace(capture, request=replace(capture.request, source="visible"))
        _check_pictures(capture)
        box = _on_canvas(capture)
        notes.append(
            _(
                "The pixels that the edit was made from are not in this image any more: it lies "
                "on top, where it was then."
            )
        )
    placed, missing = _put([_NewLayers(capture, [variation], box)])
    if missing:
        raise EditError(" ".join(missing))
    return placed, notes


def _on_canvas(capture: Capture) -> Box:
    """Return the box of the edit on the canvas, or centre it if it is outside the canvas now."""
    canvas = Box(0, 0, capture.image.get_width(), capture.image.get_height())
    box = capture.on_canvas
    if not box.intersection(canvas).empty:
        return box
    left, top = (canvas.width - box.width) // 2, (canvas.height - box.height) // 2
    return box.moved(left - box.x, top - box.y)


def _put(wanted: list[_NewLayers | _Replacement]) -> tuple[list[Placed], list[str]]:
    """Put results into the image, in one undo step.

    Return the placed results, and a message for each result that can't be placed.
    """
    missing: list[str] = []

    def made_ready(result: _NewLayers | _Replacement) -> bool:
        try:
            result.get_ready()
            return True
        except EditError as error:
            missing.append(f"{error} {_kept(result.capture)}")
            return False

    with contextlib.ExitStack() as used:
        for result in wanted:
            used.callback(result.let_go)
        ready = [result for result in wanted if made_ready(result)]
        if ready:
            with _in_turn(), one_step(ready[0].capture.image):
                for result in ready:
                    missing += _put_one(result, made_ready)
    placed = [each for result in wanted for each in result.placed]
    for each in placed:
        # Ignore errors of the marks, because the results are in the image already.
        with contextlib.suppress(OSError):
            each.job.mark_imported([each.variation])
    return placed, missing


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """Hold the lock for placing, after waiting for other windows that place results.

    After _OTHERS_TAKE seconds, continue without the lock. If two results were written to the same
    layer at once, they would be mixed, and be one undo step.
    """
    with contextlib.ExitStack() as turn:
        with contextlib.suppress(OSError, settings.Unusable):
            turn.enter_context(lock.held(settings.locks_folder() / launch.PLACING, _OTHERS_TAKE))
        yield


def _put_one(
    result: _NewLayers | _Replacement, made_ready: Callable[[_NewLayers | _Replacement], bool]
) -> list[str]:
    """Put a prepared result into the image, or return a message on why this is not possible.

    Reasons that `made_ready` has reported itself are not returned.
    """
    try:
        for _try in range(_TRIES):
            try:
                result.put()
                return []
            except _Changed:
                result.let_go()
                if not made_ready(result):
                    return []
        raise EditError(_("The edit is ready, but its layer was changed again and again."))
    except EditError as error:
        return [f"{error} {_kept(result.capture)}"]


def _result(capture: Capture) -> _NewLayers | _Replacement:
    if capture.request.replace:
        return _Replacement(capture)
    return _NewLayers(capture, unplaced(capture))


class _NewLayers:
    """Variations of an edit that become new layers.

    `numbers` are the variations. `box` is the place of the results, if it is known already.
    """

    def __init__(self, capture: Capture, numbers: list[int], box: Box | None = None) -> None:
        self.capture = capture
        self.placed: list[Placed] = []
        self._numbers = numbers
        self._box = box
        self._stamp: object = None
        self._made: list[tuple[int, Gimp.Layer]] = []

    def get_ready(self) -> None:
        """Create the layers without inserting them. Raises EditError."""
        capture = self.capture
        _check_there(capture)
        self._stamp = _stamp(capture)
        box = self._box or _where(capture)
        at = box if capture.request.visible else box.moved(*offsets(capture.layer))
        fitted = _fitted(capture)
        for number in self._numbers:
            name = _layer_name(capture, number if len(fitted) > 1 else 0)
            layer = new_layer(capture.image, name, (box.width, box.height))
            self._made.append((number, layer))
            layer.set_offsets(at.x, at.y)
            results.mark(layer, capture.job, number)
            pixels.load_png(capture.job.folder / fitted[number], layer.get_buffer())
            if capture.selection is not None:
                mask = made(layer.create_mask(Gimp.AddMaskType.BLACK))
                _write_shares(capture, mask.get_buffer(), Babl.get_name(mask.get_format()))
                if not layer.add_mask(mask):
                    raise EditError(_("The edit is ready, but its layer could get no mask."))

    def put(self) -> None:
        """Insert the layers.

        Raises EditError, and _Changed if they must be prepared again. After _Changed, none of them
        is in the image.
        """
        capture, image, source = self.capture, self.capture.image, self.capture.layer
        _check_there(capture)
        kind = _kind(image)
        if _stamp(capture) != self._stamp:
            raise _Changed
        parent, position = None, 0
        if not capture.request.visible:
            parent = source.get_parent()
            position = image.get_item_position(source)
            if capture.request.titled:
                position = results.above_earlier(image, source, position)
            for _number, layer in self._made:
                _play_the_part_of(source, layer)
        group = None
        try:
            if len(self._made) > 1 and capture.request.titled:
                group = made(Gimp.GroupLayer.new(image, _layer_name(capture)))
                # In this mode, the variations look as they would without the group.
                group.set_mode(Gimp.LayerMode.PASS_THROUGH)
                results.mark(group, capture.job, 0)
                _insert(image, group, parent, position)
                parent, position = group, 0
            # This order puts the first variation on top.
            for count, (number, layer) in enumerate(self._made):
                _insert(image, layer, parent, position + count)
                self.placed.append(Placed(capture.job, number, layer))
        except EditError:
            if image.is_valid() and _kind(image) != kind:
                self._take_out(group)
                raise _Changed from None
            raise
        if _kind(image) != kind:
            # GIMP also accepts layers whose type or precision differs from that of the image, and
            # would keep them so.
            self._take_out(group)
            raise _Changed
        if group is not None:
            # Of several variations, only the first one is left visible. The others are hidden after
            # all of them were inserted: GIMP 3.0 showed the second one again if it was hidden
            # before.
            for each in self.placed[1:]:
                each.layer.set_visible(False)

    def _take_out(self, group: Gimp.Layer | None) -> None:
        """Remove what was inserted, because the image was converted at the same moment."""
        for each in [*self.placed, group]:
            layer = each.layer if isinstance(each, Placed) else each
            if layer is not None and layer.is_valid():
                self.capture.image.remove_layer(layer)
        self.placed = []

    def let_go(self) -> None:
        """Delete the layers that were not inserted."""
        inserted = {each.layer.get_id() for each in self.placed}
        for _number, layer in self._made:
            if layer.get_id() not in inserted:
                let_go(self.capture.image, layer)
        self._made = []


def _insert(image: Gimp.Image, layer: Gimp.Layer, parent: Gimp.Layer | None, position: int) -> None:
    """Insert a layer. Raises EditError if GIMP doesn't accept it."""
    if not image.insert_layer(layer, parent, position):
        raise EditError(
            _("The edit is ready, but GIMP takes no new layer at its place: {why}").format(
                why=Gimp.get_pdb().get_last_error() or image.get_name()
            )
        )


def _play_the_part_of(source: Gimp.Layer, layer: Gimp.Layer) -> None:
    """Give a result the opacity and the modes of the layer that it was made from."""
    layer.set_opacity(source.get_opacity())
    if source.get_mode() == Gimp.LayerMode.PASS_THROUGH:
        return
    layer.set_mode(source.get_mode())
    # The result of a clipped layer is clipped as well. It must not clip the layers below it,
    # because these would disappear where its layer mask hides it.
    composite = source.get_composite_mode()
    layer.set_composite_mode(_CLIPPING.get(composite, composite))
    layer.set_composite_space(source.get_composite_space())
    layer.set_blend_space(source.get_blend_space())


class _Replacement:
    """A result that is written to the layer that it was made from."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.placed: list[Placed] = []
        self._stamp: object = None
        self._profile = ""
        self._copies = contextlib.ExitStack()
        self._new: Gimp.Layer | None = None
        """A copy of the layer, with the pixels of the result where they may change."""
        self._pixels: Gegl.Buffer | None = None
        """The buffer of this copy, kept so that its pixels need not come from GIMP again."""
        self._box = capture.box

    def get_ready(self) -> None:
        """Compute the new pixels of the layer. Raises EditError."""
        capture, layer = self.capture, self.capture.layer
        _check_there(capture)
        self._stamp = _stamp(capture)
        self._profile = writing.profile(capture.image)
        self._box = _where(capture)
        path = capture.job.folder / _fitted(capture)[_REPLACING]
        self._new = self._copies.enter_context(copy_of(layer))
        self._pixels = new = self._new.get_buffer()
        if capture.selection is None:
            pixels.load_png(path, new)
            return
        shares = Gegl.Buffer.new(pixels.SHARES, 0, 0, self._box.width, self._box.height)
        _write_shares(capture, shares, pixels.SHARES)
        part = self._box.intersection(pixels.extent(self._new))
        if self._colours_only():
            # Blend the colours only, so that neither alpha channel affects them.
            below_format = "RGB float"
            top = Gegl.Buffer.new("R'G'B' u8", 0, 0, self._box.width, self._box.height)
            pixels.load_png(path, top)
        else:
            below_format = Babl.get_name(self._new.get_format())
            top = pixels.read_png(path)
        below = Gegl.Buffer.new(below_format, *astuple(part))
        pixels.copy(new, below, part)
        pixels.lay_over(below, top, shares, self._box, new)

    def put(self) -> None:
        """Write the pixels to the layer.

        Raises EditError, and _Changed if the result must be prepared again. After _Changed, the
        layer has its own pixels.
        """
        capture, layer = self.capture, self.capture.layer
        assert self._new is not None
        _check_there(capture)
        check_replaceable(layer)
        if _stamp(capture) != self._stamp:
            raise _Changed
        if not keep_for_undo(layer):
            raise EditError(
                _("The edit is ready, but “{name}” can't be changed now: {why}").format(
                    name=layer.get_name(), why=Gimp.get_pdb().get_last_error()
                )
            )
        # The user may have resized the layer at this very moment.
        if _stamp(capture) != self._stamp:
            raise _Changed
        at = capture.on_canvas
        part = self._box.intersection(pixels.extent(layer))
        there = part.moved(at.x - self._box.x, at.y - self._box.y)
        inside = Inside(part, capture.selection, there, self._colours_only())
        with copy_of(layer) as before:
            self._write(self._new, before, inside)
            _check_there(capture)
            layer.update(part.x, part.y, part.width, part.height)
            if not self._is_written(before, inside):
                raise _changed_meanwhile(layer.get_name())
        self.placed = [Placed(capture.job, _REPLACING, layer)]

    def _write(self, new: Gimp.Layer, before: Gimp.Layer, inside: Inside) -> None:
        """Write the pixels to the layer, of which `before` is a copy.

        Raises EditError, and _Changed if the layer has its own pixels again.
        """
        layer = self.capture.layer
        name = layer.get_name()
        with self._writer(new, before, inside) as write:
            written = write(False)
            if written == Written.PART and writing.is_alike(layer, before):
                # GIMP kills a process that writes to a layer while it is being locked. The user may
                # already see half of the result, so the rest is written as well.
                with unlocked(layer, "content"):
                    written = write(False)
                # The layer contains a part from the first attempt.
                written = Written.PART if written == Written.NOTHING else written
            if written == Written.PART and layer.is_valid():
                with unlocked(layer, "content"):
                    written = write(True)
            if written == Written.NOTHING:
                raise _Changed
            if written == Written.PART:
                _check_there(self.capture)
                raise _changed_meanwhile(name)

    @contextlib.contextmanager
    def _writer(
        self, new: Gimp.Layer, before: Gimp.Layer, inside: Inside
    ) -> Iterator[Callable[[bool], Written]]:
        """Yield a function that writes the result to the layer.

        Called with True, it takes back what was written. GIMP kills a process that writes to a
        layer while the layer is locked or deleted. Where users work, another process therefore
        writes the pixels.
        """
        layer, image, box = self.capture.layer, self.capture.image, inside.box
        chosen = inside.selection is not None or (inside.colours_only and layer.has_alpha())
        is_quick = box.width * box.height * layer.get_bpp() <= _QUICK_BYTES[chosen]
        # The window class is None if GIMP runs without windows.
        if is_quick and Gimp.wm_class() is None:
            yield lambda back: keeping(image, lambda: self._write_here(before, inside, back))
            return
        with contextlib.ExitStack() as used:
            mask = None
            if inside.selection is not None:
                mask = made(new.create_mask(Gimp.AddMaskType.BLACK))
                used.callback(let_go, image, mask)
                writing.fill_mask(mask, inside)
            arguments = layer, new, before, mask, box, inside.colours_only, self._profile
            yield lambda back: write_procedure.run(*arguments, back)

    def _write_here(self, before: Gimp.Layer, inside: Inside, back: bool) -> Written:
        """Do the work of `write_procedure.run` in this process."""
        layer = self.capture.layer
        if back:
            return writing.take_back(layer, before, inside, self._profile)
        assert self._pixels is not None
        return writing.write(layer, self._pixels, inside, before, self._profile)

    def _is_written(self, before: Gimp.Layer, inside: Inside) -> bool:
        """Return whether the layer contains the result now, whatever the user did meanwhile."""
        assert self._pixels is not None
        with copy_of(self.capture.layer) as written:
            if not writing.is_alike(written, before):
                # The layer was resized or converted after the result was written. If this had
                # happened before, nothing would have been written.
                return True
            return writing.is_written(written, self._pixels, before.get_buffer(), inside)

    def let_go(self) -> None:
        """Delete the prepared pixels."""
        self._copies.close()
        self._new = self._pixels = None

    def _colours_only(self) -> bool:
        """Return whether the alpha of the layer stays the same."""
        return self.capture.keeps_alpha or bool(self.capture.layer.get_lock_alpha())


def _changed_meanwhile(name: str) -> EditError:
    return EditError(
        _(
            "“{name}” was changed while the result was put into it. Undo takes back what was put "
            "there."
        ).format(name=name)
    )


def _stamp(capture: Capture) -> object:
    """Return what a prepared result depends on. After a change it must be prepared again."""
    image, layer = capture.image, capture.layer
    if capture.request.visible:
        return _kind(image), image.get_width(), image.get_height()
    stored = Babl.get_name(layer.get_format()), bool(layer.get_lock_alpha())
    return _kind(image), stored, pixels.extent(layer), offsets(layer)


def _kind(image: Gimp.Image) -> tuple[int, int]:
    """Return the base type and the precision of an image as numbers. Its layers share them."""
    return int(image.get_base_type()), int(image.get_precision())


def _kept(capture: Capture) -> str:
    folder = capture.job.folder
    # Name the result as it was received if it was not fitted, or if the fitted picture is damaged.
    names = [
        post.placed if _is_whole(capture, post.placed) else post.result
        for post in capture.job.state.posts
        if post.result
    ]
    return _("The result is kept; bring it in with File ▸ Open as Layers…: {paths}").format(
        paths=", ".join(str(folder / name) for name in names)
    )


def _is_whole(capture: Capture, placed: str) -> bool:
    size = (capture.box.width, capture.box.height)
    return bool(placed) and pixels.png_size(capture.job.folder / placed) == size


def _where(capture: Capture) -> Box:
    """Return where the exported pixels are now, in layer or canvas coordinates.

    Raises EditError if there is no place for the result after the changes made by the user.
    """
    layer, request = capture.layer, capture.request
    _check_there(capture)
    _check_pictures(capture)
    box = _found(capture)
    if not request.replace:
        return box
    check_replaceable(layer)
    extent = pixels.extent(layer)
    if capture.selection is None:
        if box != extent:
            raise EditError(
                _("The edit is ready, but “{name}” has another size now.").format(
                    name=layer.get_name()
                )
            )
        return box
    at = capture.on_canvas
    selected = pixels.selected_bounds(capture.selection, at).moved(box.x - at.x, box.y - at.y)
    if selected.intersection(extent) != selected:
        raise EditError(
            _("The edit is ready, but the part of “{name}” that it belongs to was cut off.").format(
                name=layer.get_name()
            )
        )
    return box


def _check_there(capture: Capture) -> None:
    """Raise EditError if the image was closed or the layer was deleted."""
    if not capture.image.is_valid():
        raise EditError(_("The edit is ready, but its image was closed."))
    if not (capture.request.visible or capture.layer.is_valid()):
        raise EditError(_("The edit is ready, but the layer that it belongs to is gone."))


def _check_pictures(capture: Capture) -> None:
    placed = _fitted(capture)
    if not placed or not all(_is_whole(capture, name) for name in placed.values()):
        raise EditError(_("The edit is ready, but its fitted picture is gone or damaged."))


def _found(capture: Capture) -> Box:
    """Find the exported pixels, even if only a part of them is left. Raises EditError."""
    if capture.request.visible:
        return _found_in_image(capture)
    layer = capture.layer
    # An extended or cropped layer keeps its position on the canvas.
    dx, dy = offsets(layer)
    name = layer.get_name()
    with copy_of(layer) as copy, contextlib.closing(_pictures(capture, copy)) as pictures:
        found = landmarks.find(
            capture.place.marks, copy, pictures, capture.on_canvas.moved(-dx, -dy)
        )
    return _told(found, name)


def _found_in_image(capture: Capture) -> Box:
    image = capture.image
    if landmarks.unmoved(capture.place.marks, image):
        return capture.box
    name = image.get_name()
    with all_seen(image) as seen:
        found = landmarks.find(
            capture.place.marks, image, [pixels.picture(seen)], capture.on_canvas
        )
    return _told(found, name)


def _told(found: Box | None, name: str) -> Box:
    """Return `found`. Raises EditError if it is None."""
    if found is None:
        raise EditError(
            _(
                "The edit is ready, but “{name}” was reshaped meanwhile, and where the result "
                "belongs can't be told."
            ).format(name=name)
        )
    return found


def _pictures(capture: Capture, copy: Gimp.Layer) -> Generator[Picture, None, None]:
    """Yield pictures in which the exported pixels may be found, the fastest first."""
    if capture.request.replace or looks_like_itself(copy):
        yield pixels.picture(copy)
        return
    with drawn(copy, capture.box) as part:
        yield part
    yield pixels.picture(copy)
    with drawn(copy, pixels.extent(copy)) as whole:
        yield whole


def _fitted(capture: Capture) -> dict[int, str]:
    """Return the names of the fitted pictures by the numbers of their variations."""
    posts = enumerate(capture.job.state.posts, 1)
    return {number: post.placed for number, post in posts if post.placed}


def _layer_name(capture: Capture, variation: int = 0) -> str:
    name = f"{capture.place.name} {variation}" if variation else capture.place.name
    return f"{name} {_('(sandbox)')}" if capture.place.sandbox else name


def _write_shares(capture: Capture, target: Gegl.Buffer, pixel_format: str) -> None:
    """Write the weight of each pixel of the result to `target`, from its origin on.

    The weight is the selection times the blend, and exactly 0 outside the selection. `pixel_format`
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
