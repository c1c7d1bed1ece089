"""Grain: noise matching, so that new content has the noise of the picture around it.

Models paint smooth surfaces without a camera's noise, or with too much of it. Noise depends on
brightness, and cameras smear it. It is therefore measured for each of several ranges of brightness
(bins) and in several bands of spatial frequency, from fine to coarse.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats, Pixels
from plugin.worker.robust import quantile

_BLURS = 0.7, 1.8, 4.0
"""Standard deviations, in pixels, of the Gaussian blurs that separate the bands.

Each band is the difference between two successive blurs. The first contains all finer detail.
"""
_TILE, _RIM, _BLOCK = 32, 8, 8
"""Pixels: the side of a tile, the rim of a tile that blurs spoil, and the side of a block.

The noise is measured in samples of the picture, the tiles. The inner part of a tile, without its
rim, consists of blocks.
"""
_MOST_TILES = 150
_BINS = 8
"""Ranges of brightness, of equal size."""
_LEAST_BLOCKS = 12
"""Fewer blocks in a bin are too few to measure its noise."""
_FLAT = 0.25
"""The share of the blocks that count as flat, so that their deviation is noise."""
_MOST = 5.0
"""The largest noise, in levels of 255. More is texture."""
_LEAST = 0.2
"""Levels of 255. A smaller difference in noise is not visible."""
_COARSE = 0.4
"""Noise has at most this ratio of the coarsest band to the finest."""
_LITTLE = 0.1
"""Noise is reduced if, in any band and bin, a larger share of it than this is too much."""
_EVEN = 1.8
"""The limit of `Noise.even` below which nearly all of a picture's detail is noise."""
_CLIPPED = 10.0
"""Levels over which noise rises from none, at black and at white, to its full strength.

The white ground of a product photograph stays pure.
"""
_PATTERN = 256
"""Side, in pixels, of the square of noise that is repeated."""
_MARGIN = 16
"""The largest radius of a blur, in pixels."""


class Noise(NamedTuple):
    """The noise of a picture, by brightness."""

    levels: NDArray[np.float64]
    """(bands, bins): standard deviations in levels of 255."""
    even: NDArray[np.float64]
    """(bins,): how evenly the finest detail is distributed; near 1 if all of it is noise.

    This is the upper quartile of the blocks' standard deviations, divided by the lower quartile.
    """


def measured(picture: Pixels, where: NDArray[np.bool_]) -> Noise | None:
    """Return the noise of `picture`, RGB (height, width, 3), measured in `where`, (height, width).

    None if, at no brightness, there are enough blocks whose noise can be distinguished from
    texture.
    """
    height, width = where.shape
    down, across = height // _TILE, width // _TILE
    if not (down and across):
        return None
    grid = where[: down * _TILE, : across * _TILE].reshape(down, _TILE, across, _TILE)
    rows, columns = np.nonzero(grid.all(axis=(1, 3)))
    # Tiles are chosen at random: at regular intervals, they might come from a few columns only.
    some = np.random.default_rng(0).permutation(len(rows))[:_MOST_TILES]
    places = list(zip(rows[some] * _TILE, columns[some] * _TILE, strict=True))
    if not places:
        return None
    tiles = [picture[y : y + _TILE, x : x + _TILE] for y, x in places]
    # The tiles are stacked vertically, so that one blur serves all of them.
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
    # Noise is weaker in the coarsest band than in the finest; texture isn't.
    told = np.nonzero(noise[-2] < _COARSE * noise[0] + _LEAST / 2)[0]
    if not len(told):
        return None
    *known, even = (np.interp(np.arange(_BINS), told, row[told]) for row in noise)
    return Noise(np.stack(known), even)


def _bands(gray: Floats) -> list[Floats]:
    """Return the bands of `gray`, from fine to coarse."""
    found, finest = [], gray
    for blur in _BLURS:
        coarser = cv2.GaussianBlur(gray, (0, 0), blur)
        found.append(finest - coarser)
        finest = coarser
    return found


def _blocks(values: Floats, tiles: int) -> Floats:
    """Return the blocks of tiles that are stacked vertically, as (number, pixels)."""
    inner = values.reshape(tiles, _TILE, _TILE)[:, _RIM:-_RIM, _RIM:-_RIM]
    side = inner.shape[1] // _BLOCK
    inner = inner.reshape(tiles, side, _BLOCK, side, _BLOCK).transpose(0, 1, 3, 2, 4)
    return inner.reshape(-1, _BLOCK * _BLOCK)


def match(placed: Pixels, wanted: Noise, share: Floats, is_new: NDArray[np.bool_]) -> None:
    """Change the noise of `placed`, RGB (height, width, 3), in place to the noise `wanted`.

    `share`, (height, width), from 0 to 1, limits the change of each pixel. The noise that `placed`
    has is measured where `is_new`, (height, width), is true. Nothing changes if it can't be
    measured, or if the difference is not visible.
    """
    own = measured(placed, is_new)
    if own is None or np.abs(wanted.levels - own.levels).max() < _LEAST:
        return
    fresh = _bands(np.random.default_rng(0).standard_normal((_PATTERN, _PATTERN), np.float32))
    missing = np.sqrt(np.maximum(wanted.levels**2 - own.levels**2, 0)) * (wanted.even < _EVEN)
    missing /= np.array([[values.std()] for values in fresh])
    # Too much noise is reduced, but only values as small as noise: larger ones are edges. Uneven
    # detail is texture, and stays.
    excess = 1 - np.minimum(wanted.levels / np.maximum(own.levels, 1e-3), 1)
    excess = excess * (own.even < _EVEN)
    gray = cv2.cvtColor(placed, cv2.COLOR_RGB2GRAY)
    # The picture is processed in strips: the floats of a large one would take much memory.
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
    """Return a strip of `shape`, (height, width), filled with copies of the square `pattern`.

    The strip is at most as high as the square.
    """
    return np.tile(pattern, -(-shape[1] // _PATTERN))[: shape[0], : shape[1]]


def _by_brightness(values: NDArray[Any], gray: Pixels) -> Floats:
    """Return the value for each pixel's brightness, (height, width).

    `values` are those of the bins, and are interpolated between their centres. Near black and
    white, they fade to 0.
    """
    centres = (np.arange(_BINS) + 0.5) * 256 / _BINS
    levels = np.arange(256)
    clipped = np.clip(np.minimum(levels, 255 - levels) / _CLIPPED, 0, 1)
    return cv2.LUT(gray, (np.interp(levels, centres, values) * clipped).astype(np.float32))


def dither(levels: Floats, smooth: NDArray[np.bool_]) -> None:
    """Add noise of up to half a level, in place, to `levels` before they are rounded.

    `levels` is (height, width, 3), and `smooth`, (height, width), is where noise is added. It
    prevents visible steps in smooth gradients, such as a sky.
    """
    pattern = np.random.default_rng(0).uniform(-0.5, 0.5, (_PATTERN, _PATTERN)).astype(np.float32)
    for top in range(0, len(levels), _PATTERN):
        strip = levels[top : top + _PATTERN]
        strip += (_repeated(pattern, strip.shape) * smooth[top : top + _PATTERN])[..., None]
