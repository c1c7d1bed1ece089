"""Copy layers, render them as they look, and check what can be done with them.

The user continues to work while an edit is captured or placed. If a layer is deleted, or its image
is closed, while this process reads the pixels of the layer, the process is killed. A copy that is
in no image is not affected. Making one takes a few milliseconds, because GIMP copies tiles only
when they change.
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
    """Return a new layer for `image`, with alpha and mode *Normal*, which is not inserted yet.

    `size` is (width, height). Raises EditError if the image was closed.
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
    """Raise EditError if the image was closed."""
    if not image.is_valid():
        raise EditError(_("The image was closed."))


def made(thing: T | None) -> T:
    """Return `thing`, which GIMP has made for an image, unless it is None.

    Raises EditError if it is None: GIMP could not make it because the image was closed.
    """
    if thing is None:
        raise EditError(_("The image was closed."))
    return thing


def keeping(image: Gimp.Image, work: Callable[[], T]) -> T:
    """Call `work` and return its result. GIMP keeps the image and its layers until it returns.

    GIMP kills a process that writes to a layer of a closed image. It keeps an image as long as a
    procedure runs that has the image as an argument. `work` is therefore called by a temporary
    procedure with this argument. It should be quick: procedure calls end in the order in which they
    began, including those of other plug-ins. Raises EditError if the image was closed before, and
    whatever `work` raises.
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
    # Names of procedures are global in GIMP, so each window needs one of its own.
    name = f"dimilinks-keeping-{os.getpid()}"
    plug_in = Gimp.get_plug_in()
    procedure = Gimp.Procedure.new(plug_in, name, Gimp.PDBProcType.TEMPORARY, run, None)
    procedure.add_image_argument(
        "image", "image", "The image to keep", False, GObject.ParamFlags.READWRITE
    )
    plug_in.add_temp_procedure(procedure)
    try:
        # Only a procedure that was looked up is called through GIMP.
        called = Gimp.get_pdb().lookup_procedure(name)
        config = called.create_config()
        config.set_property("image", image)
        called.run(config)
    finally:
        plug_in.remove_temp_procedure(name)
    if raised:
        raise raised[0]
    if not done:
        # GIMP has not called the procedure, because a closed image is no valid argument.
        raise EditError(_("The image was closed."))
    return done[0]


def let_go(image: Gimp.Image, thing: Gimp.Item) -> None:
    """Delete an item that was made for `image` and is not in it, if the image is still open.

    To delete it, GIMP would access the image, and might crash if the image was closed. In this case
    the item is left to GIMP, which keeps it until GIMP ends.
    """
    if image.is_valid():
        thing.delete()


@contextlib.contextmanager
def copy_of(drawable: Gimp.Drawable) -> Iterator[Gimp.Layer]:
    """Yield a copy of a drawable, with its layer mask and its filters. The copy is in no image.

    Raises EditError if the drawable was deleted or its image was closed.
    """
    image = drawable.get_image() if drawable.is_valid() else None
    copy = None if image is None else Gimp.Layer.new_from_drawable(drawable, image)
    try:
        # GIMP also copies a deleted layer, as long as it is in the undo history.
        if copy is None or not drawable.is_valid():
            raise EditError(_("The layer was deleted, or its image was closed."))
        yield copy
    finally:
        if copy is not None:
            let_go(image, copy)


def looks_like_itself(layer: Gimp.Layer) -> bool:
    """Return whether no layer mask and no visible filter changes how the layer's pixels look."""
    return not (shaped_by_mask(layer) or any(each.get_visible() for each in layer.get_filters()))


def shaped_by_mask(layer: Gimp.Layer) -> bool:
    """Return whether the layer has a layer mask that is applied."""
    return layer.get_mask() is not None and bool(layer.get_apply_mask())


@contextlib.contextmanager
def drawn(layer: Gimp.Layer, box: Box) -> Iterator[Picture]:
    """Yield the part `box` of a layer as it looks on its own, with its layer mask and its filters.

    The picture is in layer coordinates. GIMP renders only what is on the canvas, so the layer is
    rendered in a temporary image whose canvas is the box. Raises EditError.
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
    """Yield everything visible as a single layer that is in no image. Raises EditError."""
    check_open(image)
    seen = made(Gimp.Layer.new_from_visible(image, image, "seen"))
    try:
        yield seen
    finally:
        let_go(image, seen)


def is_locked(layer: Gimp.Layer) -> bool:
    """Return whether the pixels of a layer, or of a group that contains it, are locked."""
    return layer.is_valid() and any(each.get_lock_content() for each in ancestors(layer))


@contextlib.contextmanager
def unlocked(layer: Gimp.Layer, what: Literal["content", "position"]) -> Iterator[None]:
    """Unlock a layer and the groups that contain it, and lock them again afterwards."""
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
