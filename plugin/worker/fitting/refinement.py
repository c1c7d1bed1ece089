"""Refinement: find the most likely affine motion, using all pixels that the service kept.

A *kept* pixel shows the same in the picture sent and in the answer. *Drift* is the difference
between a motion and the layout's motion. The first guess of the motion is improved by Gauss-Newton
steps (the inverse compositional method of Baker and Matthews, 2004), in which pixels with large
errors get little weight. The estimate also takes into account what is known beforehand, the
*prior*: how large drifts usually are, and the motion on which blocks agreed.

A straight line contains no information on a motion along the line. Besides, the *slopes* (the
gradients of the picture) are never known exactly. So the estimate may contain drift in directions
of which the picture says nothing. Such drift is not significant, and is removed at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting.affine import (
    Floats,
    Matrix,
    aligned,
    brought,
    plausible,
    sampled,
    scaled,
)
from plugin.worker.fitting.likeness import TEXTURE, likeness
from plugin.worker.fitting.robust import deviation, tukey

_LEVELS = (0.5, 1.2), (1.0, 0.7)
"""The scale and the blur of each level of the pyramid, from the coarse level to the fine level.

A pyramid is a set of copies of a picture at several scales. A scale is relative to the measuring
scale; a blur is the standard deviation of a Gaussian, in pixels.
"""
_SAME = 0.8
"""A pixel inside the selection counts as kept if its structural similarity is above this."""
_ENOUGH_OUTSIDE = 2000
"""If at least this many textured pixels are outside the selection, they are enough at first.

The first level then ignores all pixels inside the selection.
"""
_LEAST = 200
"""If fewer pixels were kept, no motion is estimated."""
_APART = 5
"""A point is measured only if all pixels up to this distance from it, in x and y, were kept."""
_WIDE = (25, 25)
"""The window, in pixels, of the local mean that is subtracted from each picture.

The subtraction removes differences in brightness that extend over wider areas.
"""
_CONTRAST = (13, 13)
"""The window in which contrasts are compared, in pixels at a quarter of the level's scale."""
_MOST_STEPS = 15
"""At each level, at most this many Gauss-Newton steps are made."""
_MOST_POINTS = 6_000
_CELL = 24
"""The side, in pixels, of square cells. About the same number of points is taken from each cell."""
_SETTLED = 0.005
"""The iteration ends after a step that moves every point by less than this, in pixels."""
_NEIGHBOURS = 10
"""The number of pixels that count as one measurement, because neighbours have similar errors."""
_SLOPE_ERROR = 0.01
"""The assumed relative error of the slopes."""
_USUAL_DRIFT = np.array([0.035, 0.035, 0.014, 0.014, 0.03, 0.03])
"""The prior: standard deviations of the drift in zoom, stretch, rotation, shear and shifts (x, y).

The shifts are in units of half the longer side, and the rotation is in radians.
"""
_BLOCKS_KNOW = 0.3
"""The factor by which the prior's standard deviations are reduced if blocks agreed on a motion.

It applies to zoom, rotation and shifts, which the blocks have measured.
"""
_BETTER = 0.95
"""Another motion replaces the motion found so far if its error is below this share of the error.

At each level, the first guess and the layout's motion are tried again in this way.
"""
_SIGNIFICANT, _DECISIVE = 4.0, 20.0
"""Two limits for the drift in one direction of the parameter space, divided by its standard error.

Drift below the first limit is not significant. If the drift is below the second limit in all
directions, the layout's motion is used.
"""

