"""Registration: find out where the pixels sent are in the answer, and which pixels were kept.

AI models draw the whole picture anew. The picture often comes back slightly shifted, zoomed or
rotated, and sometimes cut to another ratio. Registration starts with the affine motion on which
blocks agree (see `blocks`). Then it refines this motion with the *kept* pixels, which show the same
before and after: the pixels around the selection, and the pixels inside the selection whose
structure did not change.

Everything is measured at a reduced scale, the *measuring scale*. At this scale, the longer side has
a third of the pixels that it has in the picture sent, but at least 512 and at most 1024. Pictures
with fewer pixels keep their scale. The answer is reduced to nearly the same scale, but is never
enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting import bends, blocks
from plugin.worker.fitting.affine import (
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
from plugin.worker.fitting.likeness import TEXTURE, likeness
from plugin.worker.fitting.refinement import refined

_SHORTEST, _LONGEST = 512, 1024
"""At the measuring scale, the longer side has at least and at most these numbers of pixels.

A picture that has fewer pixels keeps its scale.
"""
_SMALLEST = 24
"""A picture can't be registered if its shorter side has fewer pixels than this.

Smaller pictures contain too little information, and sampling beyond their borders takes extremely
long.
"""
_SAME = 0.5
"""A pixel counts as kept if its structural similarity is above this."""
_LEAST_OUTSIDE = 200
"""If at least this many textured pixels are outside the selection, the answer is judged by them.

If there are fewer, the textured pixels inside the selection are judged as well.
"""
_SAME_SHARE = 0.5
"""If a smaller share of the textured pixels was kept, the answer is rejected."""
_EDGE = 61
"""The width, in pixels at the measuring scale, of the band along the selection's edge.

Bends are visible in this band.
"""
_NEAR = 12.0
"""If no blocks agree, a larger drift (in pixels at the measuring scale) is rejected."""
_LEAST_DRIFT = 0.2
"""A drift below this, in pixels of the picture sent, is not corrected.

Drift is the difference between a motion and the layout's motion. Correcting so small a drift isn't
worth the sharpness that is lost when the answer is resampled.
"""


class Unaligned(Exception):
    """The answer can't be aligned with the picture sent.

    `why` is the reason. *plain*: the picture is too plain or too small. *repeats*: the picture
    looks the same in several places. *anew*: the service has drawn the whole picture anew.
    """

    def __init__(self, why: blocks.Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Registration:
    """An answer that was aligned with the picture sent.

    All arrays except the matrices `matrix` and `to_sent` are at the measuring scale. Their shape is
    (height, width) unless another shape is given. Values of pictures are levels from 0 to 255.
    """

    matrix: Matrix
    """The affine motion, which maps pixels of the picture sent to pixels of the answer."""
    bend: Floats | None
    """The local motion that remains after the affine motion, or None if there is hardly any.

    The array, (height, width, 2), contains offsets (x, y) in pixels at the measuring scale. They
    are added to a position before the affine motion is applied.
    """
    layout: Layout
    to_sent: Matrix
    """The matrix that maps pixels at the measuring scale to pixels of the picture sent."""
    before: Floats
    """The picture sent, RGB (height, width, 3)."""
    after: Floats
    """The answer aligned with `before`, RGB (height, width, 3)."""
    shown: NDArray[np.bool_]
    """True at the pixels that the answer covers."""
    outside: NDArray[np.bool_]
    """True at pixels that the answer covers and that are certainly outside the selection."""
    likeness: Floats
    """The structural similarity, from -1 to 1. Differences in tone don't affect this value."""
    texture: Floats
    """The standard deviation around each pixel: the smaller one of those in the two pictures."""
    contrast: Floats
    """The answer's standard deviation around each pixel, divided by that of the picture sent."""


def register(sent: Pixels, answer: Pixels, edited: Pixels | None) -> Registration:
    """Find the picture `sent` in the picture `answer`, and return how they are aligned.

    Both pictures are RGB, (height, width, 3), and can have any sizes. `edited` is the selection
    over `sent`, an array of shape (height, width) that is above 0 where the picture was to be
    edited. None means that the service was allowed to edit any pixel. Raises Unaligned if the two
    pictures don't have enough in common.
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
    # If no blocks agree, the reason can be that the picture has too little texture. The refinement
    # is tried anyway, because it finds small motions without blocks.
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
    # If the service has drawn the whole picture anew, most textured pixels have another structure.
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
    """Return an array (height, width) that is true in the band along the selection's edge.

    `outside`, of the same shape, is true where a pixel is certainly outside the selection. The band
    extends from the border of this area by half of `_EDGE` to both sides. The border of the picture
    is no edge of the selection.
    """
    square = np.ones((_EDGE, _EDGE), np.uint8)
    edited = (~outside).astype(np.uint8)
    return cv2.dilate(edited, square) > cv2.erode(edited, square, borderValue=1)


def _gray(picture: Floats) -> Floats:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _outside(edited: Pixels | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return an array that is true at pixels that are certainly outside the selection `edited`.

    The array has the (height, width) of `shape`. If `edited` is None, it is false everywhere.
    """
    height, width = shape[:2]
    if edited is None:
        return np.zeros((height, width), np.bool_)
    small = cv2.resize(edited, (width, height), interpolation=cv2.INTER_AREA) > 0
    # The selection is grown, because what the model paints extends a little beyond the mask.
    grown = cv2.dilate(small.astype(np.uint8), np.ones((9, 9), np.uint8))
    return grown == 0
