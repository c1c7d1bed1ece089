"""Copy layers, render them as they look, and check whether they can be changed.

The user may change the image while the plug-in exports it or places a result. If the user deletes a
layer, or closes its image, while this process reads the pixels of the layer, GIMP kills the
process. This module therefore reads copies of layers, which are in no image and can't be deleted by
the user. Making a copy takes only a few milliseconds, because GIMP copies the pixels only when they
change.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from gi.repository import Gimp, GObject

from plugin.errors import NotReplaceable, UserError
from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.pixels import Picture
from plugin.gimp.translation import _
from plugin.region import Box

T = TypeVar("T")

_LAYER_TYPES = {
    Gimp.ImageBaseType.RGB: Gimp.ImageType.RGBA_IMAGE,
    Gimp.ImageBaseType.GRAY: Gimp.ImageType.GRAYA_IMAGE,
    Gimp.ImageBaseType.INDEXED: Gimp.ImageType.INDEXEDA_IMAGE,
}


def new_layer(image: Gimp.Image, name: str, size: tuple[int, int]) -> Gimp.Layer:
    """Create a layer for `image`, with alpha and mode *Normal*, without inserting it.

    `size` is (width, height). Raises UserError if the image was closed.
    """
    check_open(image)
    kind = _LAYER_TYPES[image.get_base_type()]
    layer = Gimp.Layer.new(image, name, *size, kind, 100.0, Gimp.LayerMode.NORMAL)
    return made(layer)


def offsets(layer: Gimp.Layer) -> tuple[int, int]:
    """Return the position of the layer's origin on the canvas."""
    _ok, x, y = layer.get_offsets()
    return x, y


def ancestors(layer: Gimp.Layer) -> Iterator[Gimp.Layer]:
    """Yield the layer and the groups that contain it, the innermost group first."""
    while layer is not None:
        yield layer
        layer = layer.get_parent()


def check_open(image: Gimp.Image) -> None:
    """Raise UserError if the image was closed."""
    if not image.is_valid():
        raise UserError(_("The image was closed."))


def made(thing: T | None) -> T:
    """Return `thing`, which GIMP has just made for an image.

    Raises UserError if `thing` is None, because this means that the image was closed.
    """
    if thing is None:
        raise UserError(_("The image was closed."))
    return thing


def keeping(image: Gimp.Image, work: Callable[[], T]) -> T:
    """Call `work` and return its value. GIMP keeps the image meanwhile, even if the user closes it.

    GIMP kills a process that writes to a layer of an image that GIMP doesn't keep any more. But
    GIMP keeps an image while a procedure runs that has this image as an argument. A temporary
    procedure with this argument therefore calls `work`. `work` should be quick, because procedures
    that begin later, even those of other plug-ins, can't end before this one. Raises UserError if
    the image was closed before, and whatever `work` raises.
    """
    done: list[T] = []
    raised: list[BaseException] = []

    def run(procedure: Gimp.Procedure, _config: Any, _data: Any) -> Gimp.ValueArray:
        try:
            done.append(work())
        except BaseException as error:
            raised.append(error)
        return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, None)

    check_open(image)
    # All plug-in processes share the names of procedures, so each process uses another name.
    name = f"dimilinks-keeping-{os.getpid()}"
    plug_in = Gimp.get_plug_in()
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.TEMPORARY, run, None)
    procedure.add_image_argument(
        "image", "image", "The image to keep", False, GObject.ParamFlags.READWRITE
    )
    plug_in.add_temp_procedure(procedure)
    try:
        # Look up the procedure, because GIMP would not know of a direct call of `procedure`.
        called = Gimp.get_pdb().lookup_procedure(name)
        config = called.create_config()
        config.set_property("image", image)
        called.run(config)
    finally:
        plug_in.remove_temp_procedure(name)
    if raised:
        raise raised[0]
    if not done:
        # GIMP has not called the procedure, because it rejects a closed image as an argument.
        raise UserError(_("The image was closed."))
    return done[0]


def let_go(image: Gimp.Image, thing: Gimp.Item) -> None:
    """Delete `thing`, a layer that was made for `image` but not inserted, if the image is open.

    To delete the layer, GIMP accesses the image, and might crash if the image was closed. If it was
    closed, the layer therefore stays in GIMP's memory until GIMP ends.
    """
    if image.is_valid():
        thing.delete()


