"""Layers as an edit needs them: copied at once, drawn as they look, checked for what can be done.

The user goes on working while an edit is captured or placed. Reading a layer's pixels in the moment
in which it is deleted, or its image closed, ends the plug-in's process. A copy that no image holds
outlives both, and takes a few milliseconds: GIMP copies its tiles only when they change.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from gi.repository import Gimp, GObject

from plugin.gimp import pixels
from plugin.gimp.messages import EditError, NotReplaceable, _
from plugin.gimp.pixels import Picture
from plugin.region import Box

T = TypeVar("T")

_LAYER_TYPES = {
    Gimp.ImageBaseType.RGB: Gimp.ImageType.RGBA_IMAGE,
    Gimp.ImageBaseType.GRAY: Gimp.ImageType.GRAYA_IMAGE,
    Gimp.ImageBaseType.INDEXED: Gimp.ImageType.INDEXEDA_IMAGE,
}


def new_layer(image: Gimp.Image, name: str, size: tuple[int, int]) -> Gimp.Layer:
    """Return a normal layer with alpha for `image` of that (width, height), in no image yet.

    Raises EditError if the image was closed.
    """
    check_open(image)
    kind = _LAYER_TYPES[image.get_base_type()]
    layer = Gimp.Layer.new(image, name, *size, kind, 100.0, Gimp.LayerMode.NORMAL)
    return made(layer)


def offsets(layer: Gimp.Layer) -> tuple[int, int]:
    """Return where the layer's origin is on the canvas."""
    _ok, x, y = layer.get_offsets()
    return x, y


def ancestors(layer: Gimp.Layer) -> Iterator[Gimp.Layer]:
    """Yield the layer and the groups that it is in, the innermost first."""
    while layer is not None:
        yield layer
        layer = layer.get_parent()


def check_open(image: Gimp.Image) -> None:
    """Raise EditError if the image was closed."""
    if not image.is_valid():
        raise EditError(_("The image was closed."))


def made(thing: T | None) -> T:
    """Return what GIMP was to make for an image. Raises EditError if it made nothing of it."""
    if thing is None:
        raise EditError(_("The image was closed."))
    return thing


def keeping(image: Gimp.Image, work: Callable[[], T]) -> T:
    """Do `work`, and have GIMP keep the image with its layers until it is done, closed or not.

    GIMP kills a process that writes into a layer whose image is closed. It keeps an image as long
    as a procedure runs that got it as an argument: here a temporary one, which does the work. It
    should be quick, as calls end in the order in which they began, also those of other plug-ins.
    Raises EditError if the image was closed before, and what `work` raises.
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
    # Names are for all of GIMP: those of other windows are their own.
    name = f"dimilinks-keeping-{os.getpid()}"
    plug_in = Gimp.get_plug_in()
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.TEMPORARY, run, None)
    procedure.add_image_argument(
        "image", "image", "The image to keep", False, GObject.ParamFlags.READWRITE
    )
    plug_in.add_temp_procedure(procedure)
    try:
        # Only what was looked up is called by way of GIMP.
        called = Gimp.get_pdb().lookup_procedure(name)
        config = called.create_config()
        config.set_property("image", image)
        called.run(config)
    finally:
        plug_in.remove_temp_procedure(name)
    if raised:
        raise raised[0]
    if not done:
        # GIMP didn't even begin: the image is no argument any more.
        raise EditError(_("The image was closed."))
    return done[0]


def let_go(image: Gimp.Image, thing: Gimp.Item) -> None:
    """Delete what was made for `image`, and is not in it.

    GIMP would look into the image for that, and crash now and then if that was closed: it keeps the
    thing then until it ends.
    """
    if image.is_valid():
        thing.delete()


@contextlib.contextmanager
def copy_of(drawable: Gimp.Drawable) -> Iterator[Gimp.Layer]:
    """Give a copy of a drawable that no image holds, with the mask and filters that it has.

    Raises EditError if the drawable is gone.
    """
    image = drawable.get_image() if drawable.is_valid() else None
    copy = None if image is None else Gimp.Layer.new_from_drawable(drawable, image)
    try:
        # GIMP copies a deleted layer too, as long as its undo history holds it.
        if copy is None or not drawable.is_valid():
            raise EditError(_("The layer was deleted, or its image was closed."))
        yield copy
    finally:
        if copy is not None:
            let_go(image, copy)


def looks_like_itself(layer: Gimp.Layer) -> bool:
    """Whether the layer's own pixels are what it looks like: no mask and no filter changes them."""
    return not (shaped_by_mask(layer) or any(each.get_visible() for each in layer.get_filters()))


def shaped_by_mask(layer: Gimp.Layer) -> bool:
    """Whether a mask hides parts of the layer."""
    return layer.get_mask() is not None and bool(layer.get_apply_mask())


@contextlib.contextmanager
def drawn(layer: Gimp.Layer, box: Box) -> Iterator[Picture]:
    """Give what is in `box` of a layer as it looks by itself, with its mask and its filters.

    GIMP draws no more than the canvas, so the canvas of a scratch image is the box.
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
    """Give everything visible in an image, in a layer that no image holds. Raises EditError."""
    check_open(image)
    seen = made(Gimp.Layer.new_from_visible(image, image, "seen"))
    try:
        yield seen
    finally:
        let_go(image, seen)


def is_locked(layer: Gimp.Layer) -> bool:
    """Whether the pixels of a layer are locked, or those of a group that it is in."""
    return layer.is_valid() and any(each.get_lock_content() for each in ancestors(layer))


@contextlib.contextmanager
def unlocked(layer: Gimp.Layer, what: Literal["content", "position"]) -> Iterator[None]:
    """Lift the locks of a layer, and of the groups that it is in, and put them back."""
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
    """Raise NotReplaceable if new pixels can't be written into `layer`."""
    kinds = (
        (layer.is_group(), _("a layer group")),
        (layer.is_text_layer(), _("a text layer")),
        # Only GIMP 3.2 has these two.
        (hasattr(layer, "is_link_layer") and layer.is_link_layer(), _("a link layer")),
        (hasattr(layer, "is_vector_layer") and layer.is_vector_layer(), _("a vector layer")),
        (is_locked(layer), _("locked")),
    )
    for is_so, kind in kinds:
        if is_so:
            raise NotReplaceable(
                _("“{name}” is {kind} and can't be replaced: choose a new layer instead.").format(
                    name=layer.get_name(), kind=kind
                )
            )
