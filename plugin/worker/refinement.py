"""Refinement: from a first guess to the most likely motion, by all pixels that were kept.

Gauss-Newton steps (inverse compositional; Baker and Matthews, 2004) with robust weights. How models
usually drift, and what blocks agreed on, counts as knowledge (maximum a posteriori). Along a
straight line a picture tells nothing, and a slope is never known exactly: a direction in which the
motion is not significant stays at the layout.
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
"""The scales at which the motion is looked for, and the blurs there."""
_SAME = 0.8
"""Structural similarity from which on a place inside the selection counts as kept."""
_ENOUGH_OUTSIDE = 2000
"""Pixels with texture outside the selection that need none inside, at the first look."""
_LEAST = 200
"""Pixels that must have been kept."""
_APART = 5
"""Pixels that points keep away from what was not kept."""
_WIDE = (25, 25)
"""Shades wider than that don't count."""
_CONTRAST = (13, 13)
"""The window, in pixels of a quarter of the scale, in which contrasts are compared."""
_MOST_STEPS = 15
_MOST_POINTS = 6_000
_CELL = 24
"""Pixels of the cells of which each gives as many points."""
_SETTLED = 0.005
"""Pixels of a step that is the last."""
_NEIGHBOURS = 10
"""Pixels that differ alike, and count as one."""
_SLOPE_ERROR = 0.01
"""How exactly slopes are known."""
_USUAL_DRIFT = np.array([0.035, 0.035, 0.014, 0.014, 0.03, 0.03])
"""Standard deviations of how models drift: zoom, stretch, turn, shear, and shifts (x, y).

In units of half the longer side.
"""
_BLOCKS_KNOW = 0.3
"""What is left of them for zoom, turn and shifts, where blocks agree."""
_BETTER = 0.95
"""Another start must have so much less of an error."""
_SIGNIFICANT, _DECISIVE = 4.0, 20.0
"""Standard deviations from which on a direction of the motion is known, and any of it at all."""

# From an affine motion's six numbers, by rows, to zoom, stretch, turn, shear and shifts.
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
    """A picture and its answer as one blur shows them, and the points that are compared."""

    after: Floats
    points: Matrix
    """(3, number): x, y, 1."""
    unit: NDArray[np.float64]
    """(3, number): the same about the centre, in units of half the longer side."""
    slopes: Floats
    """(6, number): what each of the six numbers changes at a point."""
    strength: Floats
    """The slope's square."""
    wanted: Floats
    gain: Floats
    """What the answer's values are multiplied by."""
    about: Matrix
    """From those units to pixels."""

    def errors(self, matrix: Matrix) -> Floats:
        """The levels by which the answer is off at the points, if it lies at `matrix`."""
        return self.gain * sampled(self.after, matrix[:2] @ self.points) - self.wanted


def refined(
    before: Floats,
    after: Floats,
    start: Matrix,
    layout: Matrix,
    outside: NDArray[np.bool_],
    by_blocks: bool,
) -> Matrix | None:
    """The most likely motion, found from `start`; None where too little was kept.

    `before` and `after` are gray, (height, width) each; `layout` is the motion without any drift.
    `by_blocks`: whether `start` is what blocks agreed on.
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
    # The last level has the scale of the pictures.
    return _significant(matrix, layout, information, about)


def _error(level: _Level, matrix: Matrix) -> float:
    """The robust error of a motion."""
    return deviation(level.errors(matrix)[::2])


def _level(
    before: Floats,
    after: Floats,
    matrix: Matrix,
    outside: NDArray[np.bool_],
    blur: float,
    is_first: bool,
) -> _Level | None:
    """Choose the points that are compared; None if too little was kept."""
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
    """The mean around each pixel of those that have a weight; of all where none has."""
    total = cv2.blur(weight, window)
    mean = cv2.blur(picture * weight, window) / np.maximum(total, np.float32(1e-3))
    few = total < 0.02
    if few.any():
        mean[few] = cv2.blur(picture, window)[few]
    return mean


def _pointed(before: Floats, after: Floats, matrix: Matrix, kept: NDArray[np.bool_]) -> _Level:
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
    """What brings `moved` to the contrast of `before`, place by place, by what was kept."""
    # It changes slowly: a few pixels tell it.
    size = (max(1, before.shape[1] // 4), max(1, before.shape[0] // 4))
    one, other, known = (
        cv2.resize(each, size, interpolation=cv2.INTER_AREA)
        for each in (before * before, moved * moved, weight)
    )
    one, other = (_mean(each, known, _CONTRAST) for each in (one, other))
    # At least a level of contrast: noise tells nothing.
    gain = np.clip(np.sqrt((one + 1) / (other + 1)), 0.5, 2)
    return cv2.resize(gain, before.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _strongest(strength: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the points with the strongest slopes, as many of each cell."""
    height, width = strength.shape
    high, wide = -(-height // _CELL), -(-width // _CELL)
    padded = np.zeros((high * _CELL, wide * _CELL), np.float32)
    padded[:height, :width] = strength
    grid = padded.reshape(high, _CELL, wide, _CELL).transpose(0, 2, 1, 3)
    cells = np.ascontiguousarray(grid).reshape(high * wide, _CELL * _CELL)
    used = np.nonzero(cells.max(axis=1) > 0)[0]
    each = min(_CELL * _CELL - 1, max(1, _MOST_POINTS // max(1, len(used))))
    limit = np.zeros(high * wide, np.float32)
    # Cells without any slope are left out: NumPy takes long to part so many equal values.
    limit[used] = np.partition(cells[used], -each - 1, axis=1)[:, -each - 1]
    over = np.repeat(np.repeat(limit.reshape(high, wide), _CELL, axis=0), _CELL, axis=1)
    rows, columns = np.nonzero(strength > over[:height, :width])
    return rows, columns


def _stepped(
    level: _Level, matrix: Matrix, layout: Matrix, around: Matrix
) -> tuple[Matrix, NDArray[np.float64]]:
    """`matrix` after some steps towards the most likely motion, and how much is known of it.

    `around` is where the motion is expected: that of the blocks, or the layout. What is known is
    the inverse of a covariance of the six numbers.
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
        # Slopes that noise could have are noise.
        certain = (strength / (strength + 2 * base)) ** 2
        weights = tukey(error / (4 * np.sqrt(variance))) * certain / (variance * _NEIGHBOURS)
        weighted = level.slopes * weights
        # Not by @: its threads wait for each other longer than they work.
        information = np.einsum("in,jn->ij", weighted, level.slopes)
        pull = np.einsum("in,n->i", weighted, error)
        # A slope that is a little wrong pulls along itself, wherever it is.
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
    """The six numbers by which a motion differs from `origin`: pixels for units."""
    return ((np.linalg.inv(origin) @ matrix - np.eye(3)) @ about)[:2].ravel()


def _significant(
    matrix: Matrix, layout: Matrix, information: NDArray[np.float64], about: Matrix
) -> Matrix:
    """`matrix` with the layout's motion in the directions in which the picture tells no other."""
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
