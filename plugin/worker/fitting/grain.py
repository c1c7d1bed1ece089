"""Grain: give new content the same noise as the picture around it.

AI models paint smooth surfaces without the noise that a camera adds, or with too much noise. The
strength of a camera's noise depends on the brightness, and neighbouring pixels have similar noise.
So the noise is measured separately for several ranges of brightness, the *bins*, and for several
sizes of detail from fine to coarse, the *bands*.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting.affine import Floats, Pixels
from plugin.worker.fitting.robust import quantile

_BLURS = 0.7, 1.8, 4.0
"""The standard deviations, in pixels, of the Gaussian blurs that separate the bands.

The first band is the difference between the picture and its weakest blur. Each further band is the
difference between two successive blurs.
"""
_TILE, _RIM, _BLOCK = 32, 8, 8
"""The side of a tile, the width of a tile's rim, and the side of a block, in pixels.

The noise is measured in small samples of the picture, the tiles. The rim of a tile is not measured,
because the blurs mix it with other tiles. The inner area of a tile is divided into blocks.
"""
_MOST_TILES = 150
_BINS = 8
"""The number of bins, which are ranges of brightness of equal size."""
_LEAST_BLOCKS = 12
"""The noise of a bin is measured only if the bin has at least this many blocks."""
_FLAT = 0.25
"""The share of the blocks that are assumed to be flat, so that all their variation is noise."""
_MOST = 5.0
"""A larger standard deviation (on the scale 0–255) counts as this, because more is texture."""
_LEAST = 0.2
"""A smaller difference in noise (in standard deviations on the scale 0–255) is not visible."""
_COARSE = 0.4
"""If the coarsest band has more than this share of the finest band's noise, it shows texture.

A bin for which this is the case is not used.
"""
_LITTLE = 0.1
"""Noise is reduced only if more than this share of it is too much in at least one band and bin."""
_EVEN = 1.8
"""If `Noise.even` is below this, nearly all fine detail of a picture is noise."""
_CLIPPED = 10.0
"""Noise has its full strength at this distance or more from black and white (scale 0–255).

Pure black and pure white get no noise, so that, for example, the white ground of a product
photograph stays white.
"""
_PATTERN = 256
"""The side, in pixels, of the square of noise that is repeated to cover a picture."""
_MARGIN = 16
"""A blur takes only neighbours up to this distance, in pixels, into account."""


class Noise(NamedTuple):
    """The strength of a picture's noise, for each band and bin."""

    levels: NDArray[np.float64]
    """The standard deviations of the noise, on the scale 0–255: an array of shape (bands, bins)."""
    even: NDArray[np.float64]
    """How evenly the finest detail is distributed, an array of shape (bins,).

    A value is the upper quartile of the blocks' standard deviations, divided by the lower quartile.
    It is near 1 if all fine detail is noise, because noise is everywhere equally strong.
    """


def measured(picture: Pixels, where: NDArray[np.bool_]) -> Noise | None:
    """Return the noise of `picture`, measured only where `where` is true.

    `picture` is RGB, (height, width, 3), and `where` has the shape (height, width). Return None if
    no bin has enough blocks, or if noise can't be told from texture in any bin.
    """
    height, width = where.shape
    down, across = height // _TILE, width // _TILE
    if not (down and across):
        return None
    grid = where[: down * _TILE, : across * _TILE].reshape(down, _TILE, across, _TILE)
    rows, columns = np.nonzero(grid.all(axis=(1, 3)))
    # Tiles are chosen at random, because tiles at regular intervals could all lie in a few columns.
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
    # Only bins with noise are used: noise is much weaker in the coarsest band than in the finest,
    # but texture is not. Values for the other bins are interpolated.
    told = np.nonzero(noise[-2] < _COARSE * noise[0] + _LEAST / 2)[0]
    if not len(told):
        return None
    *known, even = (np.interp(np.arange(_BINS), told, row[told]) for row in noise)
    return Noise(np.stack(known), even)


def _bands(gray: Floats) -> list[Floats]:
    """Return the bands of the picture `gray`, from fine to coarse."""
    found, finest = [], gray
    for blur in _BLURS:
        coarser = cv2.GaussianBlur(gray, (0, 0), blur)
        found.append(finest - coarser)
        finest = coarser
    return found


def _blocks(values: Floats, tiles: int) -> Floats:
    """Return the pixels of all blocks, one row for each block: an array (number, pixels).

    `values` contains the `tiles` one below the other.
    """
    inner = values.reshape(tiles, _TILE, _TILE)[:, _RIM:-_RIM, _RIM:-_RIM]
    side = inner.shape[1] // _BLOCK
    inner = inner.reshape(tiles, side, _BLOCK, side, _BLOCK).transpose(0, 1, 3, 2, 4)
    return inner.reshape(-1, _BLOCK * _BLOCK)


def match(placed: Pixels, wanted: Noise, share: Floats, is_new: NDArray[np.bool_]) -> None:
    """Change the noise of `placed`, RGB (height, width, 3), in place to the noise `wanted`.

    `share`, (height, width), is the factor from 0 to 1 by which the change of each pixel is
    multiplied. The present noise of `placed` is measured where `is_new`, (height, width), is true.
    Change nothing if this noise can't be measured, or if the difference would not be visible.
    """
    own = measured(placed, is_new)
    if own is None or np.abs(wanted.levels - own.levels).max() < _LEAST:
        return
    fresh = _bands(np.random.default_rng(0).standard_normal((_PATTERN, _PATTERN), np.float32))
    missing = np.sqrt(np.maximum(wanted.levels**2 - own.levels**2, 0)) * (wanted.even < _EVEN)
    missing /= np.array([[values.std()] for values in fresh])
    # Where there is too much noise, only values as small as noise are reduced, because larger
    # values belong to edges. Uneven detail is texture, so it is not reduced.
    excess = 1 - np.minimum(wanted.levels / np.maximum(own.levels, 1e-3), 1)
    excess = excess * (own.even < _EVEN)
    gray = cv2.cvtColor(placed, cv2.COLOR_RGB2GRAY)
    # The picture is processed in strips, because a large picture as floats would take much memory.
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

    The copies are side by side, so the strip can be at most as high as the square.
    """
    return np.tile(pattern, -(-shape[1] // _PATTERN))[: shape[0], : shape[1]]


def _by_brightness(values: NDArray[Any], gray: Pixels) -> Floats:
    """Return an array with the shape of `gray` that contains the value for each pixel's brightness.

    `values` contains one value for each bin. Between the centres of the bins, the values are
    interpolated; near black and near white, they fade to 0.
    """
    centres = (np.arange(_BINS) + 0.5) * 256 / _BINS
    levels = np.arange(256)
    clipped = np.clip(np.minimum(levels, 255 - levels) / _CLIPPED, 0, 1)
    return cv2.LUT(gray, (np.interp(levels, centres, values) * clipped).astype(np.float32))


def dither(levels: Floats, smooth: NDArray[np.bool_]) -> None:
    """Add noise of up to half a level, in place, to `levels` before they are rounded.

    `levels` has the shape (height, width, 3). Noise is added where `smooth`, (height, width), is
    true. Without this noise, smooth gradients such as a sky would show steps after the rounding.
    """
    pattern = np.random.default_rng(0).uniform(-0.5, 0.5, (_PATTERN, _PATTERN)).astype(np.float32)
    for top in range(0, len(levels), _PATTERN):
        strip = levels[top : top + _PATTERN]
        strip += (_repeated(pattern, strip.shape) * smooth[top : top + _PATTERN])[..., None]
