"""Registration: where the pixels that were sent lie in the answer, and which of them were kept.

Models draw the whole picture anew: a little shifted, zoomed, turned, sometimes cut to another
ratio. Blocks with texture are looked for in the answer, an affine motion that most of them agree
on is the start, and robust Gauss-Newton steps refine it where the picture was kept: around the
selection, and inside it where structures are the same as before. The result is the most likely
motion (maximum a posteriori): where the picture doesn't tell enough, it stays near none.

Matrices are 3×3, affine, and take (x, y, 1) to (x, y, 1), pixel centres at whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.region import RATIO_TOLERANCE

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

_SHORTEST, _LONGEST = 512, 1024
"""Between these lies the longer side at which is measured, a third of the picture's own."""
_SMALLEST = 24
"""Pixels of a side below which a picture tells nothing, and samplers with borders take forever."""
_COARSE = 256
"""The longer side at which blocks are looked for, at least."""
_BLOCK = 20
_REACH = 0.1
"""How far blocks are looked for, as a share of the longer side."""
_FOUND = 0.6
"""Correlation from which on a block counts as found."""
_MOST_BLOCKS = 72
_LEAST_AGREEING = 6
_AGREEMENT = 2.5
"""Pixels there; a deformed picture keeps blocks from agreeing exactly."""
_TEXTURE = 3.0
"""Standard deviation of levels (of 255) from which on a place has texture."""
_SAME = 0.5
"""Structural similarity from which on a place counts as kept."""
_SAME_SHARE = 0.5
"""Share of the places with texture that must be the same for a judgement."""
_MOST_STEPS = 15
_MOST_POINTS = 10_000
_SETTLED = 0.005
"""Pixels of a step that is the last."""
_NEIGHBOURS = 10
"""Pixels that differ alike, and count as one."""
_USUAL_DRIFT = np.array([0.05, 0.02, 0.03, 0.02, 0.05, 0.03])
"""Standard deviations of an affine motion's six numbers, in units of half the longer side."""
_NEAR = 12.0
"""Pixels of the measure up to which a motion is believed that no blocks agree on."""
_MOST_ZOOM = 0.3
_LEAST_DRIFT = 0.2
"""Pixels of the picture sent; less is not worth a resampling."""


Layout = Literal["extend", "crop", "squeeze"]
"""How a picture got into an answer of another ratio: with more around it, cut, or deformed."""


@dataclass(frozen=True)
class Registration:
    """An answer laid over what was sent.

    The arrays have the measure's scale, (height, width) or (height, width, 3), levels 0 to 255.
    """

    matrix: Matrix
    """From pixels of the picture sent to those of the answer."""
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


def layouts(sent: tuple[int, int], answer: tuple[int, int]) -> list[tuple[Layout, Matrix]]:
    """The ways in which a model may have fitted a picture into an answer; sizes (width, height).

    The first is what is taken where none can tell.
    """
    across, down = answer[0] / sent[0], answer[1] / sent[1]
    # The table's sizes are themselves a little off their ratios: that is no other ratio.
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
    """The matrix that scales and then shifts the edges of pixels, made for their centres."""
    across, down = scale
    return np.array(
        [
            [across, 0, shift[0] + across / 2 - 0.5],
            [0, down, shift[1] + down / 2 - 0.5],
            [0, 0, 1],
        ]
    )