@contextlib.contextmanager
def copy_of(drawable: Gimp.Drawable) -> Iterator[Gimp.Layer]:
    """Yield a copy of a drawable that has the same layer mask and filters, and is in no image.

    Raises UserError if the drawable was deleted or its image was closed.
    """
    image = drawable.get_image() if drawable.is_valid() else None
    copy = None if image is None else Gimp.Layer.new_from_drawable(drawable, image)
    try:
        # Check the drawable again, because GIMP also copies a deleted layer while the undo history
        # contains this layer.
        if copy is None or not drawable.is_valid():
            raise UserError(_("The layer was deleted, or its image was closed."))
        yield copy
    finally:
        if copy is not None:
            let_go(image, copy)


def looks_like_itself(layer: Gimp.Layer) -> bool:
    """Return whether the layer's pixels are shown unchanged, without a layer mask or a filter."""
    return not (shaped_by_mask(layer) or any(each.get_visible() for each in layer.get_filters()))


def shaped_by_mask(layer: Gimp.Layer) -> bool:
    """Return whether the layer has a layer mask that is turned on."""
    return layer.get_mask() is not None and bool(layer.get_apply_mask())


@contextlib.contextmanager
def drawn(layer: Gimp.Layer, box: Box) -> Iterator[Picture]:
    """Yield `box` of a layer as the layer looks alone, with its layer mask and filters applied.

    `box` and the picture are in layer coordinates. GIMP renders only pixels that are on the canvas,
    and parts of the layer may be outside it. The layer is therefore rendered in a temporary image
    whose canvas is `box`. Raises UserError if the image was closed.
    """
    image = layer.get_image()
    check_open(image)
    base = image.get_base_type()
    if base == Gimp.ImageBaseType.INDEXED:
        base = Gimp.ImageBaseType.RGB
    scratch = Gimp.Image.new_with_precision(box.width, box.height, base, image.get_precision())
    try:
        profile = image.get_color_profile()
        if profile is not None:
            scratch.set_color_profile(profile)
        copy = made(Gimp.Layer.new_from_drawable(layer, scratch))
        scratch.insert_layer(copy, None, 0)
        copy.set_offsets(-box.x, -box.y)
        copy.set_visible(True)
        copy.set_opacity(100)
        copy.set_mode(Gimp.LayerMode.NORMAL)
        copy.set_show_mask(False)
        with all_seen(scratch) as seen:
            yield pixels.moved(pixels.picture(seen), box)
    finally:
        scratch.delete()


@contextlib.contextmanager
def all_seen(image: Gimp.Image) -> Iterator[Gimp.Layer]:
    """Yield everything that is visible in `image` as a single layer that is in no image.

    Raises UserError if the image was closed.
    """
    check_open(image)
    seen = made(Gimp.Layer.new_from_visible(image, image, "seen"))
    try:
        yield seen
    finally:
        let_go(image, seen)


def is_locked(layer: Gimp.Layer) -> bool:
    """Return whether the pixels of a layer, or of a group that contains the layer, are locked."""
    return layer.is_valid() and any(each.get_lock_content() for each in ancestors(layer))


@contextlib.contextmanager
def unlocked(layer: Gimp.Layer, what: Literal["content", "position"]) -> Iterator[None]:
    """Unlock a layer and the groups that contain it, and lock them again after the `with` block.

    `what` says which of their locks is meant: that of the pixels, or that of the position.
    """
    locked = [each for each in ancestors(layer) if getattr(each, f"get_lock_{what}")()]

    def lock(again: bool) -> None:
        for each in locked:
            if each.is_valid():
                getattr(each, f"set_lock_{what}")(again)

    lock(False)
    try:
        yield
    finally:
        lock(True)


def check_replaceable(layer: Gimp.Layer) -> None:
    """Raise NotReplaceable if new pixels can't be written to `layer`."""
    kinds = (
        (layer.is_group(), _("a layer group")),
        (layer.is_text_layer(), _("a text layer")),
        # Link layers and vector layers exist only since GIMP 3.2.
        (hasattr(layer, "is_link_layer") and layer.is_link_layer(), _("a link layer")),
        (hasattr(layer, "is_vector_layer") and layer.is_vector_layer(), _("a vector layer")),
        (is_locked(layer), _("locked")),
    )
    for is_so, kind in kinds:
        if is_so:
            raise NotReplaceable(
                _(
                    "“{name}” is {kind} and can't be replaced. Put the result into a new "
                    "layer instead."
                ).format(name=layer.get_name(), kind=kind)
            )
