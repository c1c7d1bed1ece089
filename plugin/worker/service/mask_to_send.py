"""Turn the mask of a job into the mask that is sent to the service."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from plugin.errors import Failure, Kind
from plugin.translation import _


def made(mask: Image.Image, size: tuple[int, int], inner: tuple[int, int, int, int]) -> Image.Image:
    """Return the mask at the (width, height) `size` of the source that is sent, in mode RGBA.

    `mask` covers the region's content and has mode L; the value 255 means that the pixel is to be
    edited. `inner` is the (left, top, right, bottom), in pixels, of the content in the returned
    mask, outside of which nothing is to be edited. Raises Failure if all pixels of `mask` are 0.
    """
    left, top, right, bottom = inner
    if _highest(mask) == 0:
        raise Failure(Kind.SETUP, _("The selection is empty. Select the part to edit."))
    shown = (right - left, bottom - top)
    small = mask if mask.size == shown else mask.resize(shown, Image.Resampling.BOX)
    if _highest(small) < 128:
        # The selection is faint, or it is a thin line that faded when it was scaled down. To the
        # model, such a mask would mean "keep everything". So make every pixel white that the
        # selection touches.
        touched = (np.asarray(mask) > 0).astype(np.float32)
        share = cv2.resize(touched, shown, interpolation=cv2.INTER_AREA)
        small = Image.fromarray(((share > 0) * 255).astype(np.uint8))
    framed = Image.new("L", size, 0)
    framed.paste(small, (left, top))
    return _both_ways(framed)


def _highest(gray: Image.Image) -> int:
    return int(np.asarray(gray).max())


def _both_ways(mask: Image.Image) -> Image.Image:
    """Return an RGBA mask in which the pixels to edit are both white and transparent.

    Services follow one of two conventions: the pixels to edit are transparent, or they are white.
    The returned mask has the same meaning in both conventions.
    """
    keep = mask.point(lambda value: 255 - value)
    return Image.merge("RGBA", (mask, mask, mask, keep))
