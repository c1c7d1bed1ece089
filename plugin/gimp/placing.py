"""From the job folder into the image: results as new layers, or into the layer in place.

Whatever the selection leaves out stays as it is, bit for bit: a new layer's mask is exactly 0
there, and a replaced layer gets its own bytes back, because GIMP's merging alone moves low bits
in deep images.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gi.repository import Babl, Gegl, Gimp

from plugin.gimp import landmarks, pixels, results
from plugin.gimp.capture import (
    Capture,
    as_it_is,
    check_replaceable,
    offsets,
    picture,
    recalled,
    selection_bounds,
)
from plugin.gimp.messages import EditError, _
from plugin.gimp.pixels import Picture
from plugin.gimp.undo import one_step, without_undo
from plugin.job import Job
from plugin.region import Box

_EIGHT_BITS = (
    Gimp.Precision.U8_LINEAR,
    Gimp.Precision.U8_NON_LINEAR,
    Gimp.Precision.U8_PERCEPTUAL,
)


@dataclass(frozen=True)
class Placed:
    """A result in the image: which variation of which job, and its layer."""

    job: Job
    variation: int
    layer: Gimp.Layer


def get_ready(image: Gimp.Image) -> None:
    """Do beforehand, in another thread, what takes long with the first result."""
    if not image.is_valid():
        return
    layer = Gimp.Layer.new(image, "", 1, 1, results.layer_type(image), 100.0, Gimp.LayerMode.NORMAL)
    own_format = Babl.get_name(layer.get_format())
    layer.delete()
    threading.Thread(target=pixels.get_ready, args=(own_format,), daemon=True).start()


def place(captures: list[Capture]) -> tuple[list[Placed], list[str]]:
    """Bring the results of all `captures` into their image in one undo step.

    Returns them, and a sentence for each result that has no place any more: it stays in its job.
    """
    missing = []
    ready = []
    for capture in captures:
        try:
            ready.append((capture, _where(capture)))
        except EditError as error:
            missing.append(f"{error} {_kept(capture)}")
    return (_put(ready) if ready else []), missing


def put_back(done: Job, image: Gimp.Image, variation: int) -> tuple[list[Placed], list[str]]:
    """Bring a result of an earlier job into `image`, as a new layer, in one undo step.

    It goes where the pixels are that it was made from, or else on top of all where it was on the
    canvas; the sentences say so. Raises EditError.
    """
    capture = recalled(done, image)
    notes = []
    box = None
    if capture.request.visible or capture.layer is not None:
        with contextlib.suppress(EditError):
            box = _where(capture)
    if box is None:
        # Raises once more what is wrong with the pictures themselves.
        on_top = replace(capture, request=replace(capture.request, source="visible"))
        _check_pictures(on_top)
        canvas = Box(0, 0, image.get_width(), image.get_height())
        box = capture.on_canvas
        if box.intersection(canvas).empty:
            left, top = (canvas.width - box.width) // 2, (canvas.height - box.height) // 2
            box = box.moved(left - box.x, top - box.y)
        capture = on_top
        notes.append(
            _(
                "The pixels that the edit was made from are not in this image any more: it lies "
                "on top, where it was then."
            )
        )
    return _put([(capture, box)], variation), notes


def _put(ready: list[tuple[Capture, Box]], variation: int = 0) -> list[Placed]:
    """Bring in all variations, or only that one."""
    image = ready[0][0].image
    layers = []
    with one_step(image):
        for capture, box in ready:
            if capture.request.replace:
                _replace(capture, box)
                layers.append(Placed(capture.job, _placed(capture)[0][0], capture.layer))
            else:
                layers += _new_layers(capture, box, variation)
            # Only a note for people: the results are in the image, marked or not.
            with contextlib.suppress(OSError):
                capture.job.mark_imported()
    return layers


def _kept(capture: Capture) -> str:
    folder = capture.job.folder
    # As it was received, where it was not fitted or that is lost.
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
    """Where the exported pixels are by now, in the coordinates of the layer or the canvas.

    Raises EditError if what the user did meanwhile leaves no place for the result.
    """
    image, layer, request = capture.image, capture.layer, capture.request
    if not image.is_valid():
        raise EditError(_("The edit is ready, but its image was closed."))
    if not (request.visible or layer.is_valid()):
        raise EditError(_("The edit is ready, but the layer that it belongs to is gone."))
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
    selected = pixels.selected_bounds(capture.selection, pixels.covered(capture.selection))
    selected = selected.moved(box.x - at.x, box.y - at.y)
    dx, dy = offsets(layer)
    canvas = Box(-dx, -dy, image.get_width(), image.get_height())
    if selected.intersection(extent).intersection(canvas) != selected:
        raise EditError(
            _(
                "The edit is ready, but the part of “{name}” that it belongs to was cut off or "
                "lies beyond the canvas now."
            ).format(name=layer.get_name())
        )
    return box


def _check_pictures(capture: Capture) -> None:
    placed = _placed(capture)
    if not placed or not all(_is_whole(capture, name) for _variation, name in placed):
        raise EditError(_("The edit is ready, but its fitted picture is gone or damaged."))


def _found(capture: Capture) -> Box:
    """Where the exported pixels are, whatever of the image is left there. Raises EditError."""
    image, layer, request = capture.image, capture.layer, capture.request
    edited = image if request.visible else layer
    if request.visible and landmarks.unmoved(capture.place.marks, image):
        return capture.box
    # A layer that was extended or cut stays where it was on the canvas.
    dx, dy = (0, 0) if request.visible else offsets(layer)
    with contextlib.closing(_pictures(capture)) as pictures:
        found = landmarks.find(
            capture.place.marks, edited, pictures, capture.on_canvas.moved(-dx, -dy)
        )
    if found is None:
        raise EditError(
            _(
                "The edit is ready, but “{name}” was reshaped meanwhile, and where the result "
                "belongs can't be told."
            ).format(name=edited.get_name())
        )
    return found


def _pictures(capture: Capture) -> Generator[Picture, None, None]:
    """What may show the exported pixels again, the quickest first."""
    edited = capture.image, capture.layer, capture.request
    if not (capture.request.visible or as_it_is(capture.layer, capture.request)):
        with picture(*edited, capture.box) as part:
            yield part
        yield pixels.picture(capture.layer)
    with picture(*edited) as whole:
        yield whole


def _placed(capture: Capture) -> list[tuple[int, str]]:
    """The variations that were fitted, by number, and their pictures' names."""
    posts = enumerate(capture.job.state.posts, 1)
    return [(number, post.placed) for number, post in posts if post.placed]


