"""Likeness: the structural similarity of two aligned pictures, for each pixel."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from plugin.worker.affine import Floats

TEXTURE = 3.0
"""Local standard deviation, in levels of 255, above which a place has texture."""


def likeness(one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the structural similarity, the texture and the contrast around each pixel.

    Both pictures are gray, (height, width), in levels of 255. The results have the same shape:

    - the similarity, from -1 to 1: the structure term of SSIM (Wang et al., 2004), which ignores
      differences in brightness and contrast. Flat places count as similar.
    - the texture: the smaller of the two local standard deviations, in levels.
    - the contrast: the local standard deviation of `other` divided by that of `one`.
    """
    (mean, variance), (other_mean, other_variance) = moments(one), moments(other)
    together = _local(one * other) - mean * other_mean
    floor: Any = np.float32(4.0)
    likeness = (together + floor) / (np.sqrt(variance * other_variance) + floor)
    contrast = np.sqrt((other_variance + floor) / (variance + floor))
    return likeness, np.sqrt(np.minimum(variance, other_variance)), contrast


def moments(picture: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the variance in a square window around each pixel."""
    mean = _local(picture)
    return mean, np.maximum(_local(picture * picture) - mean * mean, 0)


def _local(values: Floats) -> Floats:
    return cv2.blur(values, (11, 11))
