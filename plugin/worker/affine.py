"""Affine motions between pictures: the layouts of answers, matrices, and resampling.

A motion is an affine 3×3 matrix that maps pixel coordinates (x, y, 1) of one picture to those of
another. Pixel centres lie at whole numbers.
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
"""How a picture was fitted into an answer of another ratio.

*extend*: it was scaled evenly and content was added around it. *crop*: it was scaled evenly and cut
off. *squeeze*: it was scaled differently in x and y.
"""


def layouts(sent: tuple[int, int], answer: tuple[int, int]) -> list[tuple[Layout, Matrix]]:
    """Return the layouts that an answer may have, with their matrices.

    `sent` and `answer` are sizes, (width, height). A matrix maps pixels of the picture sent to
    those of the answer. An answer of the same ratio has only one possible layout, *squeeze*. The
    first layout is the one to use if the answer can't be aligned.
    """
    across, down = answer[0] / sent[0], answer[1] / sent[1]
    # The sizes in the service's table deviate a little from their ratios. Such a deviation doesn't
    # make another ratio.
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
    """Return the matrix that scales by (x, y) and then shifts by (x, y).

    `scale` and `shift` are meant for coordinates in which pixel edges are whole numbers. The
    matrix is for coordinates in which pixel centres are whole numbers.
    """
    across, down = scale
    return np.array(
        [
            [across, 0, shift[0] + across / 2 - 0.5],
            [0, down, shift[1] + down / 2 - 0.5],
            [0, 0, 1],
        ]
    )


def scaled(picture: NDArray[Any], scale: float) -> tuple[NDArray[Any], Matrix]:
    """Return `picture` at a smaller scale, and the matrix from its pixels to those of `picture`.

    Each side of the smaller picture has at least 8 pixels.
    """
    if scale == 1:
        return picture, np.eye(3)
    height, width = picture.shape[:2]
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small, scaling((width / size[0], height / size[1]))


def zoom(matrix: NDArray[Any]) -> float:
    """Return the factor by which `matrix` enlarges: the square root of the factor for areas."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def farthest(matrix: NDArray[Any], size: tuple[int, int]) -> float:
    """Return how far `matrix` moves the corners of a picture of `size` (width, height).

    This is the distance of the corner that moves most, in pixels.
    """
    corners = np.array([[x, y, 1.0] for x in (0, size[0] - 1) for y in (0, size[1] - 1)])
    moved = corners @ matrix.T - corners
    return float(np.linalg.norm(moved, axis=1).max())


def plausible(matrix: Matrix) -> bool:
    """Return whether `matrix` is a motion that models make.

    A plausible motion mirrors nothing, changes the size by at most 30 % in any direction, stretches
    one direction by less than a factor of 1.2 against the other, and rotates by less than 8°.
    """
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
    """Return `picture` as `brought` does, and which pixels of `shape` it covers."""
    full = np.full(picture.shape[:2], 255, np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(full, matrix[:2], (shape[1], shape[0]), flags=flags)
    # Cubic interpolation near the picture's border uses pixels from beyond it.
    shown = cv2.erode(shown, np.ones((3, 3), np.uint8), borderValue=255)
    return brought(picture, matrix, shape), shown > 0


def brought(picture: Floats, matrix: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    """Return `picture` resampled to `shape`, (height, width), with cubic interpolation.

    `matrix` maps pixels of the returned picture to those of `picture`. Beyond the border of
    `picture`, its outermost pixels are repeated.
    """
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    size = (shape[1], shape[0])
    return cv2.warpAffine(picture, matrix[:2], size, flags=flags, borderMode=border)


def sampled(picture: Floats, points: Matrix) -> Floats:
    """Return the values of `picture`, (height, width), at `points`, (2, number): x and y.

    Values between pixels are interpolated cubically.
    """
    # OpenCV's remap accepts no side longer than 32767 pixels, so the points fill rows of 1024.
    count = points.shape[1]
    maps = np.zeros((2, -(-count // 1024) * 1024), np.float32)
    maps[:, :count] = points
    across, down = maps.reshape(2, -1, 1024)
    return cv2.remap(picture, across, down, cv2.INTER_CUBIC).ravel()[:count]