def _new_layers(capture: Capture, box: Box, only: int) -> list[Placed]:
    image, source = capture.image, capture.layer
    parent, position, opacity, mode = None, 0, 100.0, Gimp.LayerMode.NORMAL
    at = box
    if not capture.request.visible:
        at = box.moved(*offsets(source))
        parent = source.get_parent()
        position = image.get_item_position(source)
        if capture.request.titled:
            position = results.above_earlier(image, source, position)
        # The result plays the part of the layer that it was made from.
        opacity = source.get_opacity()
        if source.get_mode() != Gimp.LayerMode.PASS_THROUGH:
            mode = source.get_mode()
    placed = _placed(capture)
    several = len(placed) > 1
    grouped = several and not only and capture.request.titled
    if grouped:
        group = Gimp.GroupLayer.new(image, _layer_name(capture))
        # The variations show just as they would without it.
        group.set_mode(Gimp.LayerMode.PASS_THROUGH)
        results.mark(group, capture.job, 0)
        image.insert_layer(group, parent, position)
        parent, position = group, 0
    layers = []
    wanted = [each for each in placed if only in (0, each[0])]
    for count, (variation, picture_name) in enumerate(wanted):
        layer = Gimp.Layer.new(
            image,
            _layer_name(capture, variation if several else 0),
            box.width,
            box.height,
            results.layer_type(image),
            opacity,
            mode,
        )
        layer.set_offsets(at.x, at.y)
        results.mark(layer, capture.job, variation)
        pixels.load_png(capture.job.folder / picture_name, layer.get_buffer())
        # The first variation ends up on top.
        image.insert_layer(layer, parent, position + count)
        if capture.selection is not None:
            _add_mask(layer, capture)
        layer.update(0, 0, box.width, box.height)
        layers.append(Placed(capture.job, variation, layer))
    if grouped:
        # Of several to choose from, the first is shown. Not before they are in the image: GIMP 3.0
        # showed the second one again then.
        for each in layers[1:]:
            each.layer.set_visible(False)
    return layers


def _layer_name(capture: Capture, variation: int = 0) -> str:
    name = f"{capture.place.name} {variation}" if variation else capture.place.name
    return f"{name} {_('(sandbox)')}" if capture.place.sandbox else name


def _add_mask(layer: Gimp.Layer, capture: Capture) -> None:
    mask = layer.create_mask(Gimp.AddMaskType.BLACK)
    buffer = mask.get_buffer()
    whole = Box(0, 0, capture.box.width, capture.box.height)
    assert capture.selection is not None
    capture.selection.copy(
        pixels.rectangle(capture.on_canvas), Gegl.AbyssPolicy.NONE, buffer, pixels.rectangle(whole)
    )
    blend = capture.job.folder / "blend.png"
    if blend.exists():
        pixels.multiply(buffer, pixels.linear_gray(blend, whole))
    buffer.flush()
    if capture.image.get_precision() not in _EIGHT_BITS:
        # The end of a feather is fainter than anything that counts as selected.
        pixels.put_back_outside(mask, whole, capture.selection, capture.on_canvas)
    layer.add_mask(mask)


