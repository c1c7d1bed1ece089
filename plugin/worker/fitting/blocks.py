"""Find blocks of the picture sent in the answer, for a first guess of the motion between the two.

A *block* is a small square of the picture sent that is searched for in the answer. The first guess
is the motion on which enough blocks agree. Some blocks fit two places in the answer nearly equally
well, for example along a line or on a fence. The second place is called the *rival* of the block.
Blocks with rivals count only if the other blocks don't agree on a motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting.affine import Floats, Matrix, aligned, plausible, scaling
from plugin.worker.fitting.likeness import TEXTURE, moments

Why = Literal["plain", "repeats", "anew"]

_COARSE = 256
"""The longer side of the coarse pictures has at least this many pixels.

Blocks are searched for in coarse copies of both pictures. The copies have a third of the measuring
scale (see `registration`), unless that makes them smaller than this. All lengths in pixels
in the constants below refer to the coarse pictures.
"""
_BLOCK = 20
"""The side of a block, in pixels."""
_REACH = 0.1
"""How far from its original place a block is searched for, as a share of the longer side."""
_FOUND = 0.6
"""A block counts as found if its correlation, from -1 to 1, is at least this."""
_RIVAL = 0.05
"""A second place is a rival if its correlation is less than this below that of the best place."""
_ELSEWHERE = 5
"""A place counts as a second place if it is farther than this from the best place, in pixels."""
_MOST_BLOCKS = 72
_LEAST_AGREEING = 6
_AGREEMENT = 2.5
"""A block agrees with a motion if it deviates from the motion by at most this many pixels.

Some deviation is necessary because blocks never agree exactly if the answer is distorted.
"""
_MOST_OF_ALL = 0.5
"""If most of the blocks found have rivals, at least this share of all blocks found must agree."""
_NEARLY_ALL = 0.75
"""If a larger share of the blocks is found, the service did not draw the whole picture anew."""
_AS_MANY = 0.8
"""A motion is uncertain if many rivals agree on another motion: this share of its blocks or more.

The blocks of a motion are those that agree on it. If most blocks have rivals, an uncertain motion
is not used.
"""


class Agreement(NamedTuple):
    """The motion on which blocks agree, and the number of these blocks.

    If too few blocks agree, the number is 0 and `motion` is the motion of the layout. `motion` maps
    pixels of the picture sent to pixels of the answer, both at the measuring scale.
    """

    blocks: int
    motion: Matrix
    why: Why = "anew"
    """The reason why too few blocks agree.

    *plain*: the picture sent has too little texture. *repeats*: most blocks are found in several
    places. *anew*: too many blocks aren't found, or the blocks don't agree on a motion.
    """


@dataclass(frozen=True)
class _Found:
    """The blocks that were found in the answer.

    Arrays of places have the shape (number, 2). Each row contains the x and y of the upper left
    corner of a block, in pixels of the coarse pictures.
    """

    places: NDArray[np.float64]
    """The places of the blocks in the picture sent."""
    best: NDArray[np.float64]
    """The places where the blocks fit best in the answer."""
    rivals: NDArray[np.float64]
    """The places of the rivals, or the best places of the blocks that have no rival."""
    has_rival: NDArray[np.bool_]
    """An array of shape (number,) that is true for blocks with a rival."""
    counts: NDArray[np.bool_]
    """An array of shape (number,) that is true for blocks outside the selection.

    Without a selection, it is true for all blocks. A motion is accepted if a large enough share of
    these blocks agrees.
    """


def agreed(
    before: Floats, after: Floats, way: Matrix, outside: NDArray[np.bool_], anywhere: bool
) -> Agreement:
    """Find the motion, near the layout's motion `way`, on which blocks of `before` agree.

    `before` and `after` are gray pictures, (height, width), at the measuring scale. `way` maps
    pixels of `before` to pixels of `after`. `outside` has the shape of `before` and is true where a
    pixel is certainly outside the selection.

    Blocks inside the selection are used too, because the model often keeps much of the selected
    part. A fifth of the blocks outside must agree, which is far more than agree by chance. If there
    are few blocks outside, or if at least some of these agree, 30 % of all blocks are enough.
    `anywhere` means that there is no selection. As the model can then have edited any block, half
    of all blocks must agree.

    If too few blocks agree, return an Agreement with 0 blocks and the motion `way`.
    """
    height, width = before.shape
    scale = min(1.0, max(_COARSE, max(width, height) / 3) / max(width, height))
    size = (round(width * scale), round(height * scale))
    coarse = scaling((width / size[0], height / size[1]))
    # The blocks are searched for in the answer after it is brought to the scale and the place of
    # the coarse picture sent, by the inverse of the layout's motion.
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
        # If most blocks have rivals, a motion is accepted only if half of all blocks found agree on
        # it, and only if no similar number of rivals agrees on another motion.
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
    """Return whether more than half of the blocks found have rivals."""
    return int(np.count_nonzero(found.has_rival)) > len(found.has_rival) / 2


def _looked_for(
    textured: list[tuple[int, int]],
    one: Floats,
    other: Floats,
    shown: NDArray[np.bool_],
    certain: Floats,
    anywhere: bool,
) -> _Found:
    """Search the answer `other` for blocks of `one`, and return the blocks that were found.

    `textured` contains the upper left corners (x, y) of the blocks to search for. A block counts as
    found if the correlation at its best place is high enough and if the answer covers this place.
    `shown` is true where the answer covers `other`. `certain` is 1 where a pixel is certainly
    outside the selection. `anywhere` means that there is no selection.
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

    `where`, (number, 2), is the place of each block in the answer. If too few blocks agree, the
    returned number is 0. `anywhere` means that there is no selection.
    """
    places, where, decisive = found.places[chosen], where[chosen], found.counts[chosen]
    if len(places) < _LEAST_AGREEING:
        return 0, np.eye(3)
    cv2.setRNGSeed(0)
    # The motion consists only of shift, zoom and rotation, because with more parameters, more
    # blocks would agree by chance.
    motion, agreeing = cv2.estimateAffinePartial2D(
        places, where, method=cv2.RANSAC, ransacReprojThreshold=_AGREEMENT, maxIters=2000
    )
    if motion is None:
        return 0, np.eye(3)
    votes = agreeing.ravel()[decisive]
    needed = max(_LEAST_AGREEING, (0.5 if anywhere else 0.2) * len(votes))
    enough = votes.sum() >= needed
    if len(votes) < 2 * _LEAST_AGREEING or votes.sum() >= _LEAST_AGREEING // 2:
        # If the selection is a product on a white ground, hardly any textured blocks are outside.
        # Then, and also if at least a few blocks outside agree, blocks inside are enough.
        enough |= agreeing.sum() >= max(2 * _LEAST_AGREEING, 0.3 * len(places))
    return int(agreeing.sum()) if enough else 0, np.vstack([motion, [0, 0, 1]])


def _textured(picture: Floats, certain: Floats) -> list[tuple[int, int]]:
    """Return the upper left corners (x, y) of the blocks that are easiest to find in the answer.

    Blocks without texture are left out. Blocks that contain strong corners are preferred to blocks
    that contain only straight edges. `certain` is 1 where a pixel is certainly outside the
    selection. Up to half of the `_MOST_BLOCKS` blocks are first chosen from outside the selection.
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