def zoom(matrix: NDArray[Any]) -> float:
    """By how much the matrix enlarges, on average over directions."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def register(sent: Pixels, answer: Pixels, edited: Pixels | None) -> Registration | None:
    """Find `sent` in `answer`; None if they don't have enough in common to tell.

    Both are RGB (height, width, 3), of any sizes; `edited` is the selection over `sent`
    (height, width), above 0 where edited; None means that anything may have been.
    """
    height, width = sent.shape[:2]
    if min(height, width, *answer.shape[:2]) < _SMALLEST:
        return None
    longest = max(width, height)
    scale = min(1.0, min(_LONGEST, max(_SHORTEST, longest / 3)) / longest)
    before, to_sent = _small(sent, scale)
    names, ways = zip(*layouts((width, height), (answer.shape[1], answer.shape[0])), strict=True)
    shrink = scale / zoom(ways[0])
    small_answer, to_answer = _small(answer, min(1.0, shrink))
    outside = _outside(edited, before.shape)
    gray, other_gray = _gray(before), _gray(small_answer)
    starts = [np.linalg.inv(to_answer) @ way @ to_sent for way in ways]
    votes = [_block_motion(gray, other_gray, way, outside, edited is None) for way in starts]
    chosen = max(range(len(votes)), key=lambda number: votes[number][0])
    agreeing, motion = votes[chosen]
    if not agreeing and (edited is None or len(ways) > 1):
        return None
    # Too few blocks is too little texture, too; what is off by little is found without them.
    small = _refined(gray, other_gray, motion, starts[chosen], outside)
    if small is None:
        return None
    moved = _farthest(np.linalg.inv(starts[chosen]) @ small, (gray.shape[1], gray.shape[0]))
    if not agreeing and moved > _NEAR:
        return None
    matrix = to_answer @ small @ np.linalg.inv(to_sent)
    if _farthest(np.linalg.inv(ways[chosen]) @ matrix, (width, height)) < _LEAST_DRIFT:
        matrix, small = ways[chosen], starts[chosen]
    after, shown = _aligned(small_answer, small, gray.shape)
    likeness, texture, contrast = _likeness(gray, _gray(after))
    telling = shown & (texture > _TEXTURE)
    if edited is not None:
        telling &= outside
    # A picture that was made anew throughout has no places that were kept.
    if telling.any() and (likeness[telling] > _SAME).mean() < _SAME_SHARE:
        return None
    return Registration(
        matrix,
        names[chosen],
        to_sent,
        before,
        after,
        shown,
        outside & shown,
        likeness,
        texture,
        contrast,
    )


def _farthest(matrix: NDArray[Any], size: tuple[int, int]) -> float:
    """How far the matrix moves a corner of a picture of `size` (width, height), in pixels."""
    corners = np.array([[x, y, 1.0] for x in (0, size[0] - 1) for y in (0, size[1] - 1)])
    moved = corners @ matrix.T - corners
    return float(np.linalg.norm(moved, axis=1).max())


def _small(picture: Pixels, scale: float) -> tuple[Floats, Matrix]:
    """The picture at that scale, and the matrix from its pixels to those of `picture`."""
    height, width = picture.shape[:2]
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32), scaling((width / size[0], height / size[1]))


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


def _aligned(
    picture: Floats, matrix: Matrix, shape: tuple[int, ...]
) -> tuple[Floats, NDArray[np.bool_]]:
    """The picture brought onto one of `shape`, and where it has something to show there."""
    size = (shape[1], shape[0])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, matrix[:2], size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    full = np.full(picture.shape[:2], 255, np.uint8)
    shown = cv2.warpAffine(full, matrix[:2], size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    # The sampler looks beyond the rim.
    shown = cv2.erode(shown, np.ones((3, 3), np.uint8), borderValue=255)
    return moved, shown > 0


def _block_motion(
    before: Floats,
    after: Floats,
    way: Matrix,
    outside: NDArray[np.bool_],
    anywhere: bool,
) -> tuple[int, Matrix]:
    """The motion on which blocks agree, as (how many of them, matrix); 0 if too few do.

    Blocks lie inside the selection too: much of it is often kept. A fifth of those outside must
    agree, by far more than chance has it; without a selection half of all, since any of them may
    have been edited.
    """
    height, width = before.shape
    scale = min(1.0, max(_COARSE, max(width, height) / 3) / max(width, height))
    size = (round(width * scale), round(height * scale))
    coarse = scaling((width / size[0], height / size[1]))
    # Blocks are looked for in the answer as this way has it, on the same scale.
    one = cv2.resize(before, size, interpolation=cv2.INTER_AREA)
    onto = way @ coarse
    other, shown = _aligned(after, onto, one.shape[:2])
    certain = cv2.resize(outside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    reach = round(_REACH * max(size))
    places, found, decisive = [], [], []
    for x, y in _textured_blocks(one, certain):
        left, top = max(0, x - reach), max(0, y - reach)
        window = (
            slice(top, min(size[1], y + _BLOCK + reach)),
            slice(left, min(size[0], x + _BLOCK + reach)),
        )
        block = one[y : y + _BLOCK, x : x + _BLOCK]
        scores = cv2.matchTemplate(other[window], block, cv2.TM_CCOEFF_NORMED)
        _low, best, _lowest, peak = cv2.minMaxLoc(scores)
        at_x, at_y = left + peak[0], top + peak[1]
        is_certain = certain[y : y + _BLOCK, x : x + _BLOCK].min() > 0.999
        if best >= _FOUND and shown[at_y + _BLOCK // 2, at_x + _BLOCK // 2]:
            places.append((x, y))
            found.append((at_x, at_y))
            decisive.append(anywhere or is_certain)
    if len(places) < _LEAST_AGREEING:
        return 0, way
    cv2.setRNGSeed(0)
    # Shift, zoom and rotation alone: with more freedom, chance agreements count for more.
    motion, agreeing = cv2.estimateAffinePartial2D(
        np.array(places, np.float64),
        np.array(found, np.float64),
        method=cv2.RANSAC,
        ransacReprojThreshold=_AGREEMENT,
        maxIters=2000,
    )
    if motion is None:
        return 0, way
    votes = agreeing.ravel()[np.array(decisive)]
    needed = max(_LEAST_AGREEING, (0.5 if anywhere else 0.2) * len(votes))
    enough = votes.sum() >= needed
    if len(votes) < 2 * _LEAST_AGREEING or votes.sum() >= _LEAST_AGREEING // 2:
        # Hardly any texture outside, as around a product on white: what was kept inside tells.
        enough |= agreeing.sum() >= max(2 * _LEAST_AGREEING, 0.3 * len(places))
    matrix = onto @ np.vstack([motion, [0, 0, 1]]) @ np.linalg.inv(coarse)
    if not enough or not _plausible(np.linalg.inv(way) @ matrix):
        return 0, way
    return int(agreeing.sum()), matrix


def _textured_blocks(picture: Floats, certain: Floats) -> list[tuple[int, int]]:
    """The left upper corners of the blocks that can be found again best: no flat ones, no edges.

    Half of them lie where it is `certain` that the picture was kept, if there are as many.
    """
    height, width = picture.shape
    square = (_BLOCK, _BLOCK)
    corners = cv2.blur(cv2.cornerMinEigenVal(picture, 5), square)
    texture = np.sqrt(_moments(picture)[1])
    sure = cv2.blur(certain, square) > 0.999
    step = max(6, round(math.sqrt(width * height / 400)))
    half = _BLOCK // 2
    grid = np.mgrid[half : height - half + 1 : step, half : width - half + 1 : step]
    rows, columns = grid.reshape(2, -1)
    told = texture[rows, columns] > _TEXTURE
    rows, columns = rows[told], columns[told]
    order = np.argsort(-corners[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    first = sure[rows, columns]
    first &= np.cumsum(first) <= _MOST_BLOCKS // 2
    chosen = np.argsort(~first, kind="stable")[:_MOST_BLOCKS]
    return [(int(columns[i]) - half, int(rows[i]) - half) for i in chosen]


def _plausible(matrix: Matrix) -> bool:
    """Whether a motion is one of those that models make, not a mirror or a shear."""
    stretched = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    turned = math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1])
    return bool(
        np.linalg.det(matrix[:2, :2]) > 0
        and abs(stretched - 1).max() <= _MOST_ZOOM
        and stretched[0] / stretched[1] < 1.2
        and abs(turned) < math.radians(8)
    )


def _refined(
    before: Floats,
    after: Floats,
    start: Matrix,
    layout: Matrix,
    outside: NDArray[np.bool_],
) -> Matrix | None:
    """The most likely motion, found from `start`; None where too little was kept.

    Gauss-Newton steps (inverse compositional; Baker and Matthews, 2004) with robust weights, on
    what is left of the pictures without their wide shades. How models usually drift from the
    layout counts as knowledge (maximum a posteriori): where the picture leaves a motion open, it
    stays near none.
    """
    matrix = start
    fine, other_fine = (picture - cv2.blur(picture, (25, 25)) for picture in (before, after))
    for blur in (2.5, 1.2, 0.6):
        moved, shown = _aligned(after, matrix, before.shape)
        likeness, texture, _contrast = _likeness(before, moved)
        kept = shown & (outside | (texture > _TEXTURE))
        if blur < 2:
            kept &= likeness > _SAME
        if np.count_nonzero(kept) < 200:
            return None
        one, other = (cv2.GaussianBlur(picture, (0, 0), blur) for picture in (fine, other_fine))
        found = _stepped(one, other, matrix, layout, kept)
        if not _plausible(np.linalg.inv(layout) @ found):
            return None
        matrix = found
    return matrix


def _stepped(
    before: Floats,
    after: Floats,
    matrix: Matrix,
    layout: Matrix,
    kept: NDArray[np.bool_],
) -> Matrix:
    """`matrix` after some steps towards the most likely motion."""
    height, width = before.shape
    across = cv2.Sobel(before, cv2.CV_32F, 1, 0, scale=1 / 8)
    down = cv2.Sobel(before, cv2.CV_32F, 0, 1, scale=1 / 8)
    strength = (across * across + down * down) * kept
    # Flat places tell nothing of a motion; and NumPy takes long to part so many equal ones.
    telling = strength[strength > 0]
    most = len(telling) > _MOST_POINTS
    level = np.partition(telling, -_MOST_POINTS)[-_MOST_POINTS] if most else 0
    rows, columns = np.nonzero(strength > level)
    if len(rows) < 50:
        return layout
    unit = max(width, height) / 2
    x = ((columns - width / 2) / unit).astype(np.float32)
    y = ((rows - height / 2) / unit).astype(np.float32)
    points = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float64)
    dx, dy = across[rows, columns], down[rows, columns]
    slopes = np.stack([dx * x, dx * y, dx, dy * x, dy * y, dy])
    wanted = before[rows, columns]
    usual = np.diag((_USUAL_DRIFT * unit) ** -2.0)
    # Between pixels and the units above, about the picture's centre.
    about = np.array([[unit, 0, width / 2], [0, unit, height / 2], [0, 0, 1]])
    back = np.linalg.inv(about)
    for _step in range(_MOST_STEPS):
        moved = _sampled(after, matrix[:2] @ points)
        gain = float((moved * wanted).sum() / max(float((moved * moved).sum()), 1e-6))
        error = gain * moved - wanted
        spread = max(deviation(error[::4]), 0.5)
        weighted = slopes * tukey(error / (4 * spread))
        # Not by @: its threads wait for each other longer than they work.
        precision = np.einsum("in,jn->ij", weighted, slopes) / (_NEIGHBOURS * spread**2)
        pull = np.einsum("in,n->i", weighted, error) / (_NEIGHBOURS * spread**2)
        drift = ((np.linalg.inv(layout) @ matrix - np.eye(3)) @ about)[:2].ravel()
        step = np.zeros((3, 3))
        step[:2] = np.linalg.solve(precision + usual, pull + usual @ drift).reshape(2, 3)
        matrix = matrix @ np.linalg.inv(np.eye(3) + step @ back)
        if np.abs(step).sum(axis=1).max() < _SETTLED:
            break
    return matrix


def deviation(errors: NDArray[Any]) -> float:
    """The standard deviation of most of the errors, whatever the others are (from the median)."""
    return 1.4826 * quantile(np.abs(errors), 0.5)


def quantile(values: NDArray[Any], share: float) -> float:
    """That one of the values below which such a share of them lies."""
    # NumPy's own loads its masked arrays first, for 25 ms.
    place = int(share * (values.size - 1))
    return float(np.partition(values, place, axis=None)[place])


def tukey(values: NDArray[Any]) -> NDArray[Any]:
    """Tukey's biweight, for robust fits: 1 where `values` are 0, and 0 from 1 on."""
    return np.clip(1 - values**2, 0, None) ** 2


