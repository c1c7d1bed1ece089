"""Registration: where the pixels that were sent are in the answer, and which of them were kept.

Models draw the whole picture anew. It may come back slightly shifted, zoomed or rotated, and
sometimes cut to another ratio. Registration starts with the affine motion on which blocks agree. It
then refines this motion with the parts of the picture that were kept: those around the selection,
and those inside it whose structure is the same as before.

Everything is measured at a reduced scale, the *measuring scale*. There, the longer side has a third
of the pixels that it has in the picture sent, but at least 512 and at most 1024. Smaller pictures
keep their scale. The answer is reduced to nearly the same scale, and never enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker import bends, blocks
from plugin.worker.affine import (
    Floats,
    Layout,
    Matrix,
    Pixels,
    aligned,
    farthest,
    layouts,
    scaled,
    zoom,
)
from plugin.worker.likeness import TEXTURE, likeness
from plugin.worker.refinement import refined

_SHORTEST, _LONGEST = 512, 1024
"""Limits of the longer side at the measuring scale, in pixels."""
_SMALLEST = 24
"""The shortest side, in pixels, of a picture that can be registered.

Smaller pictures contain too little information, and sampling beyond their borders takes extremely
long.
"""
_SAME = 0.5
"""Structural similarity above which a place counts as kept."""
_LEAST_OUTSIDE = 200
"""Pixels with texture outside the selection that are enough for a judgement.

If there are fewer, the pixels with texture inside the selection are judged as well.
"""
_SAME_SHARE = 0.5
"""Share of the pixels with texture that must have been kept; otherwise the answer is rejected."""
_EDGE = 61
"""Width of the band along the selection's edge in which bends are visible.

In pixels at the measuring scale.
"""
_NEAR = 12.0
"""Pixels, at the measuring scale, up to which a motion is accepted on which no blocks agree."""
_LEAST_DRIFT = 0.2
"""Pixels of the picture sent. A smaller drift from the layout isn't worth a resampling."""


class Unaligned(Exception):
    """The answer can't be aligned with the picture sent.

    `why` is the reason: the picture is too *plain* (or too small), it *repeats* itself, or the
    answer was drawn *anew*.
    """

    def __init__(self, why: blocks.Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Registration:
    """An answer, aligned with the picture sent.

    All arrays except `matrix` and `to_sent` are at the measuring scale, (height, width) unless
    another shape is given. Values of pictures are levels from 0 to 255.
    """

    matrix: Matrix
    """The affine motion, from pixels of the picture sent to those of the answer."""
    bend: Floats | None
    """The motion that remains beside the affine one, (height, width, 2), in pixels of these arrays.

    These offsets (x, y) are added to a position before the affine motion. None without bends.
    """
    layout: Layout
    to_sent: Matrix
    """From pixels of these arrays to those of the picture sent."""
    before: Floats
    """The picture sent, RGB (height, width, 3)."""
    after: Floats
    """The answer, aligned with `before`, RGB (height, width, 3)."""
    shown: NDArray[np.bool_]
    """The pixels that the answer covers."""
    outside: NDArray[np.bool_]
    """Those of the shown pixels that are certainly outside the selection."""
    likeness: Floats
    """Structural similarity, from -1 to 1. Differences in tone don't affect it."""
    texture: Floats
    """The smaller of both pictures' standard deviations around each pixel, in levels."""
    contrast: Floats
    """The answer's standard deviation around each pixel, divided by that of the picture sent."""


def register(sent: Pixels, answer: Pixels, edited: Pixels | None) -> Registration:
    """Find `sent` in `answer`. Raises Unaligned if they don't have enough in common.

    Both are RGB (height, width, 3), of any sizes. `edited` is the selection over `sent`,
    (height, width), above 0 where edited. None means that any pixel may have been edited.
    """
    height, width = sent.shape[:2]
    if min(height, width, *answer.shape[:2]) < _SMALLEST:
        raise Unaligned("plain")
    longest = max(width, height)
    scale = min(1.0, min(_LONGEST, max(_SHORTEST, longest / 3)) / longest)
    small_sent, to_sent = scaled(sent, scale)
    before = small_sent.astype(np.float32)
    names, ways = zip(*layouts((width, height), (answer.shape[1], answer.shape[0])), strict=True)
    shrink = scale / zoom(ways[0])
    small_answer, to_answer = scaled(answer, min(1.0, shrink))
    small_answer = small_answer.astype(np.float32)
    outside = _outside(edited, before.shape)
    gray, other_gray = _gray(before), _gray(small_answer)
    starts = [np.linalg.inv(to_answer) @ way @ to_sent for way in ways]
    votes = [blocks.agreed(gray, other_gray, way, outside, edited is None) for way in starts]
    chosen = max(range(len(votes)), key=lambda number: votes[number].blocks)
    agreement = votes[chosen]
    if not agreement.blocks and (edited is None or len(ways) > 1):
        raise Unaligned(agreement.why)
    # Too few blocks may also mean too little texture. The refinement finds small motions without
    # blocks.
    small = refined(
        gray, other_gray, agreement.motion, starts[chosen], outside, agreement.blocks > 0
    )
    if small is None:
        raise Unaligned(agreement.why)
    moved = farthest(np.linalg.inv(starts[chosen]) @ small, (gray.shape[1], gray.shape[0]))
    if not agreement.blocks and moved > _NEAR:
        raise Unaligned(agreement.why)
    matrix = to_answer @ small @ np.linalg.inv(to_sent)
    if farthest(np.linalg.inv(ways[chosen]) @ matrix, (width, height)) < _LEAST_DRIFT:
        matrix, small = ways[chosen], starts[chosen]
    after, shown = aligned(small_answer, small, gray.shape)
    alike, texture, contrast = likeness(gray, _gray(after))
    bend = None
    if edited is not None:
        kept = shown & (outside | ((alike > _SAME) & (texture > TEXTURE)))
        bend = bends.find(gray, _gray(after), kept, _around(outside))
    if bend is not None:
        after = bends.bent(after, bend)
        alike, texture, contrast = likeness(gray, _gray(after))
    telling = shown & (texture > TEXTURE)
    if np.count_nonzero(telling & outside) >= _LEAST_OUTSIDE:
        telling &= outside
    # In a picture that was drawn anew throughout, most places with texture are different.
    if telling.any() and (alike[telling] > _SAME).mean() < _SAME_SHARE:
        raise Unaligned(agreement.why)
    return Registration(
        matrix,
        bend,
        names[chosen],
        to_sent,
        before,
        after,
        shown,
        outside & shown,
        alike,
        texture,
        contrast,
    )


def _around(outside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which pixels are close to the selection's edge."""
    square = np.ones((_EDGE, _EDGE), np.uint8)
    edited = (~outside).astype(np.uint8)
    return cv2.dilate(edited, square) > cv2.erode(edited, square, borderValue=1)


def _gray(picture: Floats) -> Floats:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _outside(edited: Pixels | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which pixels are certainly outside the selection, (height, width) as in `shape`.

    If `edited` is None, there are none.
    """
    height, width = shape[:2]
    if edited is None:
        return np.zeros((height, width), np.bool_)
    small = cv2.resize(edited, (width, height), interpolation=cv2.INTER_AREA) > 0
    # What the model paints extends a little beyond the mask.
    grown = cv2.dilate(small.astype(np.uint8), np.ones((9, 9), np.uint8))
    return grown == 0
