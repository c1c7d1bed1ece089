"""Fill a hole in a picture from its surroundings.

First, the hole in a small copy is filled, from coarse to fine, so that every patch over the hole
looks like some patch outside it (Wexler, Shechtman and Irani, 2007). Then the hole is covered at
full size by a few shifted copies of the picture (He and Sun, 2012) that look like the small copy.
This keeps the texture sharp.

Arrays have the same form as in `model`. A hole is a bool array (height, width), True where pixels
are missing.
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
"""The longer side of the small copy in pixels. The search time grows with its fourth power."""
PATCH = 7
"""The side of a patch in pixels of the small copy; an odd number."""
NEARNESS = 0.04
"""The cost of a patch from the opposite end of the picture, as a squared difference per pixel."""
STRANGENESS = 4
"""The weight of how much a patch's colours differ from those around the hole; its fit has 1."""
FEWEST_SOURCES = 100
"""The fewest known patches with which a search makes sense."""
MOST_HOLES = 12
"""The most holes that are filled one by one. More are filled together, which is less precise."""
MOST_SHIFTS = 32
"""The most shifted copies that cover one hole."""


def fill(picture: Array, hole: Mask) -> Array:
    """Return a copy of `picture` with `hole` filled. Some pixels must be outside the hole."""
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
    """Fill `hole` in place. `missing` is the hole and other pixels that must not be copied."""
    height, width = hole.shape
    factor = max(1.0, max(hole.shape) / WORKING_SIDE)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(_with_roughness(picture, factor), size, interpolation=cv2.INTER_AREA)
    unknown = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    guide, shifts = _completed(small, unknown)
    # The average of many patches shows larger forms only. So just the tones are taken from it, and
    # detail is copied from the picture.
    tones = cv2.resize(
        _blurred(guide[..., :3], 1.5), (width, height), interpolation=cv2.INTER_CUBIC
    )
    filling = tones + _detail(picture - tones, missing, small, unknown, guide, shifts)
    # A small step in tone that is left at the edge is spread over the hole. A larger step is due to
    # structure, so the correction is limited.
    beside = (cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~missing
    filling = filling + _diffused((picture - filling).clip(-0.08, 0.08), beside)
    picture[hole] = filling[hole]


def _with_roughness(picture: Array, scale: float) -> Array:
    """Return red, green, blue and roughness, (height, width, 4).

    Roughness is the strength of the texture that is lost when the picture is scaled down by
    `scale`. Without it, fur and a wall of the same colour would look the same in the small copy.
    """
    grey = picture.mean(-1)
    rough = _blurred(np.abs(grey - _blurred(grey, scale)), scale)
    return np.dstack([picture, 3 * rough])


# --- the small copy ---------------------------------------------------------------------------


def _completed(picture: Array, hole: Mask) -> tuple[Array, NDArray[np.intp]]:
    """Return `picture` with its hole filled, and the shifts from which its patches were taken.

    The shifts are (down, across) in pixels, an array (n, 2).
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
    """Return how much the colours of each patch differ from those around the hole, (height, width).

    The value is the mean squared difference of each pixel from the nearest colour at the edge. A
    hole should be filled with what surrounds it: next to grey cloth, a face would be wrong, even if
    its outline matches.
    """
    rim = cv2.dilate(hole.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    usual = picture[rim & ~hole]
    usual = usual[:: max(1, len(usual) // 200)]
    squares = (picture**2).sum(-1)[..., None] + (usual**2).sum(-1) - 2 * (picture @ usual.T)
    nearest = squares.min(-1).clip(0, None)
    return cv2.blur(nearest, (PATCH, PATCH))


@dataclass(frozen=True)
class _Index:
    """The known patches of a picture, for a search of the most similar ones.

    The distance depends on the colours, the place, and the value of `_strange`. Patches are
    compared in their principal components.
    """

    centres: NDArray[np.intp]
    mean: Array
    axes: Array
    place: float
    rows: Array

    @staticmethod
    def of(picture: Array, hole: Mask) -> _Index:
        """Index the patches of `picture` that don't touch `hole`."""
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
        """Return the known patches that are most similar to those of `guide` at `targets` (n, 2).

        They are given by their centres (n, 2) and squared distances (n,), which depend on colours
        and place only.
        """
        wanted = np.hstack(
            [(_patches(guide, targets) - self.mean) @ self.axes, targets * self.place]
        )
        # |known - wanted|^2 + penalty as a product of matrices, without the constant |wanted|^2.
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
    # Good matches, and patches near or outside the edge of the hole, have a larger weight.
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
    """Return where the centres of patches are that don't touch the hole."""
    half = PATCH // 2
    valid = np.zeros_like(hole)
    inner = (slice(half, hole.shape[0] - half), slice(half, hole.shape[1] - half))
    touched = cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8))
    valid[inner] = touched[inner] == 0
    return valid


