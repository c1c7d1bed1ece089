"""Repair: undo the changes that an AI model made to the picture beyond the edit.

AI models draw the whole picture anew, even where nothing was to be edited. The repair aligns the
answer with the picture sent, matches the answer's colours, and resamples the answer once to the
pixels of the region. Along the selection's edge, the answer fades into the original's pixels where
both show the same, so that no seam is visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting import grain, tone
from plugin.worker.fitting.affine import Floats, Matrix, Pixels, scaling, zoom
from plugin.worker.fitting.registration import Registration, Unaligned, register
from plugin.worker.fitting.tone import Tone

_SEAM_SHARE = 0.012
_SEAM_PIXELS = (4, 24)
"""The width of the fade from the original to the answer, inside the selection's edge.

The width is this share of the region's diagonal, but at least 4 and at most 24 pixels.
"""
_SEAM_DIFFERENCE = 30.0
"""A pixel counts as new if it differs by this or more (on the scale 0–255).

This holds even if the surroundings of the pixel are similar.
"""
_DETAILED = 0.9
"""An answer with this scale or a smaller one lacks detail.

The scale is how many pixels of the answer, along a line, correspond to one pixel of the region.
"""
_SMOOTH = 1.5
"""Where the standard deviation around a pixel is below this, steps between levels are visible.

The standard deviation is on the scale 0–255.
"""
_ROWS = 256
"""The number of rows that are resampled at once, which limits the memory."""
_RIM = 12
"""The width, in pixels of the region, of the fade into the original at the answer's rim."""
_MOST_RIM = 0.06
"""The width of the zone beyond the answer's rim in which the mirrored answer can be shown.

The width is a share of the region's longer side.
"""


@dataclass(frozen=True)
class Repair:
    """How to repair an answer: its alignment, and the correction of its colours if there is one."""

    registration: Registration
    tone: Tone | None


def judge(sent: Pixels, answer: Pixels, edited: Pixels | None) -> Repair:
    """Find out what the service changed beyond the edit, and return how to repair `answer`.

    `sent` and `answer` are RGB, (height, width, 3), and can have any sizes. `edited` is the
    selection over `sent`, an array of shape (height, width), or None without a selection. Raises
    Unaligned if the answer can't be aligned. Without a selection, the tone is not matched, and
    Unaligned is also raised if the service changed most of the picture.
    """
    found = register(sent, answer, edited)
    if edited is not None:
        return Repair(found, tone.match(found))
    # Without a selection, any change can be the edit that the user asked for. The registration is
    # only credible if the service kept most of the picture.
    alone = Repair(found, None)
    if not _kept(alone)[found.shown].mean() > 0.5:
        raise Unaligned("anew")
    return alone


