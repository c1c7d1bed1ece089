"""Grain: the noise of what is new, brought to that of the picture around it.

Models paint smooth surfaces without a camera's noise, or with too much of it. Noise depends on
brightness, and cameras smear it, so it is measured at some brightnesses, in bands of detail.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats, Pixels
from plugin.worker.robust import quantile

_BLURS = 0.7, 1.8, 4.0
"""Standard deviations of the blurs between which the bands lie; the first is all finer detail."""
_TILE, _RIM, _BLOCK = 32, 8, 8
"""Pixels of a side: of the tiles that are looked at, of what a blur spoils there, of a block."""
_MOST_TILES = 150
_BINS = 8
"""Brightnesses."""
_LEAST_BLOCKS = 12
_FLAT = 0.25
"""That share of the blocks is taken for flat: what they differ by is noise."""
_MOST = 5.0
"""Levels of noise; more is texture."""
_LEAST = 0.2
"""Levels by which noise is off, and nobody sees it."""
_COARSE = 0.4
"""The share of its fine detail that noise has of the coarsest, at most."""
_LITTLE = 0.1
"""The share of noise that may be too much."""
_EVEN = 1.8
"""So much more than the flat share the rest may differ, if nearly all of it is noise."""
_CLIPPED = 10.0
"""Levels from black and white on which noise is whole: a packshot's ground stays pure."""
_PATTERN = 256
"""Pixels of a side of the square of noise that is repeated."""
_MARGIN = 16
"""Pixels beyond which a blur doesn't reach."""


class Noise(NamedTuple):
    """What noise a picture has, by its brightness."""

    levels: NDArray[np.float64]
    """(bands, brightnesses)."""
    even: NDArray[np.float64]
    """(brightnesses,): how much more the rest of the picture differs; 1 where it is all noise."""


