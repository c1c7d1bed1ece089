"""Fill a hole in a picture so that the filled area looks like the hole's surroundings.

A *patch* is a small square of pixels. First, the hole is filled in a small copy of the picture,
from coarse to fine, so that every patch over the hole looks like some patch outside the hole
(Wexler, Shechtman and Irani, 2007). This small filled picture is the *guide*. Then the hole is
covered at full size by a few shifted copies of the picture (He and Sun, 2012) that resemble the
guide. Because pixels are copied at full size, the texture stays sharp.

Arrays of pixels have the same form as in `model`. A hole is a bool array (height, width) that is
True where pixels are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, Any]
Mask = NDArray[np.bool_]

WORKING_SIDE = 112
"""The longer side of the small copy, in pixels. The search time grows with its fourth power."""
PATCH = 7
"""The side of a patch, in pixels of the small copy. The number must be odd."""
NEARNESS = 0.04
"""How strongly near patches are preferred to distant patches.

This is the cost of a patch from the opposite end of the picture, as a squared difference per pixel.
"""
STRANGENESS = 4
"""How strongly patches with the colours around the hole are preferred to others.

This is the weight of the difference in these colours. The weight of how well a patch fits is 1.
"""
FEWEST_SOURCES = 100
"""Patches are searched for only if at least this many patches are known."""
MOST_HOLES = 12
"""At most this many holes are filled one by one.

