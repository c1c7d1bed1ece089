"""Blocks: small squares of a picture that are looked for in another one, as a first guess.

A motion counts that most blocks agree on. A block that fits as well at another place, as along a
line or on a fence, says nothing by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats, Matrix, aligned, plausible, scaling
from plugin.worker.likeness import TEXTURE, moments

Why = Literal["plain", "repeats", "anew"]

_COARSE = 256
"""The longer side at which blocks are looked for, at least."""
_BLOCK = 20
_REACH = 0.1
"""How far blocks are looked for, as a share of the longer side."""
_FOUND = 0.6
"""Correlation from which on a block counts as found."""
_RIVAL = 0.05
"""A place elsewhere whose correlation is less by no more than that may be meant as well."""
_ELSEWHERE = 5
"""Pixels from the best place on that are another place."""
_MOST_BLOCKS = 72
_LEAST_AGREEING = 6
_AGREEMENT = 2.5
"""Pixels there; a deformed picture keeps blocks from agreeing exactly."""
_MOST_OF_ALL = 0.5
"""The share of all blocks that must agree where most fit as well elsewhere."""
_NEARLY_ALL = 0.75
"""The share of blocks that are found in a picture which was not drawn anew."""
_AS_MANY = 0.8
"""A share of the blocks that agree: if so many agree on another motion, neither is known."""


class Agreement(NamedTuple):
    """The motion on which blocks agree: how many do (0: too few), and the motion itself."""

    blocks: int
    motion: Matrix
    why: Why = "anew"
    """Why too few do: there is little to find, it is found anywhere, or not at all."""


@dataclass(frozen=True)
class _Found:
    """Where blocks were found: (number, 2) each, at the scale of the blocks."""

    places: NDArray[np.float64]
    best: NDArray[np.float64]
    rivals: NDArray[np.float64]
    """Of those that have none, the best place."""
    has_rival: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    """Whether a block has a vote."""


def agreed(
    before: Floats, after: Floats, way: Matrix, outside: NDArray[np.bool_], anywhere: bool
) -> Agreement:
    """Find the motion on which blocks of `before` agree, which is near `way`.

    Blocks lie inside the selection too: much of it is often kept. A fifth of those `outside` must
    agree, by far more than chance has it; `anywhere`, without a selection, half of all, since any
    of them may have been edited. Both pictures are gray, (height, width).
    """
    height, width = before.shape
    scale = min(1.0, max(_COARSE, max(width, height) / 3) / max(width, height))
    size = (round(width * scale), round(height * scale))
    coarse = scaling((width / size[0], height / size[1]))
    # Blocks are looked for in the answer as this way has it, on the same scale.
    one = cv2.resize(before, size, interpolation=cv2.INTER_AREA)
    onto = way @ coarse
    other, shown = aligned(after, onto, one.shape[:2])
    certain = cv2.resize(outside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    textured = _textured(one, certain)
    found = _looked_for(textured, one, other, shown, certain, anywhere)
    alone = ~found.has_rival
    count, motion = _voted(found, found.best, alone, anywhere)
    if not count:
        count, motion = _voted(found, found.best, np.ones_like(alone), anywhere)
        others, _motion = _voted(found, found.rivals, found.has_rival, anywhere)
        # What fits as well elsewhere must fit nearly everywhere, and nowhere else.
        if _repeats(found) and (count < _MOST_OF_ALL * len(alone) or others >= _AS_MANY * count):
            count = 0
    matrix: Matrix = onto @ motion @ np.linalg.inv(coarse)
    if count and plausible(np.linalg.inv(way) @ matrix):
        return Agreement(count, matrix)
    if len(textured) < 2 * _LEAST_AGREEING:
        return Agreement(0, way, "plain")
    is_found = len(alone) > _NEARLY_ALL * len(textured)
    return Agreement(0, way, "repeats" if is_found and _repeats(found) else "anew")


def _repeats(found: _Found) -> bool:
    """Whether most blocks fit elsewhere as well."""
    return int(np.count_nonzero(found.has_rival)) > len(found.has_rival) / 2


def _looked_for(
    textured: list[tuple[int, int]],
    one: Floats,
    other: Floats,
    shown: NDArray[np.bool_],
    certain: Floats,
    anywhere: bool,
) -> _Found:
    """Look for the blocks of `one` that begin at `textured`, (x, y), in `other`."""
    height, width = one.shape
    reach = round(_REACH * max(one.shape))
    rows: list[tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool, bool]] = []
    for x, y in textured:
        left, top = max(0, x - reach), max(0, y - reach)
        window = (
            slice(top, min(height, y + _BLOCK + reach)),
            slice(left, min(width, x + _BLOCK + reach)),
        )
        block = one[y : y + _BLOCK, x : x + _BLOCK]
        scores = cv2.matchTemplate(other[window], block, cv2.TM_CCOEFF_NORMED)
        _low, best, _lowest, peak = cv2.minMaxLoc(scores)
        at = (left + peak[0], top + peak[1])
        if best < _FOUND or not shown[at[1] + _BLOCK // 2, at[0] + _BLOCK // 2]:
            continue
        cv2.rectangle(
            scores,
            (peak[0] - _ELSEWHERE, peak[1] - _ELSEWHERE),
            (peak[0] + _ELSEWHERE, peak[1] + _ELSEWHERE),
            (-1.0,),
            -1,
        )
        _low, second, _lowest, peak = cv2.minMaxLoc(scores)
        has_rival = second > best - _RIVAL
        rival = (left + peak[0], top + peak[1]) if has_rival else at
        is_certain = certain[y : y + _BLOCK, x : x + _BLOCK].min() > 0.999
        rows.append(((x, y), at, rival, has_rival, anywhere or bool(is_certain)))
    places, best_at, rivals = (
        np.array([row[i] for row in rows], np.float64).reshape(-1, 2) for i in range(3)
    )
    rivalled, counts = (np.array([row[i] for row in rows], np.bool_) for i in (3, 4))
    return _Found(places, best_at, rivals, rivalled, counts)


def _voted(
    found: _Found, where: NDArray[np.float64], chosen: NDArray[np.bool_], anywhere: bool
) -> tuple[int, Matrix]:
    """How many of the `chosen` blocks agree on where they are, and on what; 0 if too few."""
    places, where, decisive = found.places[chosen], where[chosen], found.counts[chosen]
    if len(places) < _LEAST_AGREEING:
        return 0, np.eye(3)
    cv2.setRNGSeed(0)
    # Shift, zoom and rotation alone: with more freedom, chance agreements count for more.
    motion, agreeing = cv2.estimateAffinePartial2D(
        places, where, method=cv2.RANSAC, ransacReprojThreshold=_AGREEMENT, maxIters=2000
    )
    if motion is None:
        return 0, np.eye(3)
    votes = agreeing.ravel()[decisive]
    needed = max(_LEAST_AGREEING, (0.5 if anywhere else 0.2) * len(votes))
    enough = votes.sum() >= needed
    if len(votes) < 2 * _LEAST_AGREEING or votes.sum() >= _LEAST_AGREEING // 2:
        # Hardly any texture outside, as around a product on white: what was kept inside tells.
        enough |= agreeing.sum() >= max(2 * _LEAST_AGREEING, 0.3 * len(places))
    return int(agreeing.sum()) if enough else 0, np.vstack([motion, [0, 0, 1]])


def _textured(picture: Floats, certain: Floats) -> list[tuple[int, int]]:
    """The left upper corners of the blocks that can be found again best: no flat ones, no edges.

    Half of them lie where it is `certain` that the picture was kept, if there are as many.
    """
    height, width = picture.shape
    square = (_BLOCK, _BLOCK)
    corners = cv2.blur(cv2.cornerMinEigenVal(picture, 5), square)
    texture = np.sqrt(moments(picture)[1])
    sure = cv2.blur(certain, square) > 0.999
    step = max(6, round(math.sqrt(width * height / 400)))
    half = _BLOCK // 2
    grid = np.mgrid[half : height - half + 1 : step, half : width - half + 1 : step]
    rows, columns = grid.reshape(2, -1)
    told = texture[rows, columns] > TEXTURE
    rows, columns = rows[told], columns[told]
    order = np.argsort(-corners[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    first = sure[rows, columns]
    first &= np.cumsum(first) <= _MOST_BLOCKS // 2
    chosen = np.argsort(~first, kind="stable")[:_MOST_BLOCKS]
    return [(int(columns[i]) - half, int(rows[i]) - half) for i in chosen]