def _sampled(picture: Floats, points: Matrix) -> Floats:
    """The picture at `points`, (2, number)."""
    # A remapping takes no side longer than 32767.
    count = points.shape[1]
    maps = np.zeros((2, -(-count // 1024) * 1024), np.float32)
    maps[:, :count] = points
    across, down = maps.reshape(2, -1, 1024)
    return cv2.remap(picture, across, down, cv2.INTER_CUBIC).ravel()[:count]


def _likeness(one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """How alike the structures are around each pixel (-1 to 1), and how strong they are.

    The strength is the standard deviation of whichever has less of it, and that of `other` as a
    share of that of `one`. Likeness is the structure term of SSIM (Wang et al., 2004), in which
    brightness and contrast don't count; flat places are alike.
    """
    (mean, variance), (other_mean, other_variance) = _moments(one), _moments(other)
    together = _local(one * other) - mean * other_mean
    floor: Any = np.float32(4.0)
    likeness = (together + floor) / (np.sqrt(variance * other_variance) + floor)
    contrast = np.sqrt((other_variance + floor) / (variance + floor))
    return likeness, np.sqrt(np.minimum(variance, other_variance)), contrast


def _moments(picture: Floats) -> tuple[Floats, Floats]:
    """The mean around each pixel, and the variance."""
    mean = _local(picture)
    return mean, np.maximum(_local(picture * picture) - mean * mean, 0)


def _local(values: Floats) -> Floats:
    return cv2.blur(values, (11, 11))