If there are more holes, all are filled together, which is less precise.
"""
MOST_SHIFTS = 32
"""At most this many copies of the picture, each shifted in another way, cover one hole."""


def fill(picture: Array, hole: Mask) -> Array:
    """Return a copy of `picture` in which `hole` is filled.

    At least some pixels must be outside the hole.
    """
    picture = picture.copy()
    missing = hole.copy()
    reach = max(3, min(hole.shape) // 64)
    joined = cv2.dilate(hole.astype(np.uint8), np.ones((reach, reach), np.uint8))
    count, labels = cv2.connectedComponents(joined)
    if count - 1 > MOST_HOLES:
        count, labels = 2, joined
    for label in range(1, count):
        part = (labels == label) & hole
        rows, columns = np.nonzero(part)
        extent = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
        margin = max(extent, 48)
        window = (
            slice(max(0, int(rows.min()) - margin), int(rows.max()) + margin + 1),
            slice(max(0, int(columns.min()) - margin), int(columns.max()) + margin + 1),
        )
        _fill_one(picture[window], part[window], missing[window])
        missing &= ~part
    return picture


def _fill_one(picture: Array, hole: Mask, missing: Mask) -> None:
    """Fill `hole` in `picture`, in place.

    `missing` is True at the pixels of the hole and of other holes that are not yet filled. None of
    these pixels can be copied.
    """
    height, width = hole.shape
    factor = max(1.0, max(hole.shape) / WORKING_SIDE)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(_with_roughness(picture, factor), size, interpolation=cv2.INTER_AREA)
    unknown = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    guide, shifts = _completed(small, unknown)
    # The guide is an average of many patches, so it shows larger forms only. Therefore only the
    # tones are taken from the guide, and the detail is copied from the picture.
    tones = cv2.resize(
        _blurred(guide[..., :3], 1.5), (width, height), interpolation=cv2.INTER_CUBIC
    )
    filling = tones + _detail(picture - tones, missing, small, unknown, guide, shifts)
    # If a small step in tone is left at the hole's edge, the filling is corrected smoothly so that
    # the step disappears. A larger step belongs to the structure of the picture, so the correction
    # is limited.
    beside = (cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~missing
    filling = filling + _diffused((picture - filling).clip(-0.08, 0.08), beside)
    picture[hole] = filling[hole]


def _with_roughness(picture: Array, scale: float) -> Array:
    """Return `picture` with a fourth channel, the roughness: an array (height, width, 4).

    The roughness is the strength of the texture that is lost when the picture is scaled down by the
    factor `scale`. Without this channel, fur and a wall of the same colour would look the same in
    the small copy.
    """
    grey = picture.mean(-1)
    rough = _blurred(np.abs(grey - _blurred(grey, scale)), scale)
    return np.dstack([picture, 3 * rough])


# --- Fill the hole in the small copy ----------------------------------------------------------


def _completed(picture: Array, hole: Mask) -> tuple[Array, NDArray[np.intp]]:
    """Return the guide, which is `picture` with its hole filled, and the shifts of its patches.

    A shift is the distance (down, across), in pixels, from a patch over the hole to the known patch
    that replaced it. The shifts are an array (n, 2).
    """
    levels = [(picture, hole)]
    while min(levels[-1][1].shape) >= 4 * PATCH and _thickness(levels[-1][1]) > PATCH / 2:
        larger, larger_hole = levels[-1]
        size = (larger.shape[1] // 2, larger.shape[0] // 2)
        covered = cv2.resize(larger_hole.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        if _sources(covered > 0).sum() < FEWEST_SOURCES:
            break
        levels.append((cv2.resize(larger, size, interpolation=cv2.INTER_AREA), covered > 0))
    guide = _diffused(levels[-1][0], ~levels[-1][1])
    shifts = np.zeros((0, 2), np.intp)
    for depth in range(len(levels) - 1, -1, -1):
        level, gap = levels[depth]
        if guide.shape != level.shape:
            guide = cv2.resize(guide, level.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        guide = np.where(gap[..., None], guide, level)
        if _sources(gap).sum() < FEWEST_SOURCES:
            continue
        index = _Index.of(level, gap)
        for _ in range(2 + 2 * depth):
            guide, shifts = _improved(guide, level, gap, index)
    return guide, shifts


def _strange(picture: Array, hole: Mask) -> Array:
    """Return how much the colours of the patch around each pixel differ from those around the hole.

    For each pixel of a patch, the most similar colour at the hole's edge is found. The value of the
    patch is the mean of the squared differences. The array has the shape (height, width).

    The value is needed because a hole should be filled with what surrounds the hole: in grey cloth,
    a face would be wrong, even if the outline of the face matches.
    """
    rim = cv2.dilate(hole.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    usual = picture[rim & ~hole]
    usual = usual[:: max(1, len(usual) // 200)]
    squares = (picture**2).sum(-1)[..., None] + (usual**2).sum(-1) - 2 * (picture @ usual.T)
    nearest = squares.min(-1).clip(0, None)
    return cv2.blur(nearest, (PATCH, PATCH))


@dataclass(frozen=True)
class _Index:
    """The known patches of a picture, prepared so that similar patches are found quickly.

    The search minimizes a distance between patches, which depends on their colours, on their
    places, and on the value of `_strange`. To save time, not all colours of two patches are
    compared, but only their 24 most important components (principal components).
    """

    centres: NDArray[np.intp]
    """The centres (row, column) of the known patches, (n, 2)."""
    mean: Array
    """The mean of all known patches, as a row of numbers."""
    axes: Array
    """The principal components, one in each column."""
    place: float
    """The factor by which rows and columns are multiplied before places are compared."""
    rows: Array
    """A row of numbers for each known patch: its components, its place, and a sum.

    The sum consists of the squared components and places, and of the penalty from `_strange`.
    """

    @staticmethod
    def of(picture: Array, hole: Mask) -> _Index:
        """Return the index of all patches of `picture` that don't touch `hole`."""
        centres = np.argwhere(_sources(hole))
        patches = _patches(picture, centres)
        mean = patches.mean(0)
        _, axes = np.linalg.eigh(np.cov(patches[:: max(1, len(patches) // 2000)].T))
        axes = axes[:, -24:].astype(np.float32)
        place = float(np.sqrt(NEARNESS) * PATCH / max(hole.shape))
        known = np.hstack([(patches - mean) @ axes, centres * place])
        penalty = STRANGENESS * PATCH**2 * _strange(picture, hole)[centres[:, 0], centres[:, 1]]
        rows = np.hstack([known, ((known**2).sum(1) + penalty)[:, None]]).astype(np.float32)
        return _Index(centres, mean, axes, place, rows)

    def nearest(self, guide: Array, targets: NDArray[np.intp]) -> tuple[NDArray[np.intp], Array]:
        """Return the known patch that is most similar to each patch of `guide` at `targets`.

        `targets`, (n, 2), are the centres of the patches of `guide`. Return the centres of the
        known patches, (n, 2), and their squared distances, (n,). These distances depend on colours
        and places, but not on the value of `_strange`.
        """
        wanted = np.hstack(
            [(_patches(guide, targets) - self.mean) @ self.axes, targets * self.place]
        )
        # The product of these matrices is |known - wanted|^2 + penalty for each pair of patches,
        # without |wanted|^2, which is the same for all known patches.
        queries = np.hstack([-2 * wanted, np.ones((len(wanted), 1))]).astype(np.float32)
        chunks = np.array_split(queries, len(queries) // 512 + 1)
        found = np.concatenate([(chunk @ self.rows.T).argmin(1) for chunk in chunks])
        return self.centres[found], ((self.rows[found, :-1] - wanted) ** 2).sum(1)


def _improved(
    guide: Array, picture: Array, hole: Mask, index: _Index
) -> tuple[Array, NDArray[np.intp]]:
    """Return an improved `guide`, and the shift (down, across) of each patch over the hole.

    Each patch over the hole is replaced by the most similar known patch. A pixel of the hole
    becomes the weighted mean of all patches that contain it.
    """
    half = PATCH // 2
    inner = (slice(half, hole.shape[0] - half), slice(half, hole.shape[1] - half))
    touching = np.zeros_like(hole)
    touching[inner] = cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8))[inner]
    targets = np.argwhere(touching)
    found, far = index.nearest(guide, targets)
    # A patch has a larger weight if it matches well, and if its centre is near the edge of the hole
    # or outside the hole.
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5)
    say = np.exp(-far / (2 * np.quantile(far, 0.75) + 1e-6))
    say *= 1.3 ** -depth[targets[:, 0], targets[:, 1]]
    votes = np.zeros_like(picture)
    weight = np.full(hole.shape, 1e-12, np.float32)
    for down in range(-half, half + 1):
        for across in range(-half, half + 1):
            at = targets[:, 0] + down, targets[:, 1] + across
            votes[at] += say[:, None] * picture[found[:, 0] + down, found[:, 1] + across]
            weight[at] += say
    voted = np.where(hole[..., None], votes / weight[..., None], picture)
    return voted.astype(np.float32), found - targets


def _sources(hole: Mask) -> Mask:
    """Return an array that is True at the centres of all patches that don't touch the hole."""
    half = PATCH // 2
    valid = np.zeros_like(hole)
    inner = (slice(half, hole.shape[0] - half), slice(half, hole.shape[1] - half))
    touched = cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8))
    valid[inner] = touched[inner] == 0
    return valid


