"""Refinement: the most likely affine motion, from all pixels that were kept.

The first guess is improved by Gauss-Newton steps (inverse compositional; Baker and Matthews, 2004)
with robust weights. The estimate is a maximum a posteriori: the drift that models usually cause and
the motion on which blocks agreed are priors. *Drift* is the difference between a motion and that of
the layout.

A straight line contains no information on a motion along the line. Besides, the *slopes* (the
gradients of the picture) are never known exactly. In directions of the parameter space in which the
drift is not significant, the motion is therefore that of the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats, Matrix, aligned, brought, plausible, sampled, scaled
from plugin.worker.likeness import TEXTURE, likeness
from plugin.worker.robust import deviation, tukey

_LEVELS = (0.5, 1.2), (1.0, 0.7)
"""The levels of the pyramid: scale, relative to the measuring scale, and blur.

A blur is the standard deviation of a Gaussian, in pixels.
"""
_SAME = 0.8
"""Structural similarity above which a place inside the selection counts as kept."""
_ENOUGH_OUTSIDE = 2000
"""At the first level, if so many pixels outside the selection have texture, only these count."""
_LEAST = 200
"""The least number of pixels that must have been kept."""
_APART = 5
"""The least distance, in pixels, between a point and anything that was not kept."""
_WIDE = (25, 25)
"""The window, in pixels, of the local mean, which is subtracted: wider shades don't count."""
_CONTRAST = (13, 13)
"""The window in which contrasts are compared, in pixels at a quarter of the level's scale."""
_MOST_STEPS = 15
"""The most Gauss-Newton steps at each level."""
_MOST_POINTS = 6_000
_CELL = 24
"""Side, in pixels, of the cells from each of which the same number of points is taken."""
_SETTLED = 0.005
"""The iteration ends after a step that moves every point by less than this, in pixels."""
_NEIGHBOURS = 10
"""Neighbouring pixels have similar residuals: so many count as one independent measurement."""
_SLOPE_ERROR = 0.01
"""The relative error of the slopes."""
_USUAL_DRIFT = np.array([0.035, 0.035, 0.014, 0.014, 0.03, 0.03])
"""The prior: standard deviations of the drift in zoom, stretch, rotation, shear and shifts (x, y).

Shifts are in units of half the longer side; rotation is in radians.
"""
_BLOCKS_KNOW = 0.3
"""The factor for those of zoom, rotation and shifts, if the prior is the motion of the blocks."""
_BETTER = 0.95
"""The share of the error that another motion must stay below to replace the one found so far.

At each level, the start and the layout are tried as well.
"""
_SIGNIFICANT, _DECISIVE = 4.0, 20.0
"""Limits for the drift in a direction of the parameter space, in standard deviations of its error.

Below the first limit, the drift in this direction is not significant. If no direction reaches the
second limit, the motion is that of the layout.
"""

# From the six parameters of an affine motion, row by row, to zoom, stretch, rotation, shear and
# shifts.
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
    """One level of the pyramid: the answer, and the points at which it is compared.

    A motion has six parameters, two rows of three. They map a position in *units* (half the longer
    side, from the centre) to its displacement in pixels.
    """

    after: Floats
    """The answer, gray, (height, width), blurred and without its local mean."""
    points: Matrix
    """(3, number): x, y, 1 in pixels of the picture sent, at the scale of this level."""
    unit: NDArray[np.float64]
    """(3, number): the same points in units, x, y, 1."""
    slopes: Floats
    """(6, number): the derivative of the picture sent with respect to each of the parameters."""
    strength: Floats
    """(number,): the square of the gradient."""
    wanted: Floats
    """(number,): the values of the picture sent, processed as `after`."""
    gain: Floats
    """(number,): the factors for the answer's values that make the local contrast equal."""
    about: Matrix
    """From units to pixels."""

    def errors(self, matrix: Matrix) -> Floats:
        """Return the residuals at the points, in levels of 255, if `matrix` is the motion."""
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

    Both are gray, (height, width), at the measuring scale. `start` is the first guess, `layout` the
    motion without any drift, and `outside` what is certainly outside the selection. `by_blocks` is
    true if blocks agreed on `start`.

    None means that too little was kept or that the result is not plausible. If there are too few
    points with a slope, the result is `layout`, or None if `by_blocks`.
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
    """Return the robust standard deviation of a motion's residuals, at every second point."""
    return deviation(level.errors(matrix)[::2])


