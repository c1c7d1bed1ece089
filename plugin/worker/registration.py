"""Registration: where the pixels that were sent lie in the answer, and which of them were kept.

Models draw the whole picture anew: a little shifted, zoomed, turned, sometimes cut to another
ratio. The affine motion that blocks agree on is the start, and is refined where the picture was
kept: around the selection, and inside it where structures are the same as before.
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
"""Between these lies the longer side at which is measured, a third of the picture's own."""
_SMALLEST = 24
"""Pixels of a side below which a picture tells nothing, and samplers with borders take forever."""
_SAME = 0.5
"""Structural similarity from which on a place counts as kept."""
_LEAST_OUTSIDE = 200
"""Pixels with texture outside the selection that can judge alone."""
_SAME_SHARE = 0.5
"""Share of the places with texture that must be the same for a judgement."""
_EDGE = 61
"""Pixels of the measure across the selection's edge in which bends are seen."""
_NEAR = 12.0
"""Pixels of the measure up to which a motion is believed that no blocks agree on."""
_LEAST_DRIFT = 0.2
"""Pixels of the picture sent; less is not worth a resampling."""


class Unaligned(Exception):
    """Where the picture lies in an answer can't be told.

    `why`: it is too *plain*, it *repeats* itself, or the answer is drawn *anew*.
    """

    def __init__(self, why: blocks.Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Registration:
    """An answer laid over what was sent.

    The arrays have the measure's scale, (height, width) or (height, width, 3), levels 0 to 255.
    """

    matrix: Matrix
    """From pixels of the picture sent to those of the answer."""
    bend: Floats | None
    """What is left of the motion, (height, width, 2), in pixels of the arrays below."""
    layout: Layout
    to_sent: Matrix
    """From pixels of the arrays below to those of the picture sent."""
    before: Floats
    """What was sent, RGB."""
    after: Floats
    """The answer, brought onto it, RGB."""
    shown: NDArray[np.bool_]
    """Where the answer shows anything."""
    outside: NDArray[np.bool_]
    """What is surely outside the selection."""
    likeness: Floats
    """Structural similarity, from -1 to 1; tone doesn't count."""
    texture: Floats
    """Standard deviation around each pixel, of whichever has less of it."""
    contrast: Floats
    """The answer's standard deviation as a share of the other's."""


def register(sent: Pixels, answer: Pixels, edited: Pixels | None) -> Registration:
    """Find `sent` in `answer`. Raises Unaligned if they don't have enough in common to tell.

    Both are RGB (height, width, 3), of any sizes; `edited` is the selection over `sent`
    (height, width), above 0 where edited; None means that anything may have been.
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
    # Too few blocks is too little texture, too; what is off by little is found without them.
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
    # A picture that was made anew throughout has no places that were kept.
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
    """What is close to the selection's edge."""
    square = np.ones((_EDGE, _EDGE), np.uint8)
    edited = (~outside).astype(np.uint8)
    return cv2.dilate(edited, square) > cv2.erode(edited, square, borderValue=1)


def _gray(picture: Floats) -> Floats:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _outside(edited: Pixels | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    height, width = shape[:2]
    if edited is None:
        return np.zeros((height, width), np.bool_)
    small = cv2.resize(edited, (width, height), interpolation=cv2.INTER_AREA) > 0
    # What was painted reaches a little beyond the mask.
    grown = cv2.dilate(small.astype(np.uint8), np.ones((9, 9), np.uint8))
    return grown == 0