# This matrix turns the six parameters of an affine motion, row by row, into zoom, stretch,
# rotation, shear, and the shifts in x and y.
_KINDS = np.array(
    [
        [0.5, 0, 0, 0, 0.5, 0],
        [0.5, 0, 0, 0, -0.5, 0],
        [0, -0.5, 0, 0.5, 0, 0],
        [0, 0.5, 0, 0.5, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
    ]
)


@dataclass(frozen=True)
class _Level:
    """One level of the pyramid: the answer, and the points at which both pictures are compared.

    A motion is described by six parameters, in two rows of three. They map the position of a point
    to the displacement of this point in pixels. The position is given in *units*: it is measured
    from the picture's centre, and half the longer side has the length 1.
    """

    after: Floats
    """The gray answer, (height, width), blurred after its local mean was subtracted."""
    points: Matrix
    """The points, (3, number): x, y and 1, in pixels of the picture sent at this level's scale."""
    unit: NDArray[np.float64]
    """The same points in units, (3, number): x, y and 1."""
    slopes: Floats
    """The derivatives of the picture sent with respect to the six parameters, (6, number)."""
    strength: Floats
    """The square of the gradient at each point, (number,)."""
    wanted: Floats
    """The value of the picture sent at each point, (number,), processed like `after`."""
    gain: Floats
    """The factor for the answer's value at each point, (number,), which equalizes the contrast."""
    about: Matrix
    """The matrix that maps positions in units to positions in pixels."""

    def errors(self, matrix: Matrix) -> Floats:
        """Return the differences between answer and picture sent at the points.

        The differences are on the scale 0–255. The answer is sampled where the motion
        `matrix` leads the points.
        """
        return self.gain * sampled(self.after, matrix[:2] @ self.points) - self.wanted


def refined(
    before: Floats,
    after: Floats,
    start: Matrix,
    layout: Matrix,
    outside: NDArray[np.bool_],
    by_blocks: bool,
) -> Matrix | None:
    """Return the most likely motion from `before` to `after`.

    `before` and `after` are gray pictures, (height, width), at the measuring scale. `start` is the
    first guess, and `layout` is the motion without any drift. `outside` is true where a pixel is
    certainly outside the selection. `by_blocks` is true if blocks agreed on `start`.

    Return None if too few pixels were kept, or if the motion found is not plausible. If too few
    points have a slope, return None with `by_blocks`, and `layout` without.
    """
    matrix = start
    information, about = np.zeros((6, 6)), np.eye(3)
    for number, (scale, blur) in enumerate(_LEVELS):
        small, to_before = scaled(before, scale)
        small_after, to_after = scaled(after, scale)
        shape = (small.shape[1], small.shape[0])
        certain = cv2.resize(outside.astype(np.float32), shape, interpolation=cv2.INTER_AREA) > 0.99
        back = np.linalg.inv(to_after)
        here, begin, way = (back @ each @ to_before for each in (matrix, start, layout))
        level = _level(small, small_after, here, certain, blur, number == 0)
        if level is None:
            return None
        if len(level.wanted) < 50:
            return None if by_blocks else layout
        about = level.about
        here = min(
            (here, begin, way),
            key=lambda each: _error(level, each) * (1 if each is here else 1 / _BETTER),
        )
        here, information = _stepped(level, here, way, begin if by_blocks else way)
        matrix = to_after @ here @ np.linalg.inv(to_before)
        if not plausible(np.linalg.inv(layout) @ matrix):
            return None
    # The last level has the full scale of both pictures, so `information` and `about` fit `matrix`.
    return _significant(matrix, layout, information, about)


def _error(level: _Level, matrix: Matrix) -> float:
    """Return the robust standard deviation of the errors at every second point.

    `matrix` is the motion that is assumed.
    """
    return deviation(level.errors(matrix)[::2])


def _level(
    before: Floats,
    after: Floats,
    matrix: Matrix,
    outside: NDArray[np.bool_],
    blur: float,
    is_first: bool,
) -> _Level | None:
    """Return a level of the pyramid, or None if too few pixels were kept.

    `before` and `after` are the gray pictures at the level's scale. `matrix` is the motion found so
    far. The answer is aligned with it to find out which pixels were kept. At the first level
    (`is_first`), this motion is not exact enough to compare structures, so structural similarity is
    ignored. `outside` is true where a pixel is certainly outside the selection. `blur` is the blur
    of the level, as in `_LEVELS`.
    """
    moved, shown = aligned(after, matrix, before.shape)
    alike, texture, _contrast = likeness(before, moved)
    telling = texture > TEXTURE
    kept = shown & outside
    if not (is_first and np.count_nonzero(kept & telling) >= _ENOUGH_OUTSIDE):
        kept = shown & (outside | telling)
        if not is_first:
            kept &= (alike > 0.5) & (outside | (alike > _SAME))
    if np.count_nonzero(kept) < _LEAST:
        return None
    weight = kept.astype(np.float32)
    one = cv2.GaussianBlur(before - _mean(before, weight, _WIDE), (0, 0), blur)
    moved_weight = np.clip(brought(weight, np.linalg.inv(matrix), after.shape), 0, 1)
    other = cv2.GaussianBlur(after - _mean(after, moved_weight, _WIDE), (0, 0), blur)
    return _pointed(one, other, matrix, kept)


def _mean(picture: Floats, weight: Floats, window: tuple[int, int]) -> Floats:
    """Return the weighted mean of `picture` in a `window` around each pixel.

    Where hardly any pixel in the window has a weight, return the mean of all pixels in the window.
    """
    total = cv2.blur(weight, window)
    mean = cv2.blur(picture * weight, window) / np.maximum(total, np.float32(1e-3))
    few = total < 0.02
    if few.any():
        mean[few] = cv2.blur(picture, window)[few]
    return mean


def _pointed(before: Floats, after: Floats, matrix: Matrix, kept: NDArray[np.bool_]) -> _Level:
    """Return the level of the pyramid, with points where `before` has the strongest slopes.

    `before` and `after` are the blurred pictures without their local means. `matrix` is the motion
    found so far. All points have a distance of more than `_APART` pixels from pixels that were not
    `kept`.
    """
    height, width = before.shape
    across = cv2.Sobel(before, cv2.CV_32F, 1, 0, scale=1 / 8)
    down = cv2.Sobel(before, cv2.CV_32F, 0, 1, scale=1 / 8)
    square = np.ones((2 * _APART + 1,) * 2, np.uint8)
    inner = cv2.erode(kept.astype(np.uint8), square, borderValue=1) > 0
    strength = (across * across + down * down) * inner
    rows, columns = _strongest(strength)
    unit = max(width, height) / 2
    about = np.array([[unit, 0, width / 2], [0, unit, height / 2], [0, 0, 1]])
    points = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float64)
    units = np.linalg.inv(about) @ points
    x, y = units[:2].astype(np.float32)
    dx, dy = across[rows, columns], down[rows, columns]
    slopes = np.stack([dx * x, dx * y, dx, dy * x, dy * y, dy])
    moved = brought(after, matrix, before.shape)
    gain = _gain(before, moved, kept.astype(np.float32))[rows, columns]
    wanted = before[rows, columns]
    return _Level(after, points, units, slopes, strength[rows, columns], wanted, gain, about)