def _level(
    before: Floats,
    after: Floats,
    matrix: Matrix,
    outside: NDArray[np.bool_],
    blur: float,
    is_first: bool,
) -> _Level | None:
    """Return a level of the pyramid, or None if too little was kept.

    `matrix` is the motion found so far, with which the kept pixels are recognised. At the first
    level, structural similarity doesn't count yet.
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
    """Return the weighted mean in a `window` around each pixel.

    Where hardly any pixel in the window has a weight, this is the mean of all its pixels.
    """
    total = cv2.blur(weight, window)
    mean = cv2.blur(picture * weight, window) / np.maximum(total, np.float32(1e-3))
    few = total < 0.02
    if few.any():
        mean[few] = cv2.blur(picture, window)[few]
    return mean


def _pointed(before: Floats, after: Floats, matrix: Matrix, kept: NDArray[np.bool_]) -> _Level:
    """Return the level with the points of `before` that have the strongest slopes.

    Points keep a distance from what was not `kept`.
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

    `weight` is 1 for pixels that were kept, and 0 for others, which don't count. The factor is
    between 0.5 and 2.
    """
    # The factor varies slowly, so a quarter of the scale is enough.
    size = (max(1, before.shape[1] // 4), max(1, before.shape[0] // 4))
    one, other, known = (
        cv2.resize(each, size, interpolation=cv2.INTER_AREA)
        for each in (before * before, moved * moved, weight)
    )
    one, other = (_mean(each, known, _CONTRAST) for each in (one, other))
    # A variance of one level is added to both, so that noise in flat parts has little effect.
    gain = np.clip(np.sqrt((one + 1) / (other + 1)), 0.5, 2)
    return cv2.resize(gain, before.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _strongest(strength: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the strongest points, about the same number from each cell."""
    height, width = strength.shape
    high, wide = -(-height // _CELL), -(-width // _CELL)
    padded = np.zeros((high * _CELL, wide * _CELL), np.float32)
    padded[:height, :width] = strength
    grid = padded.reshape(high, _CELL, wide, _CELL).transpose(0, 2, 1, 3)
    cells = np.ascontiguousarray(grid).reshape(high * wide, _CELL * _CELL)
    used = np.nonzero(cells.max(axis=1) > 0)[0]
    each = min(_CELL * _CELL - 1, max(1, _MOST_POINTS // max(1, len(used))))
    limit = np.zeros(high * wide, np.float32)
    # Cells without any slope are left out: NumPy's partition is slow with so many equal values.
    limit[used] = np.partition(cells[used], -each - 1, axis=1)[:, -each - 1]
    over = np.repeat(np.repeat(limit.reshape(high, wide), _CELL, axis=0), _CELL, axis=1)
    rows, columns = np.nonzero(strength > over[:height, :width])
    return rows, columns


def _stepped(
    level: _Level, matrix: Matrix, layout: Matrix, around: Matrix
) -> tuple[Matrix, NDArray[np.float64]]:
    """Return the motion after Gauss-Newton steps from `matrix`, and its information matrix.

    `around` is the mean of the prior: the motion of the blocks, or the layout. The information
    matrix, (6, 6), is the inverse of the parameters' covariance, without the prior.
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
        # Slopes that may be caused by noise alone get little weight.
        certain = (strength / (strength + 2 * base)) ** 2
        weights = tukey(error / (4 * np.sqrt(variance))) * certain / (variance * _NEIGHBOURS)
        weighted = level.slopes * weights
        # Not with @: its threads would wait for each other longer than they work.
        information = np.einsum("in,jn->ij", weighted, level.slopes)
        pull = np.einsum("in,n->i", weighted, error)
        # Slopes that are slightly wrong pull the motion in directions in which the picture contains
        # no information. This term pulls it back to where it began.
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
    """Return the six parameters of the motion that leads from `origin` to `matrix`."""
    return ((np.linalg.inv(origin) @ matrix - np.eye(3)) @ about)[:2].ravel()


def _significant(
    matrix: Matrix, layout: Matrix, information: NDArray[np.float64], about: Matrix
) -> Matrix:
    """Return `matrix` without the drift from `layout` that is not significant.

    The directions are the eigenvectors of the information matrix, with each parameter in units of
    its usual drift. `about` takes units to pixels.
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