def measured(picture: Pixels, where: NDArray[np.bool_]) -> Noise | None:
    """The noise of a picture, RGB, by the places `where`, (height, width); None if unknown."""
    height, width = where.shape
    down, across = height // _TILE, width // _TILE
    if not (down and across):
        return None
    grid = where[: down * _TILE, : across * _TILE].reshape(down, _TILE, across, _TILE)
    rows, columns = np.nonzero(grid.all(axis=(1, 3)))
    # By chance: each of so many would be of a few columns alone.
    some = np.random.default_rng(0).permutation(len(rows))[:_MOST_TILES]
    places = list(zip(rows[some] * _TILE, columns[some] * _TILE, strict=True))
    if not places:
        return None
    tiles = [picture[y : y + _TILE, x : x + _TILE] for y, x in places]
    # One above the other: a single blur for all.
    gray = cv2.cvtColor(np.ascontiguousarray(np.concatenate(tiles)), cv2.COLOR_RGB2GRAY)
    levels = gray.astype(np.float32)
    bands = _bands(levels)
    brightness, *deviations = (_blocks(values, len(tiles)) for values in (levels, *bands))
    means = brightness.mean(axis=1)
    bins = np.clip(means // (256 // _BINS), 0, _BINS - 1).astype(int)
    noise = np.full((len(bands) + 1, _BINS), np.nan)
    for number in range(_BINS):
        here = bins == number
        if np.count_nonzero(here) < _LEAST_BLOCKS:
            continue
        for band, values in enumerate(deviations):
            spread = values[here].std(axis=1)
            noise[band, number] = min(quantile(spread, _FLAT), _MOST)
            if not band:
                noise[-1, number] = quantile(spread, 1 - _FLAT) / max(noise[0, number], _LEAST)
    # Noise has less of coarse detail, texture has not.
    told = np.nonzero(noise[-2] < _COARSE * noise[0] + _LEAST / 2)[0]
    if not len(told):
        return None
    *known, even = (np.interp(np.arange(_BINS), told, row[told]) for row in noise)
    return Noise(np.stack(known), even)


def _bands(gray: Floats) -> list[Floats]:
    """What is finer than the blurs, from fine to coarse."""
    found, finest = [], gray
    for blur in _BLURS:
        coarser = cv2.GaussianBlur(gray, (0, 0), blur)
        found.append(finest - coarser)
        finest = coarser
    return found


def _blocks(values: Floats, tiles: int) -> Floats:
    """The blocks of tiles that lie one above the other: (number, pixels)."""
    inner = values.reshape(tiles, _TILE, _TILE)[:, _RIM:-_RIM, _RIM:-_RIM]
    side = inner.shape[1] // _BLOCK
    inner = inner.reshape(tiles, side, _BLOCK, side, _BLOCK).transpose(0, 1, 3, 2, 4)
    return inner.reshape(-1, _BLOCK * _BLOCK)


def match(placed: Pixels, wanted: Noise, share: Floats, is_new: NDArray[np.bool_]) -> None:
    """Give `placed`, RGB, the noise that is `wanted`, as far as `share`, (height, width), says.

    `is_new` is where its own noise is measured.
    """
    own = measured(placed, is_new)
    if own is None or np.abs(wanted.levels - own.levels).max() < _LEAST:
        return
    fresh = _bands(np.random.default_rng(0).standard_normal((_PATTERN, _PATTERN), np.float32))
    missing = np.sqrt(np.maximum(wanted.levels**2 - own.levels**2, 0)) * (wanted.even < _EVEN)
    missing /= np.array([[values.std()] for values in fresh])
    # Of too much, what is no more than noise: edges are more. Texture is uneven.
    excess = 1 - np.minimum(wanted.levels / np.maximum(own.levels, 1e-3), 1)
    excess = excess * (own.even < _EVEN)
    gray = cv2.cvtColor(placed, cv2.COLOR_RGB2GRAY)
    # Little by little: of a large picture floats would take much memory.
    for top in range(0, len(gray), _PATTERN):
        rows = slice(top, top + _PATTERN)
        inner = gray[rows]
        change = np.zeros(inner.shape, np.float32)
        for values, amounts in zip(fresh, missing, strict=True):
            if amounts.any():
                change += _by_brightness(amounts, inner) * _repeated(values, inner.shape)
        if excess.max() > _LITTLE:
            margin = min(top, _MARGIN)
            around = gray[top - margin : rows.stop + _MARGIN].astype(np.float32)
            for band, amounts, has in zip(_bands(around), excess, own.levels, strict=True):
                band = band[margin : margin + len(inner)]
                is_noise = np.abs(band) < _by_brightness(4 * has, inner)
                change -= _by_brightness(amounts, inner) * band * is_noise
        change *= share[rows]
        placed[rows] = cv2.add(placed[rows], cv2.merge([change] * 3), dtype=cv2.CV_8U)


def _repeated(pattern: Floats, shape: tuple[int, ...]) -> Floats:
    """A square as often as a strip of `shape`, (height, width), is wide."""
    return np.tile(pattern, -(-shape[1] // _PATTERN))[: shape[0], : shape[1]]


def _by_brightness(values: NDArray[Any], gray: Pixels) -> Floats:
    """A value for each pixel, by its brightness; none for pure black and white."""
    centres = (np.arange(_BINS) + 0.5) * 256 / _BINS
    levels = np.arange(256)
    clipped = np.clip(np.minimum(levels, 255 - levels) / _CLIPPED, 0, 1)
    return cv2.LUT(gray, (np.interp(levels, centres, values) * clipped).astype(np.float32))


def dither(levels: Floats, smooth: NDArray[np.bool_]) -> None:
    """Add up to half a level, up or down, to `levels`, (height, width, 3), where they are `smooth`.

    Before levels are rounded, that leaves no steps in a sky.
    """
    pattern = np.random.default_rng(0).uniform(-0.5, 0.5, (_PATTERN, _PATTERN)).astype(np.float32)
    for top in range(0, len(levels), _PATTERN):
        strip = levels[top : top + _PATTERN]
        strip += (_repeated(pattern, strip.shape) * smooth[top : top + _PATTERN])[..., None]
