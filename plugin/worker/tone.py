"""Tone match: give an answer the colours of the original, measured on what was kept.

The correction has two parts:

1. A curve for each channel, and one gain that changes from the centre to the corners (vignetting).
   Robust regression finds them on the pixels that show the same before and after. A curve consists
   of a gain and a gamma, which also extrapolate to levels that none of these pixels has, and of a
   smooth remainder. If the model mixed the channels, shares of the other two
   channels are part of the regression.
2. A smooth field of what still differs from place to place. It fades out away from what was kept,
   so that new content keeps its colours.

Everything is computed in encoded values (sRGB), in which models work, unless mixing in linear light
explains much more. "Measuring scale" is explained in `registration`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats, Pixels
from plugin.worker.registration import Registration
from plugin.worker.robust import deviation, quantile, tukey

_SAMPLES = 6_000
"""The most pixels in the regression."""
_USUAL = np.array([0.15, 0.12, 0.06, 0.06, 0.05])
"""Standard deviations of the prior: logarithm of the gain, gamma - 1, two shares, and falloff."""
_MOST = np.array([0.35, 0.3, 1.0, 1.0, 0.2])
"""The largest values of these parameters."""
_LEAST_FALLOFF = 0.01
"""A smaller falloff counts as none. It changes a level in the corners by 2 %."""
_SETTLED = 1e-3
"""The regression ends when no parameter changes by more."""
_LIGHT = 2.2
"""The exponent that approximately converts encoded values to linear light."""
_AT_ONCE = 6_000_000
"""The most values that are converted to floats at once, which limits the memory."""
_MOST_ROUNDS = 20
_NOISE = 8
"""Weight of a prior that keeps shares at 0, in variances of the noise. In a gray picture, channels
differ by noise only, and shares would fit that noise."""
_WHITE = 235.0
"""Levels above which pixels determine what happens to white."""
_LEAST_WHITE = 20
"""The least number of such pixels."""
_OUTLIER = 8.0
"""Larger errors, in levels, count as this one when the two ways of mixing are compared."""
_MIXED = 2.0
"""Mixing in linear light is only tried if the errors of the three channels without it add up to
more than this, in levels."""
_WORTH_LIGHT = 0.8
"""Mixing in linear light is used if its error is smaller by this factor."""
_LEAST_SHARE = 0.004
"""Shares up to this count as 0. They change a level by less than one."""
_INDEPENDENT = 20
"""The number of neighbouring pixels that carry as much information as one independent pixel."""
_MOST_INDEPENDENT = 30
"""The regression counts at most this many independent pixels, because models never do exactly what
it assumes."""
_KNOTS = np.array([*range(0, 256, 16), 251, 255])
"""The levels between which the remainder of a curve is linear."""
_MOST_REST = 14.0
"""The largest correction by the field, in levels."""
_LONGEST = 256
"""The longer side of the pictures in the regression, in pixels."""
_FIELD_LONGEST = 96
"""The longer side at which the field is computed, in pixels."""
_OTHER_STYLE = 4.5
"""If a tenth of what was kept is still off by more levels after a match, the answer has another
style, and is not matched."""
_WANTED = 5.0
"""A change of tone by more levels is the edit that was asked for, if nothing was added inside the
selection."""
_ADDED = 6.0
"""The least difference, in levels, at a place where something was added."""


@dataclass(frozen=True)
class Mix:
    """A linear combination of the channels, in encoded values (`power` 1) or in linear light."""

    shares: Floats
    """(3, 3): row i contains the share of each channel of the answer in channel i. Each row sums to
    1."""
    power: float

    def applied(self, picture: Floats) -> Floats:
        """Return `picture`, RGB (height, width, 3) in levels of 255, with its channels mixed."""
        light = cv2.pow(np.clip(picture, 0, 255) / np.float32(255), self.power)
        mixed = np.clip(cv2.transform(light, self.shares), 0, 1)
        return cv2.pow(mixed, 1 / self.power) * np.float32(255)


@dataclass(frozen=True)
class Tone:
    """The correction of an answer's colours, in levels of 255."""

    curves: Floats
    """(256, 3): the corrected level for each level of the answer, for red, green and blue."""
    mix: Mix | None
    """Applied before the curves; None if the channels were not mixed."""
    falloff: Floats | None
    """(height, width) at the measuring scale: the gain after the curves; None if it is 1."""
    rest: Floats
    """(height, width, 3) at the measuring scale: the field that is added at the end."""

    def applied(self, picture: Floats) -> Floats:
        """Return `picture`, RGB (height, width, 3) at the measuring scale, with all corrections."""
        fine = cv2.resize(self.curves, (3, 256 * 8), interpolation=cv2.INTER_LINEAR)
        if self.mix:
            picture = self.mix.applied(picture)
        # The curves are resampled to eighths of a level; these are their indices.
        at = np.rint(picture * 8 + 3.5).astype(np.int32)
        channels = [np.take(fine[:, i], at[..., i], mode="clip") for i in range(3)]
        corrected = cv2.merge(channels)
        if self.falloff is not None:
            corrected *= self.falloff[..., None]
        return corrected + self.rest

    def curved(self, picture: Pixels) -> Pixels:
        """Return `picture`, RGB of 8 bits and any size, corrected by mix and curves only."""
        if not self.mix or self.mix.power == 1:
            # Whole levels are exact enough here, and fast.
            mixed = cv2.transform(picture, self.mix.shares) if self.mix else picture
            return cv2.LUT(mixed, self.curves[None])
        whole = replace(self, falloff=None, rest=np.zeros(3, np.float32))
        strips = np.array_split(picture, max(1, picture.size // _AT_ONCE))
        return np.concatenate(
            [
                cv2.add(whole.applied(strip.astype(np.float32)), 0, dtype=cv2.CV_8U)
                for strip in strips
            ]
        )


def match(registration: Registration) -> Tone | None:
    """Return the correction of an answer's tone; None if the answer is to be left as it is.

    That is the case if too little was kept, if the correction improves too little, if the answer
    has another style, or if a change of tone is all that happened inside the selection: it is then
    the edit that was asked for.
    """
    height, width = registration.likeness.shape
    scale = min(1.0, _LONGEST / max(width, height))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))

    def small(values: NDArray[Any]) -> NDArray[Any]:
        return cv2.resize(values, size, interpolation=cv2.INTER_AREA)

    before, after = (
        cv2.GaussianBlur(small(picture), (0, 0), 1.0)
        for picture in (registration.before, registration.after)
    )
    likeness, texture = small(registration.likeness), small(registration.texture)
    outside, shown = (
        small(where.astype(np.float32)) > 0.99
        for where in (registration.outside, registration.shown)
    )
    kept = outside & (likeness > 0.5)
    kept |= shown & (likeness > 0.8) & (texture > 4)
    rows, columns = np.nonzero(kept)
    if len(rows) < 200:
        return None
    some = slice(None, None, max(1, len(rows) // _SAMPLES))
    wanted, given = before[rows[some], columns[some]], after[rows[some], columns[some]]
    eccentricity = _eccentricity(*size)
    at = eccentricity[rows[some], columns[some]]
    curves, mix, slope = _colours(given, wanted, at)
    falloff = None
    if abs(slope) > _LEAST_FALLOFF:
        # One gain for all channels, as lenses have it. The curves are fitted to what it leaves.
        curves, mix, _slope = _colours(
            given, wanted / np.exp(slope * at)[:, None], np.zeros_like(at)
        )
        falloff = np.exp(slope * eccentricity)
    matched = Tone(curves, mix, falloff, np.zeros(3, np.float32)).applied(after)
    rest = _rest(before - matched, kept)
    now, earlier = np.abs(before - matched - rest), np.abs(before - after)
    if not outside.any():
        return None
    was, left = (float(np.minimum(levels[outside], 20).mean()) for levels in (earlier, now))
    # A correction costs a little precision, so it has to improve more than that.
    if left > min(0.9 * was, was - 0.3):
        return None
    # If much still differs after the correction, the answer has another style.
    if quantile(now[outside], 0.9) > _OTHER_STYLE:
        return None
    inside = shown & ~outside
    if (
        inside.any()
        and quantile(largest(earlier)[inside], 0.5) > _WANTED
        and not _adds(largest(now), likeness, inside, outside)
    ):
        return None
    wide = cv2.resize(rest, (width, height), interpolation=cv2.INTER_LINEAR)
    if falloff is not None:
        falloff = np.exp(slope * _eccentricity(width, height))
    return Tone(curves, mix, falloff, wide)


def _eccentricity(width: int, height: int) -> Floats:
    """Return the squared distance of each pixel from the centre, (height, width): 2 in corners."""
    x, y = (np.linspace(-1, 1, length, dtype=np.float32) ** 2 for length in (width, height))
    return y[:, None] + x[None]


def _adds(
    difference: Floats, likeness: Floats, inside: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> bool:
    """Return whether something was added inside the selection, beyond what differs outside.

    `difference` (height, width), in levels, is what differs after the correction.
    """
    other = (difference > _MOST_REST) | (likeness < 0.4)
    if other[inside].mean() >= 0.001:
        return True
    # Small things count if they differ more than the outside does, and not only in single pixels
    # along edges.
    limit = max(_ADDED, 1.5 * quantile(difference[outside], 0.995))
    other = cv2.erode((difference > limit).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return bool(other[inside].mean() > 2e-4 + 3 * other[outside].mean())


def largest(levels: Floats) -> Floats:
    """Return the maximum of the three channels: (height, width, 3) to (height, width)."""
    # The maximum method of NumPy is slow along such a short axis.
    return np.maximum(np.maximum(levels[..., 0], levels[..., 1]), levels[..., 2])


def _colours(
    given: Floats, wanted: Floats, eccentricity: Floats
) -> tuple[Floats, Mix | None, float]:
    """Return the curves (256, 3), the mix before them, and the falloff after them.

    They turn `given` into `wanted`, (number, 3), levels of 255, at the `eccentricity` (number,) of
    each pixel. The falloff is the logarithm of the gain for each unit of eccentricity.
    """

    def fitted(power: float) -> tuple[float, Floats, Mix, float]:
        curves, shares, slopes, errors = zip(
            *(_channel(given, wanted[:, i], i, power, eccentricity) for i in range(3)),
            strict=True,
        )
        mix = Mix(np.stack(shares).astype(np.float32), power)
        return sum(errors), np.stack(curves, axis=1).astype(np.float32), mix, float(np.mean(slopes))

    best = fitted(1.0)
    if best[0] > _MIXED / 255:
        mixed = fitted(_LIGHT)
        if mixed[0] < _WORTH_LIGHT * best[0]:
            best = mixed
    _error, curves, mix, slope = best
    return curves, mix if np.abs(mix.shares - np.eye(3)).max() > _LEAST_SHARE else None, slope


def _channel(
    given: Floats, wanted: Floats, channel: int, power: float, eccentricity: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Find the curve that turns one channel of `given`, (number, 3), into `wanted`, (number,).

    Return the curve (256 levels), the shares of the three channels that are mixed before it (as
    values to the power of `power`), the falloff as in `_colours`, and the mean error that remains,
    as a share of 255.
    """
    o = wanted.astype(np.float64) / 255
    light = (given.clip(0, 255).astype(np.float64).T / 255) ** power
    own = light[channel]
    others = [i for i in range(3) if i != channel]
    apart = light[others] - own
    inner = (given[:, channel] > 2) & (given[:, channel] < 252)
    # The parameters: logarithm of the gain, gamma - 1, the shares of the two others, and falloff.
    numbers = np.zeros(5)
    usual = _USUAL**-2
    # Frequent levels get smaller weights, so that rare levels count as well.
    bins = np.clip(given[:, channel].astype(int) // 8, 0, 31)
    base = inner / np.sqrt(np.bincount(bins, minlength=32)[bins] + len(o) / 200)
    base *= len(o) / max(base.sum(), 1e-9)
    together = max(_INDEPENDENT, len(o) / _MOST_INDEPENDENT)

    def mixed() -> NDArray[np.float64]:
        return np.clip(own + numbers[2:4] @ apart, 255**-power, 1)

    for _round in range(_MOST_ROUNDS):
        share = mixed()
        logs = np.log(share) / power
        model = np.exp(numbers[0] + (1 + numbers[1]) * logs + numbers[4] * eccentricity)
        error = o - model
        spread = max(deviation(error[inner]) if inner.any() else 1, 1 / 255)
        weights = base * tukey(error / (4 * spread)) / (together * spread**2)
        slope = model * (1 + numbers[1]) / (power * share)
        slopes = np.stack([model, model * logs, *(apart * slope), model * eccentricity])
        weighted = slopes * weights
        precision = np.einsum("in,jn->ij", weighted, slopes)
        pull = np.einsum("in,n->i", weighted, error)
        prior = usual.copy()
        prior[2:4] += _NOISE * spread**2 * weights.sum()
        step = np.linalg.solve(precision + np.diag(prior), pull - prior * numbers)
        numbers = np.clip(numbers + step, -_MOST, _MOST)
        if np.abs(step).max() < _SETTLED:
            break
    gain, gamma = float(np.exp(numbers[0])), 1 + float(numbers[1])
    v = mixed() ** (1 / power)
    # The remainder, which gain and gamma can't express.
    error = o / np.exp(numbers[4] * eccentricity) - gain * v**gamma
    spread = max(deviation(error), 1 / 255)
    robust = tukey(error / (4 * spread))
    # Clipped levels had many different original levels. The mean of these is the best estimate.
    clipped = given[:, channel] >= 252
    robust[clipped] = tukey(error[clipped] / 0.25)
    hats = _hats((255 * v).astype(np.float32))
    bends = np.diff(np.eye(len(_KNOTS)), 2, axis=0)
    weighted = hats * robust[:, None]
    # cv2.gemm is faster than einsum, and uses no threads that wait for each other.
    normal = cv2.gemm(weighted, hats, 1, None, 0, flags=cv2.GEMM_1_T)
    normal += 30 * bends.T @ bends + _INDEPENDENT * np.eye(len(_KNOTS))
    heights = np.linalg.solve(normal, np.einsum("ni,n->i", weighted, error))
    curve = gain * (np.arange(256) / 255) ** gamma
    curve += _hats(np.arange(256, dtype=np.float32)) @ heights
    errors = np.minimum(np.abs(error - hats @ heights), _OUTLIER / 255)
    if np.count_nonzero(given[:, channel] > _WHITE) < _LEAST_WHITE:
        # Too few pixels determine what happens to white. White is nearly always clipped, and so
        # stays white.
        levels = np.clip((np.arange(256) - _WHITE) / (255 - _WHITE), 0, 1)
        curve += levels * np.maximum(1 - curve, 0)
    left = float((base * errors).sum() / max(base.sum(), 1e-9))
    shares = np.zeros(3)
    shares[others] = numbers[2:4]
    shares[channel] = 1 - shares.sum()
    return 255 * curve, shares, float(numbers[4]), left


def _hats(levels: Floats) -> NDArray[np.float64]:
    """Return the weight of each knot for each level, (number, knots), for linear interpolation."""
    above = np.clip(np.searchsorted(_KNOTS, levels, side="right"), 1, len(_KNOTS) - 1)
    low, high = _KNOTS[above - 1], _KNOTS[above]
    share = np.clip((levels - low) / (high - low), 0, 1)
    hats = np.zeros((len(levels), len(_KNOTS)))
    rows = np.arange(len(levels))
    hats[rows, above - 1] = 1 - share
    hats[rows, above] = share
    return hats


def _rest(difference: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Return a smooth field of the `difference` where `kept`, which fades out elsewhere.

    `difference` and the field are (height, width, 3), in levels.
    """
    height, width = kept.shape
    scale = min(1.0, _FIELD_LONGEST / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = largest(np.abs(difference)) < 2 * _MOST_REST
    weight = (kept & small).astype(np.float32)
    told = cv2.resize(difference * weight[..., None], size, interpolation=cv2.INTER_AREA)
    count = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    field = np.zeros_like(told)
    # From coarse to fine scales: each place uses the finest scale with enough kept pixels.
    for spread in (24.0, 12.0, 6.0, 3.0, 1.5):
        known = cv2.GaussianBlur(count, (0, 0), spread, borderType=cv2.BORDER_REFLECT)
        total = cv2.GaussianBlur(told, (0, 0), spread, borderType=cv2.BORDER_REFLECT)
        trust = (known / (known + np.float32(0.08)))[..., None]
        field += trust * (total / (known[..., None] + np.float32(1e-4)) - field)
    field = np.clip(field, -_MOST_REST, _MOST_REST)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
