"""Likeness: how similar the structure of two aligned pictures is around each pixel."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from plugin.worker.fitting.affine import Floats

TEXTURE = 3.0
"""The least local standard deviation, in levels of 255, of a pixel that counts as textured."""


def likeness(one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the structural similarity, the texture and the contrast around each pixel.

    `one` and `other` are gray pictures, (height, width), in levels of 255. The three returned
    arrays have the same shape as the pictures:

    - the similarity, from -1 to 1. This is the structure term of the similarity measure SSIM (Wang
      et al., 2004), which ignores differences in brightness and contrast. Places without texture
      count as similar.
    - the texture: the smaller one of the local standard deviations of both pictures, in levels.
    - the contrast: the local standard deviation of `other`, divided by the one of `one`.
    """
    (mean, variance), (other_mean, other_variance) = moments(one), moments(other)
    together = _local(one * other) - mean * other_mean
    floor: Any = np.float32(4.0)
    likeness = (together + floor) / (np.sqrt(variance * other_variance) + floor)
    contrast = np.sqrt((other_variance + floor) / (variance + floor))
    return likeness, np.sqrt(np.minimum(variance, other_variance)), contrast


def moments(picture: Floats) -> tuple[Floats, Floats]:
    """Return two arrays: the mean and the variance in a square window around each pixel."""
    mean = _local(picture)
    return mean, np.maximum(_local(picture * picture) - mean * mean, 0)


def _local(values: Floats) -> Floats:
    return cv2.blur(values, (11, 11))
