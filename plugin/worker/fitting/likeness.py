"""Measure the likeness of two aligned pictures: how similar they are around each pixel."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from plugin.worker.fitting.affine import Floats

TEXTURE = 3.0
"""A pixel counts as textured if the standard deviation around it is above this (scale 0–255)."""


def likeness(one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the structural similarity, the texture and the contrast around each pixel.

    `one` and `other` are gray pictures, (height, width), on the scale 0–255. The three returned
    arrays have the same shape as the pictures:

    - the similarity, from -1 to 1. This is the structure term of the similarity measure SSIM (Wang
      et al., 2004), which ignores differences in brightness and contrast. Places without texture
      count as similar.
    - the texture: the smaller one of the standard deviations around the pixel in the two pictures.
    - the contrast: the standard deviation around the pixel in `other`, divided by that in `one`.
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