def resample(answer: NDArray[Any], matrix: Matrix, size: tuple[int, int]) -> NDArray[Any]:
    """Return `answer` resampled to `size`, (width, height), with cubic interpolation.

    `matrix` maps pixels of the returned picture to pixels of `answer`. Where `matrix` leads beyond
    the border of `answer`, the returned picture shows `answer` mirrored. The returned picture has
    the channels and the data type (8 bits or floats) of `answer`.
    """
    return cv2.warpAffine(
        _coarse_enough(answer, matrix),
        matrix[:2],
        size,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _coarse_enough(answer: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    """Return `answer` without the detail that is too fine for the resampled picture.

    `matrix` maps pixels of the resampled picture to pixels of `answer`. If it shrinks the answer
    noticeably, the answer is blurred first. Otherwise fine detail would cause patterns that are not
    in the answer (aliasing), because the interpolation uses only a few neighbouring pixels.
    """
    shrink = zoom(matrix)
    if shrink <= 1.2:
        return answer
    return cv2.GaussianBlur(answer, (0, 0), 0.45 * float(np.sqrt(shrink**2 - 1)))


def _resample_bent(
    answer: Pixels, matrix: Matrix, size: tuple[int, int], bend: Floats, measured: Matrix
) -> Pixels:
    """Return `answer` resampled like `resample` does, but with its bends undone.

    `bend` contains offsets at the measuring scale, (height, width, 2), in pixels of this scale. An
    offset is added to a position before `matrix` is applied. `measured` maps pixels of the returned
    picture to pixels at the measuring scale.
    """
    answer = _coarse_enough(answer, matrix)
    width, height = size
    placed = np.empty((height, width, 3), np.uint8)
    x = np.arange(width, dtype=np.float32)[None]
    border = cv2.BORDER_REFLECT_101

    def at(rows: Matrix, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        (a, b, c), (d, e, f) = rows[:2].astype(np.float32)
        return a * x + b * y + c, d * x + e * y + f

    # The picture is processed in strips, because the positions of all pixels of a large picture
    # would take much memory.
    for top in range(0, height, _ROWS):
        y = np.arange(top, min(height, top + _ROWS), dtype=np.float32)[:, None]
        at_x, at_y = at(measured, x, y)
        moved = cv2.remap(bend, at_x, at_y, cv2.INTER_LINEAR, borderMode=border)
        moved /= np.float32(zoom(measured))
        at_x, at_y = at(matrix, x + moved[..., 0], y + moved[..., 1])
        strip = cv2.remap(answer, at_x, at_y, cv2.INTER_CUBIC, borderMode=border)
        placed[top : top + _ROWS] = strip
    return placed


def repaired(
    answer: Pixels, found: Repair, to_sent: Matrix, source: Pixels, selection: Pixels | None
) -> Pixels:
    """Return the repaired answer, resampled to the region: RGB, (height, width, 3).

    `source` is the original content of the region, RGB of the same size. `to_sent` maps pixels of
    `source` to pixels of the picture sent. `selection`, (height, width), is above 0 where the
    picture was to be edited. If `selection` is None, no detail is added, the noise is not matched,
    and no seam is hidden.
    """
    height, width = source.shape[:2]
    matrix = found.registration.matrix @ to_sent
    measured = np.linalg.inv(found.registration.to_sent) @ to_sent
    size = (width, height)
    bend = found.registration.bend
    coloured = answer if found.tone is None else found.tone.curved(answer)
    if bend is None:
        placed = resample(coloured, matrix, size)
    else:
        placed = _resample_bent(coloured, matrix, size, bend, measured)
    if found.tone is not None:
        rest = _enlarged(found.tone.rest, measured, size)
        if found.tone.falloff is not None:
            gain = _enlarged(found.tone.falloff - 1, measured, size)
            # The product is computed in strips, because all of it would take much memory.
            for top in range(0, height, _ROWS):
                rows = slice(top, top + _ROWS)
                rest[rows] += placed[rows] * gain[rows, :, None]
            del gain
        smooth = (found.registration.texture < _SMOOTH).astype(np.uint8)
        grain.dither(rest, _enlarged(smooth, measured, size) > 0)
        placed = cv2.add(placed, rest, dtype=cv2.CV_8U)
        del rest
    kept = _kept(found)
    if selection is not None:
        _add_detail(placed, found, kept, measured, source, selection, matrix)
        _match_noise(placed, kept, measured, source, selection)
        _hide_seam(placed, kept, measured, source, selection)
    rim = _carried_on(kept, found.registration.shown)
    _fill_unshown(placed, rim, measured, source, selection, matrix, answer.shape)
    return placed


def _enlarged(field: NDArray[Any], measured: Matrix, size: tuple[int, int]) -> NDArray[Any]:
    """Return `field`, a smooth array at the measuring scale, enlarged to `size`, (width, height).

    `measured` maps pixels of the returned array to pixels of `field`.
    """
    # The needed area is first cut out of `field` at the scale of `field`, and then enlarged. This
    # is much faster than computing so many pixels with warpAffine.
    scale = min(1.0, zoom(measured))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    to_region = scaling((size[0] / small[0], size[1] / small[1]))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(
        field, (measured @ to_region)[:2], small, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.resize(cut, size, interpolation=cv2.INTER_LINEAR)


def _selected(
    field: Floats, measured: Matrix, selection: Pixels
) -> tuple[tuple[slice, slice], Floats]:
    """Return the box around `selection`, and `field` enlarged to the pixels of this box.

    The box consists of two slices, for rows and columns. `field` is an array at the measuring
    scale. `measured` maps pixels of `selection` to pixels of `field`.
    """
    x, y, across, down = cv2.boundingRect(selection)
    from_box = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    box = (slice(y, y + down), slice(x, x + across))
    return box, _enlarged(field, measured @ from_box, (across, down))


def _hide_seam(
    placed: Pixels, kept: Floats, measured: Matrix, source: Pixels, selection: Pixels
) -> None:
    """Blend the original into `placed`, in place, along the inside of the selection's edge.

    `placed` is the fitted answer, and `source` is the original. At the selection's edge, only the
    original is visible; from there inwards, it fades out. It is not blended in where `placed`
    shows new content. `kept`, at the measuring scale, says how certain it is that each pixel was
    kept. `measured` maps pixels of `placed` to pixels of `kept`. `selection`, (height, width), is
    above 0 where the picture was to be edited.
    """
    height, width = selection.shape
    deep = float(np.clip(_SEAM_SHARE * np.hypot(width, height), *_SEAM_PIXELS))
    # To save time, only the box around the selection is used, with one more pixel for the edge.
    x, y, across, down = cv2.boundingRect(selection)
    left, top = max(0, x - 1), max(0, y - 1)
    box = (slice(top, y + down + 1), slice(left, x + across + 1))
    selection = selection[box]
    # Where the selection reaches the picture's border, treat the selection as going on beyond the
    # border, so that there is no fade along the border.
    inside = cv2.copyMakeBorder((selection > 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero((distance > 0) & (distance < deep))
    if not len(rows):
        return
    share = 1 - (distance[rows, columns] - 1) / deep
    rows, columns = rows + top, columns + left
    at = measured[:2] @ np.stack([columns, rows, np.ones_like(rows)])
    at_x = np.clip(np.rint(at[0]).astype(int), 0, kept.shape[1] - 1)
    at_y = np.clip(np.rint(at[1]).astype(int), 0, kept.shape[0] - 1)
    new, old = (picture[rows, columns].astype(np.float32) for picture in (placed, source))
    difference = tone.largest(np.abs(new - old)) / _SEAM_DIFFERENCE
    share *= kept[at_y, at_x] * np.clip(1.5 - 1.5 * difference, 0, 1)
    placed[rows, columns] = np.rint(new + share[:, None] * (old - new)).astype(np.uint8)


def _kept(found: Repair) -> Floats:
    """Return how certain it is that the service kept each pixel, an array at the measuring scale.

    The values are from 0 to 1. A pixel counts as kept if it has the same colour in the original and
    in the answer after the tone match, and if the structure around it is the same.
    """
    registration = found.registration
    after = registration.after if found.tone is None else found.tone.applied(registration.after)
    difference = tone.largest(np.abs(registration.before - after))
    difference = cv2.GaussianBlur(difference, (0, 0), 1.5)
    colour = np.clip((14 - difference) / 8, 0, 1)
    structure = np.clip((registration.likeness - 0.4) / 0.3, 0, 1)
    kept = (colour * structure * registration.shown).astype(np.float32)
    return cv2.blur(cv2.erode(kept, np.ones((3, 3), np.uint8)), (3, 3))


def _add_detail(
    placed: Pixels,
    found: Repair,
    kept: Floats,
    measured: Matrix,
    source: Pixels,
    selection: Pixels,
    matrix: Matrix,
) -> None:
    """Add the fine detail of the original `source` to the kept pixels of `placed`, in place.

    This is the detail that a small answer has too few pixels to show. Nothing is added where the
    answer is smoother than the original even at the measuring scale, because this smoothing is part
    of the edit. `kept`, `measured` and `selection` are the same as in `_hide_seam`. `matrix` maps
    pixels of `placed` to pixels of the answer.
    """
    scale = zoom(matrix)
    if scale > _DETAILED:
        return
    registration = found.registration
    sharp = np.clip((registration.contrast - 0.75) / 0.2, 0, 1)
    box, share = _selected(kept * sharp, measured, selection)
    original = source[box]
    down, across = share.shape
    size = (max(1, round(across * scale)), max(1, round(down * scale)))
    coarse = cv2.resize(
        cv2.resize(original, size, interpolation=cv2.INTER_AREA),
        (across, down),
        interpolation=cv2.INTER_CUBIC,
    )
    detail = cv2.subtract(original, coarse, dtype=cv2.CV_16S)
    detail = cv2.multiply(detail, cv2.merge([share] * 3), dtype=cv2.CV_16S)
    placed[box] = cv2.add(placed[box], detail, dtype=cv2.CV_8U)


def _match_noise(
    placed: Pixels, kept: Floats, measured: Matrix, source: Pixels, selection: Pixels
) -> None:
    """Give the new content in the selection the same noise as the original, in place.

    `placed` is the fitted answer, and `source` is the original. `kept`, `measured` and `selection`
    are the same as in `_hide_seam`.
    """
    box, kept_there = _selected(kept, measured, selection)
    share = (1 - kept_there) * (selection[box] > 0)
    is_new = share > 0.95
    if not is_new.any():
        return
    wanted = grain.measured(source, np.ones(selection.shape, np.bool_))
    if wanted is not None:
        grain.match(placed[box], wanted, share, is_new)


def _carried_on(kept: Floats, shown: NDArray[np.bool_]) -> Floats:
    """Return a copy of `kept` that also has values where the answer doesn't cover the picture.

    There, the value is the mean of `kept` over nearby pixels that the answer covers. `shown` is
    true at the pixels that the answer covers.
    """
    size = (max(kept.shape) // 8 | 1,) * 2
    known = shown.astype(np.float32)
    near = cv2.blur(kept * known, size) / (cv2.blur(known, size) + np.float32(1e-3))
    return np.where(shown, kept, near)


def _fill_unshown(
    placed: Pixels,
    kept: Floats,
    measured: Matrix,
    source: Pixels,
    selection: Pixels | None,
    matrix: Matrix,
    shape: tuple[int, ...],
) -> None:
    """Blend the original `source` into `placed`, in place, where the answer doesn't cover `placed`.

    Change nothing if the answer covers the whole selection or, without a selection, the whole
    picture. In the zone of width `_MOST_RIM` beyond the answer's rim, use the original only where
    its pixels were `kept`, because elsewhere the mirrored answer fits better. `kept` and
    `measured` are the same as in `_hide_seam`. `matrix` maps pixels of `placed` to pixels of the
    answer. `shape` is the shape of the answer's array.
    """
    height, width = placed.shape[:2]
    scale = zoom(matrix)

    def depth(step: int) -> Floats:
        """Return how deep inside the answer every `step`-th pixel of `placed` lies.

        The depth is the distance from the nearest edge of the answer, in pixels of the region. It
        is negative outside the answer.
        """
        x = np.arange(0, width, step, dtype=np.float32)[None]
        y = np.arange(0, height, step, dtype=np.float32)[:, None]
        at_x, at_y = (row[0] * x + row[1] * y + row[2] for row in matrix[:2].astype(np.float32))
        right, bottom = shape[1] - 1 - at_x, shape[0] - 1 - at_y
        nearest = np.minimum(np.minimum(at_x, right), np.minimum(at_y, bottom))
        return nearest / np.float32(scale)

    unshown = depth(8) < -0.5
    if selection is not None:
        unshown &= cv2.dilate(selection, np.ones((9, 9), np.uint8))[::8, ::8] > 0
    if not unshown.any():
        return
    inner = depth(1)
    share = _enlarged(kept, measured, (width, height))
    far = _MOST_RIM * max(width, height)
    share = np.maximum(share, np.clip((-inner - far) / _RIM, 0, 1))
    share *= 1 - np.clip(inner / _RIM, 0, 1)
    cv2.blendLinear(source, placed, share, 1 - share, placed)
