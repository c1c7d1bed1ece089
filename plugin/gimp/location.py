"""Find the box in which a result belongs now, even if the user has changed the image meanwhile.

A result belongs on the pixels that it was made from, the exported pixels. This module finds these
pixels by their content, because the user can move, crop or extend the layer during an edit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from gi.repository import Babl, Gimp

from plugin.errors import UserError
from plugin.gimp.canvas import landmarks, pixels
from plugin.gimp.canvas.layers import (
    all_seen,
    check_replaceable,
    copy_of,
    drawn,
    looks_like_itself,
    offsets,
)
from plugin.gimp.canvas.pixels import Picture
from plugin.gimp.capture import Capture
from plugin.gimp.translation import _
from plugin.region import Box


class Changed(Exception):
    """The user has changed the image or the layer since the result was prepared for placing."""


def find(capture: Capture) -> Box:
    """Return the box in which the exported pixels are now.

    The box is in layer coordinates, or in canvas coordinates if everything visible was edited.
    Raises UserError if the user's changes make it impossible to place the result.
    """
    layer, request = capture.layer, capture.request
    check_there(capture)
    check_pictures(capture)
    box = _found(capture)
    if not request.replace:
        return box
    check_replaceable(layer)
    extent = pixels.extent(layer)
    if capture.selection is None:
        if box != extent:
            raise UserError(
                _(
                    "The edit is ready, but the size of “{name}” has changed since you "
                    "started the edit."
                ).format(name=layer.get_name())
            )
        return box
    at = capture.on_canvas
    selected = pixels.selected_bounds(capture.selection, at).moved(box.x - at.x, box.y - at.y)
    if selected.intersection(extent) != selected:
        raise UserError(
            _("The edit is ready, but the edited part of “{name}” was cropped away.").format(
                name=layer.get_name()
            )
        )
    return box


def check_there(capture: Capture) -> None:
    """Raise UserError if the image was closed or the edited layer was deleted."""
    if not capture.image.is_valid():
        raise UserError(_("The edit is ready, but its image was closed."))
    if not (capture.request.visible or capture.layer.is_valid()):
        raise UserError(_("The edit is ready, but the layer that was edited has been deleted."))


def check_pictures(capture: Capture) -> None:
    """Raise UserError if the job has no fitted picture, or if one is missing or damaged."""
    placed = fitted_pictures(capture)
    if not placed or not all(is_whole(capture, name) for name in placed.values()):
        raise UserError(
            _(
                "The edit is ready, but the copy of the result that fits the image is missing or "
                "damaged."
            )
        )


def _found(capture: Capture) -> Box:
    """Return the box of the exported pixels, of which a part can be changed or cropped away.

    Raises UserError if the pixels are not found.
    """
    if capture.request.visible:
        return _found_in_image(capture)
    layer = capture.layer
    # If the user has extended or cropped the layer, the pixels are still at the same position on
    # the canvas. This position is therefore the likely one if the same pixels are found repeatedly.
    dx, dy = offsets(layer)
    name = layer.get_name()
    with copy_of(layer) as copy, contextlib.closing(_pictures(capture, copy)) as pictures:
        found = landmarks.find(
            capture.place.marks, copy, pictures, capture.on_canvas.moved(-dx, -dy)
        )
    return _required(found, name)


def _found_in_image(capture: Capture) -> Box:
    image = capture.image
    if landmarks.unmoved(capture.place.marks, image):
        return capture.box
    name = image.get_name()
    with all_seen(image) as seen:
        found = landmarks.find(
            capture.place.marks, image, [pixels.picture(seen)], capture.on_canvas
        )
    return _required(found, name)


def _required(found: Box | None, name: str) -> Box:
    """Return `found`. Raises UserError if `found` is None. `name` is a name for the message."""
    if found is None:
        raise UserError(
            _(
                "The edit is ready, but “{name}” was changed since you started the edit. "
                "Dimilinks can't find the edited part in it any more."
            ).format(name=name)
        )
    return found


def _pictures(capture: Capture, copy: Gimp.Layer) -> Generator[Picture, None, None]:
    """Yield pictures of the layer in which the exported pixels can possibly be found.

    Some pictures show the layer's own pixels, and some show the layer with its mask and filters
    applied. The pictures that are made fastest come first.
    """
    if capture.request.replace or looks_like_itself(copy):
        yield pixels.picture(copy)
        return
    with drawn(copy, capture.box) as part:
        yield part
    yield pixels.picture(copy)
    with drawn(copy, pixels.extent(copy)) as whole:
        yield whole


def fitted_pictures(capture: Capture) -> dict[int, str]:
    """Return the file names of the fitted pictures, by the number of the variation."""
    posts = enumerate(capture.job.read_state().posts, 1)
    return {number: post.placed for number, post in posts if post.placed}


def stamp(capture: Capture) -> object:
    """Return the properties of the image and layer for which a result is prepared.

    If these properties change before the result is placed, the result must be prepared again.
    """
    image, layer = capture.image, capture.layer
    if capture.request.visible:
        return pixel_type(image), image.get_width(), image.get_height()
    stored = Babl.get_name(layer.get_format()), bool(layer.get_lock_alpha())
    return pixel_type(image), stored, pixels.extent(layer), offsets(layer)


def pixel_type(image: Gimp.Image) -> tuple[int, int]:
    """Return GIMP's numbers for the base type (such as RGB) and the precision of an image.

    All layers of the image have the same base type and precision.
    """
    return int(image.get_base_type()), int(image.get_precision())


def is_whole(capture: Capture, placed: str) -> bool:
    """Return whether the file `placed` in the job folder is a PNG with the size that was sent."""
    size = (capture.box.width, capture.box.height)
    return bool(placed) and pixels.png_size(capture.job.folder / placed) == size