def _gain(before: Floats, moved: Floats, weight: Floats) -> Floats:
    """Return the factor for each pixel that gives `moved` the local contrast of `before`.

    `weight` is 1 for kept pixels, and 0 for all others, which don't count. The factors are limited
    to values from 0.5 to 2.
    """
    # The factor varies slowly, so a quarter of the scale is enough.
    size = (max(1, before.shape[1] // 4), max(1, before.shape[0] // 4))
    one, other, known = (
        cv2.resize(each, size, interpolation=cv2.INTER_AREA)
        for each in (before * before, moved * moved, weight)
    )
    one, other = (_mean(each, known, _CONTRAST) for each in (one, other))
    # A variance of 1 is added to both variances, so that noise in flat areas has little effect.
    gain = np.clip(np.sqrt((one + 1) / (other + 1)), 0.5, 2)
    return cv2.resize(gain, before.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _strongest(strength: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and the columns of the pixels at which `strength` is largest.

    About the same number of pixels is taken from each cell, so that they cover the whole picture.
    """
    height, width = strength.shape
    high, wide = -(-height // _CELL), -(-width // _CELL)
    padded = np.zeros((high * _CELL, wide * _CELL), np.float32)
    padded[:height, :width] = strength
    grid = padded.reshape(high, _CELL, wide, _CELL).transpose(0, 2, 1, 3)
    cells = np.ascontiguousarray(grid).reshape(high * wide, _CELL * _CELL)
    used = np.nonzero(cells.max(axis=1) > 0)[0]
    each = min(_CELL * _CELL - 1, max(1, _MOST_POINTS // max(1, len(used))))
    limit = np.zeros(high * wide, np.float32)
    # Cells without any slope are left out, because NumPy's partition is slow if many values are
    # equal.
    limit[used] = np.partition(cells[used], -each - 1, axis=1)[:, -each - 1]
    over = np.repeat(np.repeat(limit.reshape(high, wide), _CELL, axis=0), _CELL, axis=1)
    rows, columns = np.nonzero(strength > over[:height, :width])
    return rows, columns


def _stepped(
    level: _Level, matrix: Matrix, layout: Matrix, around: Matrix
) -> tuple[Matrix, NDArray[np.float64]]:
    """Improve the motion `matrix` by Gauss-Newton steps.

    Return the improved motion and its information matrix, (6, 6). The information matrix says how
    exactly the pixels determine the six parameters: it is the inverse of their covariance, without
    the prior. `around` is the most likely motion according to the prior: the motion on which blocks
    agreed, or the layout's motion.
    """
    begin = matrix
    sds = _USUAL_DRIFT.copy()
    if around is not layout:
        sds[[0, 2, 4, 5]] *= _BLOCKS_KNOW
    usual = _KINDS.T @ np.diag((sds * level.about[0, 0]) ** -2) @ _KINDS
    back = np.linalg.inv(level.about)
    strength = level.strength
    place = np.argsort(strength)
    weak, strong = place[: len(place) // 2], place[-max(1, len(place) // 10) :]
    information = np.zeros((6, 6))
    for _step in range(_MOST_STEPS):
        error = level.errors(matrix)
        base = max(deviation(error[weak]), 0.5) ** 2
        share = max(0.0, deviation(error[strong]) ** 2 - base) / float(strength[strong].mean())
        variance = base + share * strength
        # A weak slope gets little weight, because noise alone can cause it.
        certain = (strength / (strength + 2 * base)) ** 2
        weights = tukey(error / (4 * np.sqrt(variance))) * certain / (variance * _NEIGHBOURS)
        weighted = level.slopes * weights
        # The operator @ would be slower here: it uses threads, which would spend more time waiting
        # for each other than working.
        information = np.einsum("in,jn->ij", weighted, level.slopes)
        pull = np.einsum("in,n->i", weighted, error)
        # Slightly wrong slopes pull the motion in directions of which the picture says nothing. The
        # term `ridge` pulls the motion back to the motion with which the iteration began.
        ridge = np.zeros((6, 6))
        part = np.einsum("in,jn->ij", level.unit * (weights * strength), level.unit)
        ridge[:3, :3] = ridge[3:, 3:] = _SLOPE_ERROR**2 * part
        drift, moved = (_drift(matrix, each, level.about) for each in (around, begin))
        step = np.zeros((3, 3))
        known = information + usual + ridge
        step[:2] = np.linalg.solve(known, pull + usual @ drift + ridge @ moved).reshape(2, 3)
        matrix = matrix @ np.linalg.inv(np.eye(3) + step @ back)
        if np.abs(step).sum(axis=1).max() < _SETTLED:
            break
    return matrix, information


def _drift(matrix: Matrix, origin: Matrix, about: Matrix) -> NDArray[np.float64]:
    """Return the six parameters of the motion that, applied before `origin`, results in `matrix`.

    `about` maps positions in units to positions in pixels.
    """
    return ((np.linalg.inv(origin) @ matrix - np.eye(3)) @ about)[:2].ravel()


def _significant(
    matrix: Matrix, layout: Matrix, information: NDArray[np.float64], about: Matrix
) -> Matrix:
    """Return the motion `matrix` without the drift from `layout` that is not significant.

    The drift is tested in each direction separately. The directions are the eigenvectors of the
    information matrix after each parameter is divided by its usual drift. `about` maps positions in
    units to positions in pixels.
    """
    unit = about[0, 0]
    sds = np.sqrt(np.linalg.inv(_KINDS) ** 2 @ (_USUAL_DRIFT * unit) ** 2)
    drift = _drift(matrix, layout, about) / sds
    known, directions = np.linalg.eigh(information * np.outer(sds, sds))
    along = directions.T @ drift
    certainty = np.abs(along) * np.sqrt(np.maximum(known, 0))
    if certainty.max() < _DECISIVE:
        return layout
    along[certainty < _SIGNIFICANT] = 0
    step = np.zeros((3, 3))
    step[:2] = (directions @ along * sds).reshape(2, 3)
    return layout @ (np.eye(3) + step @ np.linalg.inv(about))