def _patches(picture: Array, centres: NDArray[np.intp]) -> Array:
    """Return the patches around `centres` (n, 2) as rows (n, channels * PATCH * PATCH)."""
    half = PATCH // 2
    views = np.lib.stride_tricks.sliding_window_view(picture, (PATCH, PATCH), (0, 1))
    return views[centres[:, 0] - half, centres[:, 1] - half].reshape(len(centres), -1)


def _blurred(picture: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def _thickness(hole: Mask) -> float:
    return float(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5).max())


# --- the full size ----------------------------------------------------------------------------


def _detail(
    detail: Array,
    missing: Mask,
    small: Array,
    unknown: Mask,
    guide: Array,
    shifts: NDArray[np.intp],
) -> Array:
    """Return detail for the hole, copied from where the picture looks like `guide` in the hole.

    `detail` is the difference of the picture at full size from its tones, and `missing` its hole.
    `small`, `unknown` and `guide` are the picture, its hole and the filled picture at the working
    size; `shifts` are in pixels of that size. Because only detail is copied, there is no step in
    tone between copies from different places.
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
    # Neighbouring pixels should be copied from the same place, unless that is much worse.
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
    """Return the most frequent shifts, (n, 2), at most MOST_SHIFTS. Similar shifts count as one."""
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
    """Return how much the picture shifted by `shift` differs from `guide`, (height, width)."""
    down, across = int(shift[0]), int(shift[1])
    difference = ((_shifted(small, down, across) - guide) ** 2).sum(-1)
    difference += STRANGENESS * _shifted(strange, down, across)
    difference = np.where(_shifted(~unknown, down, across), difference, np.float32(4))
    return cv2.GaussianBlur(difference.astype(np.float32), (0, 0), 1.5)


def _shifted(array: Array, down: int, across: int) -> Array:
    """Return an array in which each pixel has the value from `down` and `across` pixels farther on.

    Beyond the edge, the values are 0.
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


# --- smooth interpolation ---------------------------------------------------------------------


def _diffused(values: Array, known: Mask) -> Array:
    """Return `values` where they are `known`, and a smooth interpolation elsewhere."""
    weight = known.astype(np.float32)
    return _pulled_and_pushed(values * weight[..., None], weight)


def _pulled_and_pushed(sums: Array, weight: Array) -> Array:
    """Fill gaps smoothly by pull-push interpolation.

    `sums` are the values multiplied by their `weight` (height, width), 0 to 1.
    """
    height, width = weight.shape
    if max(height, width) <= 2:
        return np.broadcast_to(sums.sum((0, 1)) / max(float(weight.sum()), 1e-6), sums.shape)
    size = ((width + 1) // 2, (height + 1) // 2)
    low_sums = cv2.resize(sums, size, interpolation=cv2.INTER_AREA)
    low_weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    # A cell of which a quarter is known counts as known, so that near values take precedence over
    # distant ones.
    gain = np.minimum(1, 4 * low_weight) / np.maximum(low_weight, np.float32(1e-6))
    low = _pulled_and_pushed(low_sums * gain[..., None], low_weight * gain)
    smooth = cv2.resize(np.ascontiguousarray(low), (width, height), interpolation=cv2.INTER_LINEAR)
    return sums + (1 - weight[..., None]) * smooth