def _replace(capture: Capture, box: Box) -> None:
    layer = capture.layer
    placed = capture.job.folder / _placed(capture)[0][1]
    with (
        _selecting(capture, box.moved(*offsets(layer))),
        _alpha_locked(layer) if capture.keeps_alpha else contextlib.nullcontext(),
    ):
        if capture.selection is None:
            shadow = layer.get_shadow_buffer()
            pixels.load_png(placed, shadow)
            layer.merge_shadow(True)
        else:
            _merge_selected(capture, box, placed)
    layer.update(0, 0, layer.get_width(), layer.get_height())


def _merge_selected(capture: Capture, box: Box, placed: Path) -> None:
    """Merge through the selection, and give what lies outside it its own bytes back."""
    layer = capture.layer
    buffer = layer.get_buffer()
    dx, dy = offsets(layer)
    touched = selection_bounds(capture.image).moved(-dx, -dy).intersection(pixels.extent(layer))
    original = buffer.create_sub_buffer(pixels.rectangle(touched)).dup()
    shadow = layer.get_shadow_buffer()
    buffer.copy(pixels.rectangle(touched), Gegl.AbyssPolicy.NONE, shadow, pixels.rectangle(touched))
    blend = capture.job.folder / "blend.png"
    pixels.lay_over(
        original, placed, blend if blend.exists() else None, box, shadow, capture.keeps_alpha
    )
    layer.merge_shadow(True)
    # A buffer taken before the merge still shows the tiles as they were, and would put them back.
    buffer = layer.get_buffer()
    for beyond in _around(box, touched):
        part = pixels.rectangle(beyond)
        original.copy(part, Gegl.AbyssPolicy.NONE, buffer, part)
    buffer.flush()
    assert capture.selection is not None
    at = capture.on_canvas
    merged = box.intersection(touched)
    there = merged.moved(at.x - box.x, at.y - box.y)
    pixels.put_back_outside(layer, merged, capture.selection, there, original)


def _around(box: Box, whole: Box) -> list[Box]:
    """What of `whole` lies beyond `box`: the end of a feather, or what the user selected since."""
    inner = box.intersection(whole)
    parts = [
        Box(whole.x, whole.y, whole.width, inner.y - whole.y),
        Box(whole.x, inner.bottom, whole.width, whole.bottom - inner.bottom),
        Box(whole.x, inner.y, inner.x - whole.x, inner.height),
        Box(inner.right, inner.y, whole.right - inner.right, inner.height),
    ]
    return [part for part in parts if not part.empty]


@contextlib.contextmanager
def _alpha_locked(layer: Gimp.Layer) -> Iterator[None]:
    """Let a merge change colours alone."""
    locked = layer.get_lock_alpha()
    if not locked:
        layer.set_lock_alpha(True)
    try:
        yield
    finally:
        if not locked:
            layer.set_lock_alpha(False)


@contextlib.contextmanager
def _selecting(capture: Capture, box: Box) -> Iterator[None]:
    """Select what was selected when the edit began, now over `box`; afterwards as it was.

    None of that is for the undo history: there the edit is one change of the layer's pixels.
    """
    image = capture.image
    if _is_selected(capture, box):
        yield
        return
    with without_undo(image), _plain_context():
        users = None if Gimp.Selection.is_empty(image) else Gimp.Selection.save(image)
        Gimp.Selection.none(image)
        if capture.selection is not None:
            _select(image, capture.selection, capture.on_canvas, box)
    try:
        yield
    finally:
        with without_undo(image), _plain_context():
            Gimp.Selection.none(image)
            if users is not None:
                image.select_item(Gimp.ChannelOps.REPLACE, users)
                image.remove_channel(users)


@contextlib.contextmanager
def _plain_context() -> Iterator[None]:
    """Select without the feather that a calling script may have set for itself."""
    Gimp.context_push()
    Gimp.context_set_feather(False)
    try:
        yield
    finally:
        Gimp.context_pop()


def _select(image: Gimp.Image, selection: Gegl.Buffer, source: Box, target: Box) -> None:
    """Make what `selection` holds over `source` the image's selection, over `target`."""
    channel = Gimp.Channel.new(
        image, "", image.get_width(), image.get_height(), 50.0, Gegl.Color.new("black")
    )
    image.insert_channel(channel, None, 0)
    buffer = channel.get_buffer()
    selection.copy(
        pixels.rectangle(source), Gegl.AbyssPolicy.NONE, buffer, pixels.rectangle(target)
    )
    buffer.flush()
    channel.update(0, 0, channel.get_width(), channel.get_height())
    image.select_item(Gimp.ChannelOps.REPLACE, channel)
    image.remove_channel(channel)


def _is_selected(capture: Capture, box: Box) -> bool:
    """Whether, as far as the result reaches, just that is selected which was."""
    if capture.selection is None:
        return bool(Gimp.Selection.is_empty(capture.image))
    now = capture.image.get_selection().get_buffer()
    return pixels.alike(now, box, capture.selection, capture.on_canvas)
