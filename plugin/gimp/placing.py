"""From the job folder into the image: results as new layers, or into the layer in place.

Whatever the selection leaves out stays as it is, bit for bit: a new layer's mask is exactly 0
there, and a replaced layer gets its own bytes back, because GIMP's merging alone moves low bits
in deep images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

from gi.repository import Gegl, Gimp

from plugin import settings
from plugin.gimp import landmarks, pixels
from plugin.gimp.capture import Capture, check_replaceable, offsets, picture, selection_bounds
from plugin.gimp.messages import EditError, _
from plugin.region import Box

_LAYER_TYPES = {
    Gimp.ImageBaseType.RGB: Gimp.ImageType.RGBA_IMAGE,
    Gimp.ImageBaseType.GRAY: Gimp.ImageType.GRAYA_IMAGE,
    Gimp.ImageBaseType.INDEXED: Gimp.ImageType.INDEXEDA_IMAGE,
}
_EIGHT_BITS = (
    Gimp.Precision.U8_LINEAR,
    Gimp.Precision.U8_NON_LINEAR,
    Gimp.Precision.U8_PERCEPTUAL,
)


def place(captures: list[Capture]) -> tuple[list[Gimp.Layer], list[str]]:
    """Bring the results of all `captures` into their image in one undo step.

    Returns the layers, and a sentence for each result that has no place any more: it stays in its
    job.
    """
    missing = []
    ready = []
    for capture in captures:
        try:
            ready.append((capture, _where(capture)))
        except EditError as error:
            missing.append(f"{error} {_kept(capture)}")
    if not ready:
        return [], missing
    image = ready[0][0].image
    layers = []
    with _chosen_kept(image):
        image.undo_group_start()
        try:
            for capture, box in ready:
                if capture.request.replace:
                    _replace(capture, box)
                    layers.append(capture.layer)
                else:
                    layers += _new_layers(capture, box)
                # Only a note for people: the results are in the image, marked or not.
                with contextlib.suppress(OSError):
                    capture.job.mark_imported()
        finally:
            image.undo_group_end()
    return layers, missing


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
    if not all(_is_whole(capture, placed) for placed in _placed(capture)):
        raise EditError(_("The edit is ready, but its fitted picture is gone or damaged."))
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


def _found(capture: Capture) -> Box:
    """Where the exported pixels are, whatever of the image is left there. Raises EditError."""
    image, layer, request = capture.image, capture.layer, capture.request
    edited = image if request.visible else layer
    if request.visible and landmarks.unmoved(capture.marks, image):
        return capture.box
    # A layer that was extended or cut stays where it was on the canvas.
    dx, dy = (0, 0) if request.visible else offsets(layer)
    with contextlib.closing(_pictures(capture)) as pictures:
        found = landmarks.find(capture.marks, edited, pictures, capture.on_canvas.moved(-dx, -dy))
    if found is None:
        raise EditError(
            _(
                "The edit is ready, but “{name}” was reshaped meanwhile, and where the result "
                "belongs can't be told."
            ).format(name=edited.get_name())
        )
    return found


def _pictures(capture: Capture) -> Generator[Gimp.Drawable, None, None]:
    """What may show the exported pixels again, the quickest first."""
    if not capture.request.visible:
        yield capture.layer
    with picture(capture.image, capture.layer, capture.request) as drawable:
        yield drawable


@contextlib.contextmanager
def _chosen_kept(image: Gimp.Image) -> Iterator[None]:
    """Leave the user's choice of layers, or else of channels or paths, as it was."""
    chosen = (
        (image.set_selected_layers, image.get_selected_layers()),
        (image.set_selected_channels, image.get_selected_channels()),
        (image.set_selected_paths, image.get_selected_paths()),
    )
    try:
        yield
    finally:
        for choose, items in chosen:
            if items:
                choose(items)
                break


def _placed(capture: Capture) -> list[str]:
    return [post.placed for post in capture.job.state.posts if post.placed]


def _new_layers(capture: Capture, box: Box) -> list[Gimp.Layer]:
    image, source = capture.image, capture.layer
    parent, position, opacity, mode = None, 0, 100.0, Gimp.LayerMode.NORMAL
    at = box
    if not capture.request.visible:
        at = box.moved(*offsets(source))
        parent = source.get_parent()
        position = image.get_item_position(source)
        # The result plays the part of the layer that it was made from.
        opacity = source.get_opacity()
        if source.get_mode() != Gimp.LayerMode.PASS_THROUGH:
            mode = source.get_mode()
    layers = []
    for number, placed in enumerate(_placed(capture), 1):
        layer = Gimp.Layer.new(
            image,
            _layer_name(capture, number),
            box.width,
            box.height,
            _LAYER_TYPES[image.get_base_type()],
            opacity,
            mode,
        )
        layer.set_offsets(at.x, at.y)
        pixels.load_png(capture.job.folder / placed, layer.get_buffer())
        # The first variation ends up on top.
        image.insert_layer(layer, parent, position + number - 1)
        if capture.selection is not None:
            _add_mask(layer, capture)
        layer.update(0, 0, box.width, box.height)
        layers.append(layer)
    return layers


def _layer_name(capture: Capture, number: int) -> str:
    name = _("{layer} edit").format(
        layer=_("Visible") if capture.request.visible else capture.layer.get_name()
    )
    if len(_placed(capture)) > 1:
        name += f" {number}"
    if settings.base_url() == settings.SANDBOX:
        name += " " + _("(sandbox)")
    return name


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
    placed = capture.job.folder / _placed(capture)[0]
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
    with _without_undo(image), _plain_context():
        users = None if Gimp.Selection.is_empty(image) else Gimp.Selection.save(image)
        Gimp.Selection.none(image)
        if capture.selection is not None:
            _select(image, capture.selection, capture.on_canvas, box)
    try:
        yield
    finally:
        with _without_undo(image), _plain_context():
            Gimp.Selection.none(image)
            if users is not None:
                image.select_item(Gimp.ChannelOps.REPLACE, users)
                image.remove_channel(users)


@contextlib.contextmanager
def _without_undo(image: Gimp.Image) -> Iterator[None]:
    image.undo_freeze()
    try:
        yield
    finally:
        image.undo_thaw()


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
