"""Compute the blend, by which a result fades in from the selection's edge inwards.

The worker only computes the factors of the blend; `gimp/weights.py` applies them in the image.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image


def factor(mask: Image.Image, pixels: int) -> Image.Image:
    """Return the picture (mode L) by which `mask` must be multiplied to fade in the result.

    `mask` has the mode L, and 255 where the picture is edited. The blend is a ramp that rises from
    0 at the selection's edge to 255 over the number of `pixels` inwards. Each pixel of the product
    is the smaller value of the mask and the ramp. So a feathered edge that is softer than the ramp
    does not change.
    """
    selected = np.asarray(mask)
    # Where the selection reaches the border of the picture, treat the selection as going on beyond
    # the border, so that there is no blend along the border.
    inside = cv2.copyMakeBorder((selected > 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    ramp = np.clip(distance / (pixels + 1), 0, 1) * 255
    factor = np.minimum(1, ramp / np.maximum(selected, 1))
    return Image.fromarray(np.rint(factor * 255).astype(np.uint8))
