"""Filling a hole in a picture from its surroundings, as patient cloning would.

First a small copy of the surroundings is completed, coarse to fine, so that every patch over the
hole looks like some patch beside it (Wexler, Shechtman and Irani, 2007). Then the hole is covered
at full size by few shifted copies of the picture (He and Sun, 2012), those that show what the small
copy shows, so that texture stays sharp. Arrays are as in `model`; holes are bool, True is missing.
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
"""Longer side of the small copy in pixels: what the search costs grows with its fourth power."""
PATCH = 7
"""Side of a patch in pixels of the small copy; odd."""
NEARNESS = 0.04
"""What taking a patch from the other end of the picture costs: a squared difference in tone."""
STRANGENESS = 4
"""By how much a patch's colours being unlike all of the hole's rim outweighs its fit."""
FEWEST_SOURCES = 100
"""Known patches below which there is nothing to choose from."""
MOST_HOLES = 12
"""Holes that are filled one by one; more are filled together, which is coarser."""
MOST_SHIFTS = 32
"""Different shifted copies that cover one hole."""


def fill(picture: Array, hole: Mask) -> Array:
    """Return `picture` with `hole` filled; it must leave something to fill it from."""
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
    """Fill `hole` in place; `missing` is the hole and what else must not be copied from."""
    height, width = hole.shape
    factor = max(1.0, max(hole.shape) / WORKING_SIDE)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(_with_roughness(picture, factor), size, interpolation=cv2.INTER_AREA)
    unknown = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    guide, shifts = _completed(small, unknown)
    # The votes have averaged all but the larger forms: tones from there, the rest is copied.
    tones = cv2.resize(
        _blurred(guide[..., :3], 1.5), (width, height), interpolation=cv2.INTER_CUBIC
    )
    filling = tones + _detail(picture - tones, missing, small, unknown, guide, shifts)
    # What is left of a step in tone at the rim is spread over the hole; a step in structure is not.
    beside = (cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~missing
    filling = filling + _diffused((picture - filling).clip(-0.08, 0.08), beside)
    picture[hole] = filling[hole]


def _with_roughness(picture: Array, scale: float) -> Array:
    """Red, green, blue, and how rough the texture is that vanishes when made smaller by `scale`.

    Without the latter, the small copy could not tell fur from a wall of the same colour.
    """
    grey = picture.mean(-1)
    rough = _blurred(np.abs(grey - _blurred(grey, scale)), scale)
    return np.dstack([picture, 3 * rough])


# --- the small copy ---------------------------------------------------------------------------


def _completed(picture: Array, hole: Mask) -> tuple[Array, NDArray[np.intp]]:
    """`picture` with its hole filled, and (n, 2) shifts (down, across) that its patches came by."""
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
    """How far each patch's colours are from all that the hole's rim shows: mean squared, (h, w).

    A hole is filled with what surrounds it: a face does not follow from grey cloth beside it,
    however well its outline would fit.
    """
    rim = cv2.dilate(hole.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    usual = picture[rim & ~hole]
    usual = usual[:: max(1, len(usual) // 200)]
    squares = (picture**2).sum(-1)[..., None] + (usual**2).sum(-1) - 2 * (picture @ usual.T)
    nearest = squares.min(-1).clip(0, None)
    return cv2.blur(nearest, (PATCH, PATCH))


@dataclass(frozen=True)
class _Index:
    """The known patches of a picture, to find the nearest by colours, place and strangeness."""

    centres: NDArray[np.intp]
    mean: Array
    axes: Array
    place: float
    rows: Array

    @staticmethod
    def of(picture: Array, hole: Mask) -> _Index:
        """Index the patches of `picture` that `hole` leaves whole."""
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
        """Centres (n, 2) and distances (n,) of the known patches most like `guide` at `targets`."""
        wanted = np.hstack(
            [(_patches(guide, targets) - self.mean) @ self.axes, targets * self.place]
        )
        # |known - wanted|^2 + penalty, but for |wanted|^2, as a product of matrices.
        queries = np.hstack([-2 * wanted, np.ones((len(wanted), 1))]).astype(np.float32)
        chunks = np.array_split(queries, len(queries) // 512 + 1)
        found = np.concatenate([(chunk @ self.rows.T).argmin(1) for chunk in chunks])
        return self.centres[found], ((self.rows[found, :-1] - wanted) ** 2).sum(1)


def _improved(
    guide: Array, picture: Array, hole: Mask, index: _Index
) -> tuple[Array, NDArray[np.intp]]:
    """One round: every patch over the hole finds its nearest known patch, then all vote."""
    half = PATCH // 2
    inner = (slice(half, hole.shape[0] - half), slice(half, hole.shape[1] - half))
    touching = np.zeros_like(hole)
    touching[inner] = cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8))[inner]
    targets = np.argwhere(touching)
    found, far = index.nearest(guide, targets)
    # Good matches, and those that reach into what is known, have more of a say.
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
    """Where the centres of patches lie that are known in full."""
    half = PATCH // 2
    valid = np.zeros_like(hole)
    inner = (slice(half, hole.shape[0] - half), slice(half, hole.shape[1] - half))
    touched = cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH), np.uint8))
    valid[inner] = touched[inner] == 0
    return valid


def _patches(picture: Array, centres: NDArray[np.intp]) -> Array:
    """The patches around `centres` (n, 2) as rows (n, channels * PATCH * PATCH)."""
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
    """`detail` for the hole, copied from where the picture shows what `guide` shows in the hole.

    `detail` is what the picture at full size, whose hole is `missing`, has beyond its large tones;
    `small`, `unknown` and `guide` are picture, hole and completed picture at the working size, in
    whose pixels `shifts` are. Only detail is copied, so no seam can show a step in tone.
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
    # Neighbours should come from one place, where that is hardly worse.
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
    """The shifts that occur most often, near ones counted together: (n, 2)."""
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
    """How badly the picture shifted by `shift` shows what `guide` shows, at each pixel."""
    down, across = int(shift[0]), int(shift[1])
    difference = ((_shifted(small, down, across) - guide) ** 2).sum(-1)
    difference += STRANGENESS * _shifted(strange, down, across)
    difference = np.where(_shifted(~unknown, down, across), difference, np.float32(4))
    return cv2.GaussianBlur(difference.astype(np.float32), (0, 0), 1.5)


def _shifted(array: Array, down: int, across: int) -> Array:
    """`array` so that what was `down` and `across` from a pixel is at it; zero beyond the edge."""
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
    """`values` where `known`, elsewhere a membrane between them."""
    weight = known.astype(np.float32)
    return _pulled_and_pushed(values * weight[..., None], weight)


def _pulled_and_pushed(sums: Array, weight: Array) -> Array:
    """Pull-push interpolation; `sums` are values times their `weight` (height, width), 0 to 1."""
    height, width = weight.shape
    if max(height, width) <= 2:
        return np.broadcast_to(sums.sum((0, 1)) / max(float(weight.sum()), 1e-6), sums.shape)
    size = ((width + 1) // 2, (height + 1) // 2)
    low_sums = cv2.resize(sums, size, interpolation=cv2.INTER_AREA)
    low_weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    # A cell that is known in part counts as known: what is near comes before what is far.
    gain = np.minimum(1, 4 * low_weight) / np.maximum(low_weight, np.float32(1e-6))
    low = _pulled_and_pushed(low_sums * gain[..., None], low_weight * gain)
    smooth = cv2.resize(np.ascontiguousarray(low), (width, height), interpolation=cv2.INTER_LINEAR)
    return sums + (1 - weight[..., None]) * smooth
