"""Affine motions between pictures: how answers are laid out, and which motions models make.

Matrices are 3×3, affine, and take (x, y, 1) to (x, y, 1), pixel centres at whole numbers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.region import RATIO_TOLERANCE

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

_MOST_ZOOM = 0.3


Layout = Literal["extend", "crop", "squeeze"]
"""How a picture got into an answer of another ratio: with more around it, cut, or deformed."""


def layouts(sent: tuple[int, int], answer: tuple[int, int]) -> list[tuple[Layout, Matrix]]:
    """The ways in which a model may have fitted a picture into an answer; sizes (width, height).

    The first is what is taken where none can tell.
    """
    across, down = answer[0] / sent[0], answer[1] / sent[1]
    # The table's sizes are themselves a little off their ratios: that is no other ratio.
    if abs(across / down - 1) <= 2 * RATIO_TOLERANCE:
        return [("squeeze", scaling((across, down)))]

    def centred(scale: float) -> Matrix:
        left, top = (answer[0] - sent[0] * scale) / 2, (answer[1] - sent[1] * scale) / 2
        return scaling((scale, scale), (left, top))

    return [
        ("extend", centred(min(across, down))),
        ("crop", centred(max(across, down))),
        ("squeeze", scaling((across, down))),
    ]


def scaling(scale: tuple[float, float], shift: tuple[float, float] = (0, 0)) -> Matrix:
    """The matrix that scales and then shifts the edges of pixels, made for their centres."""
    across, down = scale
    return np.array(
        [
            [across, 0, shift[0] + across / 2 - 0.5],
            [0, down, shift[1] + down / 2 - 0.5],
            [0, 0, 1],
        ]
    )


def scaled(picture: NDArray[Any], scale: float) -> tuple[NDArray[Any], Matrix]:
    """The picture at a smaller scale, and the matrix from its pixels to those of `picture`."""
    if scale == 1:
        return picture, np.eye(3)
    height, width = picture.shape[:2]
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small, scaling((width / size[0], height / size[1]))


def zoom(matrix: NDArray[Any]) -> float:
    """By how much the matrix enlarges, on average over directions."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def farthest(matrix: NDArray[Any], size: tuple[int, int]) -> float:
    """How far the matrix moves a corner of a picture of `size` (width, height), in pixels."""
    corners = np.array([[x, y, 1.0] for x in (0, size[0] - 1) for y in (0, size[1] - 1)])
    moved = corners @ matrix.T - corners
    return float(np.linalg.norm(moved, axis=1).max())


def plausible(matrix: Matrix) -> bool:
    """Whether a motion is one of those that models make, not a mirror or a shear."""
    stretched = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    turned = math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1])
    return bool(
        np.linalg.det(matrix[:2, :2]) > 0
        and abs(stretched - 1).max() <= _MOST_ZOOM
        and stretched[0] / stretched[1] < 1.2
        and abs(turned) < math.radians(8)
    )


def aligned(
    picture: Floats, matrix: NDArray[Any], shape: tuple[int, ...]
) -> tuple[Floats, NDArray[np.bool_]]:
    """The picture brought onto one of `shape`, and where it has something to show there."""
    full = np.full(picture.shape[:2], 255, np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(full, matrix[:2], (shape[1], shape[0]), flags=flags)
    # The sampler looks beyond the rim.
    shown = cv2.erode(shown, np.ones((3, 3), np.uint8), borderValue=255)
    return brought(picture, matrix, shape), shown > 0


def brought(picture: Floats, matrix: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    """The picture brought onto one of `shape`, (height, width), by `matrix` from there."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    size = (shape[1], shape[0])
    return cv2.warpAffine(picture, matrix[:2], size, flags=flags, borderMode=border)


def sampled(picture: Floats, points: Matrix) -> Floats:
    """The picture at `points`, (2, number)."""
    # A remapping takes no side longer than 32767.
    count = points.shape[1]
    maps = np.zeros((2, -(-count // 1024) * 1024), np.float32)
    maps[:, :count] = points
    across, down = maps.reshape(2, -1, 1024)
    return cv2.remap(picture, across, down, cv2.INTER_CUBIC).ravel()[:count]