def _patches(picture: Array, centres: NDArray[np.intp]) -> Array:
    """Return the patches around `centres`, (n, 2), one in each row.

    The returned array has the shape (n, channels * PATCH * PATCH).
    """
    half = PATCH // 2
    views = np.lib.stride_tricks.sliding_window_view(picture, (PATCH, PATCH), (0, 1))
    return views[centres[:, 0] - half, centres[:, 1] - half].reshape(len(centres), -1)


def _blurred(picture: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def _thickness(hole: Mask) -> float:
    """Return the distance, in pixels, from the innermost pixel of the hole to the hole's edge."""
    return float(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5).max())


# --- Copy detail into the hole at full size ---------------------------------------------------


def _detail(
    detail: Array,
    missing: Mask,
    small: Array,
    unknown: Mask,
    guide: Array,
    shifts: NDArray[np.intp],
) -> Array:
    """Return detail for the hole, copied from where the picture looks like `guide` in the hole.

    `detail` is the difference between the picture at full size and its tones, and `missing` is its
    hole at full size. `small` is the small copy, `unknown` is the hole in this copy, and `guide` is
    the copy with its hole filled. `shifts` are in pixels of the small copy. Because only detail is
    copied, and no tones, there is no visible step between copies from different places.
    """
    height, width = missing.shape
    rows, columns = unknown.shape
    usable = (~missing).astype(np.float32)
    sums = np.zeros_like(detail)
    if not len(shifts):
        return sums
    chosen = _common(shifts)
    strange = _strange(small, unknown)
    costs = np.stack([_cost(small, unknown, guide, strange, shift) for shift in chosen])
    labels = costs.argmin(0)
    # Neighbouring pixels should get the same shift, unless another shift fits much better.
    typical = np.median(costs.min(0)[unknown]) + 1e-4
    for _ in range(4):
        alike = np.stack(
            [cv2.blur((labels == i).astype(np.float32), (5, 5)) for i in range(len(chosen))]
        )
        labels = (costs - typical * alike).argmin(0)
    total = np.full(missing.shape, 1e-6, np.float32)
    for i in np.unique(labels[unknown]):
        share = cv2.resize(
            (labels == i).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        down = round(int(chosen[i][0]) * height / rows)
        across = round(int(chosen[i][1]) * width / columns)
        share *= _shifted(usable, down, across)
        sums += share[..., None] * _shifted(detail, down, across)
        total += share
    return sums / total[..., None]


def _common(shifts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the most frequent of `shifts`, an array (n, 2), with at most MOST_SHIFTS rows.

    Each row of both arrays is a distance (down, across) in pixels of the small copy. Shifts that
    are similar to a more frequent shift are left out.
    """
    low = shifts.min(0)
    counts = np.zeros(shifts.max(0) - low + 1, np.float32)
    np.add.at(counts, tuple((shifts - low).T), 1)
    counts = cv2.GaussianBlur(counts, (0, 0), 0.8)
    counts[counts < cv2.dilate(counts, np.ones((3, 3), np.uint8))] = 0
    order = np.argsort(counts, axis=None)[::-1][:MOST_SHIFTS]
    order = order[counts.ravel()[order] > 0]
    return np.stack(np.unravel_index(order, counts.shape), 1) + low


def _cost(
    small: Array, unknown: Mask, guide: Array, strange: Array, shift: NDArray[np.intp]
) -> Array:
    """Return the cost of filling each pixel with the pixel that is `shift` (down, across) away.

    `small` is the small copy, `unknown` is True in its hole, `guide` is the copy with its hole
    filled, and `strange` is the value of `_strange` for the copy. All have the same height and
    width as the returned array. The cost is mainly the difference between `guide` and the small
    copy after it is shifted. It is high where the pixel that is `shift` away is unknown.
    """
    down, across = int(shift[0]), int(shift[1])
    difference = ((_shifted(small, down, across) - guide) ** 2).sum(-1)
    difference += STRANGENESS * _shifted(strange, down, across)
    difference = np.where(_shifted(~unknown, down, across), difference, np.float32(4))
    return cv2.GaussianBlur(difference.astype(np.float32), (0, 0), 1.5)


def _shifted(array: Array, down: int, across: int) -> Array:
    """Return a copy of `array`, shifted so that each pixel gets the value of a pixel farther on.

    The value comes from the pixel that is `down` rows below and `across` columns to the right. If
    this pixel would be beyond the edge, the value is 0.
    """
    height, width = array.shape[:2]
    shifted = np.zeros_like(array)
    top, bottom = max(0, -down), min(height, height - down)
    left, right = max(0, -across), min(width, width - across)
    if top < bottom and left < right:
        shifted[top:bottom, left:right] = array[
            top + down : bottom + down, left + across : right + across
        ]
    return shifted


# --- Interpolate missing values smoothly ------------------------------------------------------


def _diffused(values: Array, known: Mask) -> Array:
    """Return a copy of `values` in which values that are not `known` are interpolated smoothly."""
    weight = known.astype(np.float32)
    return _pulled_and_pushed(values * weight[..., None], weight)


def _pulled_and_pushed(sums: Array, weight: Array) -> Array:
    """Return values in which all gaps are filled smoothly, by pull-push interpolation.

    `weight`, (height, width), is 1 where a value is known and 0 where it is missing; values between
    0 and 1 are possible. `sums` are the values multiplied by this weight. The method fills gaps
    from a copy of half the size, in which gaps are filled in the same way.
    """
    height, width = weight.shape
    if max(height, width) <= 2:
        return np.broadcast_to(sums.sum((0, 1)) / max(float(weight.sum()), 1e-6), sums.shape)
    size = ((width + 1) // 2, (height + 1) // 2)
    low_sums = cv2.resize(sums, size, interpolation=cv2.INTER_AREA)
    low_weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    # A pixel of the half-size copy counts as known if at least a quarter of its area is known, so
    # that near values take precedence over distant ones.
    gain = np.minimum(1, 4 * low_weight) / np.maximum(low_weight, np.float32(1e-6))
    low = _pulled_and_pushed(low_sums * gain[..., None], low_weight * gain)
    smooth = cv2.resize(np.ascontiguousarray(low), (width, height), interpolation=cv2.INTER_LINEAR)
    return sums + (1 - weight[..., None]) * smooth
