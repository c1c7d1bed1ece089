"""From the job folder into the image: results as new layers, or into the layer in place.

Whatever the selection leaves out stays as it is, bit for bit: a new layer's mask is exactly 0
there, and a replaced layer gets its own bytes back, because GIMP's merging alone moves low bits
in deep images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gi.repository import Gegl, Gimp

from plugin import settings
from plugin.gimp import pixels
from plugin.gimp.capture import Capture, offsets, selection_bounds
from plugin.gimp.messages import EditError, _
from plugin.region import Box

_LAYER_TYPES = {
    Gimp.ImageBaseType.RGB: Gimp.ImageType.RGBA_IMAGE,
    Gimp.ImageBaseType.GRAY: Gimp.ImageType.GRAYA_IMAGE,
    Gimp.ImageBaseType.INDEXED: Gimp.ImageType.INDEXEDA_IMAGE,
}


def place(captures: list[Capture], replace: bool) -> list[Gimp.Layer]:
    """Bring the results of all `captures` into their image in one undo step; return the layers.

    Raises EditError if the image or a layer is gone; its results stay in their job.
    """
    image = captures[0].image
    _check_there(captures)
    selected = image.get_selected_layers()
    image.undo_group_start()
    try:
        layers = []
        for capture in captures:
            if replace:
                _replace(capture)
                layers.append(capture.layer)
            else:
                layers += _new_layers(capture)
            # Without the marker the result is merely offered once more.
            with contextlib.suppress(OSError):
                capture.job.mark_imported()
        image.set_selected_layers(selected)
        return layers
    finally:
        image.undo_group_end()


def _check_there(captures: list[Capture]) -> None:
    for capture in captures:
        gone = not capture.image.is_valid() or not (capture.visible or capture.layer.is_valid())
        if gone:
            raise EditError(
                _(
                    "The edit is ready, but the image or layer that it belongs to is gone. The "
                    "result is kept in {folder}."
                ).format(folder=capture.job.folder)
            )


def _placed(capture: Capture) -> list[str]:
    return [post.placed for post in capture.job.state.posts if post.placed]


def _new_layers(capture: Capture) -> list[Gimp.Layer]:
    image, box = capture.image, capture.box
    dx, dy = (0, 0) if capture.visible else offsets(capture.layer)
    parent, position = None, 0
    if not capture.visible:
        parent = capture.layer.get_parent()
        position = image.get_item_position(capture.layer)
    layers = []
    for number, placed in enumerate(_placed(capture), 1):
        layer = Gimp.Layer.new(
            image,
            _layer_name(capture, number),
            box.width,
            box.height,
            _LAYER_TYPES[image.get_base_type()],
            100.0,
            Gimp.LayerMode.NORMAL,
        )
        layer.set_offsets(box.x + dx, box.y + dy)
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
        layer=_("Visible") if capture.visible else capture.layer.get_name()
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
    at = capture.on_canvas
    for outside in pixels.boxes_outside(capture.selection, at):
        buffer.clear(pixels.rectangle(outside.moved(-at.x, -at.y)))
    buffer.flush()
    layer.add_mask(mask)


def _replace(capture: Capture) -> None:
    layer, box, image = capture.layer, capture.box, capture.image
    placed = capture.job.folder / _placed(capture)[0]
    buffer = layer.get_buffer()
    dx, dy = offsets(layer)
    extent = Box(0, 0, layer.get_width(), layer.get_height())
    with _selecting(capture, box.moved(dx, dy)):
        if capture.selection is None:
            with _alpha_kept(layer):
                shadow = layer.get_shadow_buffer()
                pixels.load_png(placed, shadow)
                layer.merge_shadow(True)
        else:
            # Beyond the box lies at most the faint end of a feather: it gets its bytes back too.
            touched = selection_bounds(image).moved(-dx, -dy).intersection(extent)
            original = buffer.create_sub_buffer(pixels.rectangle(touched)).dup()
            shadow = layer.get_shadow_buffer()
            buffer.copy(
                pixels.rectangle(touched), Gegl.AbyssPolicy.NONE, shadow, pixels.rectangle(touched)
            )
            blend = capture.job.folder / "blend.png"
            pixels.lay_over(original, placed, blend if blend.exists() else None, box, shadow)
            layer.merge_shadow(True)
            # A buffer taken before the merge still shows the tiles as they were, and would put
            # them back.
            buffer = layer.get_buffer()
            selection = image.get_selection().get_buffer()
            for outside in pixels.boxes_outside(selection, touched.moved(dx, dy)):
                part = pixels.rectangle(outside.moved(-dx, -dy))
                original.copy(part, Gegl.AbyssPolicy.NONE, buffer, part)
            buffer.flush()
    layer.update(0, 0, layer.get_width(), layer.get_height())


@contextlib.contextmanager
def _alpha_kept(layer: Gimp.Layer) -> Iterator[None]:
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
    """Select what was selected when the edit began, now over `box`; afterwards as it was."""
    image = capture.image
    if _is_selected(capture, box):
        yield
        return
    channels = image.get_selected_channels()
    users = None if Gimp.Selection.is_empty(image) else Gimp.Selection.save(image)
    Gimp.Selection.none(image)
    if capture.selection is not None:
        exported = Gimp.Channel.new(
            image, "", image.get_width(), image.get_height(), 50.0, Gegl.Color.new("black")
        )
        image.insert_channel(exported, None, 0)
        buffer = exported.get_buffer()
        capture.selection.copy(
            pixels.rectangle(capture.on_canvas),
            Gegl.AbyssPolicy.NONE,
            buffer,
            pixels.rectangle(box),
        )
        buffer.flush()
        exported.update(0, 0, exported.get_width(), exported.get_height())
        image.select_item(Gimp.ChannelOps.REPLACE, exported)
        image.remove_channel(exported)
    try:
        yield
    finally:
        Gimp.Selection.none(image)
        if users is not None:
            image.select_item(Gimp.ChannelOps.REPLACE, users)
            image.remove_channel(users)
        image.set_selected_channels(channels)


def _is_selected(capture: Capture, box: Box) -> bool:
    if capture.selection is None:
        return bool(Gimp.Selection.is_empty(capture.image))
    now = capture.image.get_selection().get_buffer()
    return _shares(now, box) == _shares(capture.selection, capture.on_canvas)


def _shares(selection: Gegl.Buffer, box: Box) -> bytes:
    return bytes(selection.get(pixels.rectangle(box), 1.0, "Y float", Gegl.AbyssPolicy.NONE))
