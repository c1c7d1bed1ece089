"""Compute affine motions between two pictures as matrices, and resample pictures by them.

An affine motion shifts, scales, rotates or shears a picture. Here, a motion is a 3×3 matrix that
maps pixel coordinates (x, y, 1) of one picture to pixel coordinates of another picture. The centres
of pixels have whole numbers as coordinates.
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
"""How the service fitted the picture sent into an answer of another ratio.

*extend*: the service scaled the picture evenly and added content around it. *crop*: the service
scaled the picture evenly and cut off its sides. *squeeze*: the service scaled the picture by
different factors in x and y.
"""


def layouts(sent: tuple[int, int], answer: tuple[int, int]) -> list[tuple[Layout, Matrix]]:
    """Return the possible layouts of an answer, each with its matrix.

    `sent` and `answer` are the sizes, (width, height), of the picture sent and of the answer. Each
    matrix maps pixels of the picture sent to pixels of the answer. If both sizes have the same
    ratio, the only possible layout is *squeeze*. The first layout in the list is the one to use if
    the answer can't be aligned.
    """
    across, down = answer[0] / sent[0], answer[1] / sent[1]
    # The sizes in the service's table deviate a little from the ratios that they stand for, so two
    # ratios that are nearly equal count as the same ratio.
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
    """Return the matrix that scales by `scale`, (x, y), and then shifts by `shift`, (x, y).

    `scale` and `shift` refer to coordinates in which the edges of pixels are whole numbers. The
    returned matrix is for coordinates in which the centres of pixels are whole numbers, as
    everywhere in this module.
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
    """Return a smaller copy of `picture`, and the matrix that maps pixels of the copy to `picture`.

    `scale` is at most 1. Each side of the copy has at least 8 pixels. With a scale of 1, return
    `picture` itself.
    """
    if scale == 1:
        return picture, np.eye(3)
    height, width = picture.shape[:2]
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small, scaling((width / size[0], height / size[1]))


def zoom(matrix: NDArray[Any]) -> float:
    """Return the factor by which `matrix` enlarges lengths, averaged over all directions.

    This is the square root of the factor by which `matrix` enlarges areas.
    """
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def farthest(matrix: NDArray[Any], size: tuple[int, int]) -> float:
    """Return how far, in pixels, `matrix` moves the corner that it moves most.

    The corners are those of a picture of `size`, (width, height).
    """
    corners = np.array([[x, y, 1.0] for x in (0, size[0] - 1) for y in (0, size[1] - 1)])
    moved = corners @ matrix.T - corners
    return float(np.linalg.norm(moved, axis=1).max())


def plausible(matrix: Matrix) -> bool:
    """Return whether `matrix` is a motion that an AI model is likely to cause.

    A plausible motion doesn't mirror the picture, changes lengths by at most 30 % in any direction,
    stretches no direction 1.2 times as much as another, and rotates the picture by less than 8°.
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
    """Return `picture` resampled like `brought` does, and where the resampled picture is real.

    The second array, of `shape` (height, width), is true at the pixels that `picture` covers, and
    false where `brought` only repeats its outermost pixels.
    """
    full = np.full(picture.shape[:2], 255, np.uint8)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(full, matrix[:2], (shape[1], shape[0]), flags=flags)
    # Near the picture's border, cubic interpolation also uses pixels from beyond the border, so the
    # outermost pixels don't count as covered.
    shown = cv2.erode(shown, np.ones((3, 3), np.uint8), borderValue=255)
    return brought(picture, matrix, shape), shown > 0


def brought(picture: Floats, matrix: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    """Return `picture` resampled to `shape`, (height, width), with cubic interpolation.

    `matrix` maps pixels of the returned picture to pixels of `picture`. Where `matrix` leads beyond
    the border of `picture`, the returned picture repeats the outermost pixels of `picture`.
    """
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    size = (shape[1], shape[0])
    return cv2.warpAffine(picture, matrix[:2], size, flags=flags, borderMode=border)


def sampled(picture: Floats, points: Matrix) -> Floats:
    """Return the values of `picture`, an array of shape (height, width), at `points`.

    `points` has the shape (2, number), with rows for x and y. The returned array has the shape
    (number,). Between the centres of pixels, the values are interpolated cubically.
    """
    # OpenCV's remap can't return an array with more than 32767 columns, so the points are arranged
    # in rows of 1024.
    count = points.shape[1]
    maps = np.zeros((2, -(-count // 1024) * 1024), np.float32)
    maps[:, :count] = points
    across, down = maps.reshape(2, -1, 1024)
    return cv2.remap(picture, across, down, cv2.INTER_CUBIC).ravel()[:count]
