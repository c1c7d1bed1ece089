"""Blocks: a first guess of the motion, from small squares that are searched for in the answer.

The first guess is the motion on which enough blocks agree. A block may fit a second place as well,
for example along a line or on a fence. This place is called its *rival*. Blocks with rivals have a
vote only if the other blocks don't agree on a motion.
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
"""The least longer side, in pixels, of the coarse pictures in which blocks are searched for.

They have a third of the measuring scale, if that is larger. Pixels below are those of the coarse
pictures.
"""
_BLOCK = 20
"""Side of a block, in pixels."""
_REACH = 0.1
"""How far from its place a block is searched for, as a share of the longer side."""
_FOUND = 0.6
"""The least correlation with which a block counts as found."""
_RIVAL = 0.05
"""A second place is a rival if its correlation is lower by less than this."""
_ELSEWHERE = 5
"""Pixels from the best place beyond which a place counts as another one."""
_MOST_BLOCKS = 72
_LEAST_AGREEING = 6
_AGREEMENT = 2.5
"""Pixels by which a block may deviate. In a deformed picture, blocks never agree exactly."""
_MOST_OF_ALL = 0.5
"""The share of all blocks that must agree if most of them have rivals."""
_NEARLY_ALL = 0.75
"""If a larger share of the blocks is found, the picture was not drawn anew."""
_AS_MANY = 0.8
"""The limit for rivals that agree on another motion, as a share of the blocks that agree.

From this limit on, neither of the two motions is certain.
"""


class Agreement(NamedTuple):
    """The number of blocks that agree, 0 if they are too few, and the motion on which they agree.

    `motion` maps pixels of the picture sent to those of the answer, both at the measuring scale.
    Without an agreement, it is the layout's.
    """

    blocks: int
    motion: Matrix
    why: Why = "anew"
    """Why too few blocks agree.

    *plain*: there is too little texture. *repeats*: most blocks are found in several places.
    *anew*: they aren't found, or they don't agree.
    """


@dataclass(frozen=True)
class _Found:
    """The blocks that were found.

    Places are (number, 2): the x and y of a block's upper left corner, in the coarse pictures.
    """

    places: NDArray[np.float64]
    """Where the blocks are in the picture sent."""
    best: NDArray[np.float64]
    """Where they fit best in the answer."""
    rivals: NDArray[np.float64]
    """Where they fit nearly as well; the best place if a block has no rival."""
    has_rival: NDArray[np.bool_]
    """(number,)."""
    counts: NDArray[np.bool_]
    """(number,): the blocks outside the selection, which were kept; all blocks without a selection.

    The share of them that agrees decides on a motion.
    """


def agreed(
    before: Floats, after: Floats, way: Matrix, outside: NDArray[np.bool_], anywhere: bool
) -> Agreement:
    """Find the motion, near the layout's motion `way`, on which blocks of `before` agree.

    Both pictures are gray, (height, width), at the measuring scale. `way` maps pixels of `before`
    to those of `after`. `outside`, of the size of `before`, is what is certainly not selected.

    Blocks inside the selection are used too, because much of it is often kept. A fifth of the
    blocks outside must agree, which is far more than agree by chance. If there are few of them, or
    if at least some of them agree, 30 % of all blocks are enough. `anywhere` means that there is no
    selection. Any block may then have been edited, and half of all blocks must agree.

    If too few blocks agree, the result's `blocks` is 0 and its `motion` is `way`.
    """
    height, width = before.shape
    scale = min(1.0, max(_COARSE, max(width, height) / 3) / max(width, height))
    size = (round(width * scale), round(height * scale))
    coarse = scaling((width / size[0], height / size[1]))
    # The blocks are searched for in the answer after this layout is reversed, at the same scale.
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
        # If most blocks have rivals, half of all blocks must agree on a motion, and nearly as many
        # rivals must not agree on another one.
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
    """Return whether most of the blocks found have rivals."""
    return int(np.count_nonzero(found.has_rival)) > len(found.has_rival) / 2


def _looked_for(
    textured: list[tuple[int, int]],
    one: Floats,
    other: Floats,
    shown: NDArray[np.bool_],
    certain: Floats,
    anywhere: bool,
) -> _Found:
    """Search `other` for the blocks of `one` whose upper left corners are `textured`, (x, y).

    A block counts as found if its best place is one that the answer covers (`shown`) and if the
    correlation there is high enough. `certain` is 1 where a pixel is outside the selection.
    """
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
    """Return how many of the `chosen` blocks agree on a motion, and this motion.

    `where` is the place of each block in the answer, (number, 2). The number is 0 if too few agree.
    """
    places, where, decisive = found.places[chosen], where[chosen], found.counts[chosen]
    if len(places) < _LEAST_AGREEING:
        return 0, np.eye(3)
    cv2.setRNGSeed(0)
    # Only shift, zoom and rotation: with more parameters, more blocks agree by chance.
    motion, agreeing = cv2.estimateAffinePartial2D(
        places, where, method=cv2.RANSAC, ransacReprojThreshold=_AGREEMENT, maxIters=2000
    )
    if motion is None:
        return 0, np.eye(3)
    votes = agreeing.ravel()[decisive]
    needed = max(_LEAST_AGREEING, (0.5 if anywhere else 0.2) * len(votes))
    enough = votes.sum() >= needed
    if len(votes) < 2 * _LEAST_AGREEING or votes.sum() >= _LEAST_AGREEING // 2:
        # Around a product on white, hardly any blocks are outside the selection. Those that were
        # kept inside are then enough. The same holds if at least a few blocks outside agree.
        enough |= agreeing.sum() >= max(2 * _LEAST_AGREEING, 0.3 * len(places))
    return int(agreeing.sum()) if enough else 0, np.vstack([motion, [0, 0, 1]])


def _textured(picture: Floats, certain: Floats) -> list[tuple[int, int]]:
    """Return the upper left corners (x, y) of the blocks that can be found again best.

    Flat blocks are left out. Blocks with strong corners are preferred to blocks with only straight
    edges. At least half of the blocks are `certain`, outside the selection, if there are as many.
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
