"""Likeness: where two pictures that lie on each other show the same structures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from plugin.worker.affine import Floats

TEXTURE = 3.0
"""Standard deviation of levels (of 255) from which on a place has texture."""


def likeness(one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """How alike the structures are around each pixel (-1 to 1), and how strong they are.

    The strength is the standard deviation of whichever has less of it, and that of `other` as a
    share of that of `one`. Likeness is the structure term of SSIM (Wang et al., 2004), in which
    brightness and contrast don't count; flat places are alike.
    """
    (mean, variance), (other_mean, other_variance) = moments(one), moments(other)
    together = _local(one * other) - mean * other_mean
    floor: Any = np.float32(4.0)
    likeness = (together + floor) / (np.sqrt(variance * other_variance) + floor)
    contrast = np.sqrt((other_variance + floor) / (variance + floor))
    return likeness, np.sqrt(np.minimum(variance, other_variance)), contrast


def moments(picture: Floats) -> tuple[Floats, Floats]:
    """The mean around each pixel, and the variance."""
    mean = _local(picture)
    return mean, np.maximum(_local(picture * picture) - mean * mean, 0)


def _local(values: Floats) -> Floats:
    return cv2.blur(values, (11, 11))
