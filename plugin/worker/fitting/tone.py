"""Tone match: give an answer the colours of the original.

The correction is measured on the *kept* pixels, which show the same before and after. It has two
parts:

1. A curve for each channel, and one factor, the *falloff*, that changes from the picture's centre
   to its corners (vignetting). Both are fitted by robust regression. A curve consists of a gain, a
   gamma and a contrast, which are also valid for levels that no kept pixel has, and of a smooth
   remainder. The contrast leaves black and white as they are, and moves the levels between. In
   case the AI model mixed the channels, the regression also finds the shares of the other two
   channels in each channel.
2. A smooth *field*: the differences that remain, averaged around each place. The field fades to 0
   with the distance from the kept pixels, so that new content keeps its colours.

Everything is computed in encoded values (sRGB), because AI models work with these. Only the mixing
of channels is computed in linear light if this reduces the error much. The measuring scale is
explained in `registration`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting.affine import Floats, Pixels
from plugin.worker.fitting.registration import Registration
from plugin.worker.fitting.robust import deviation, quantile, tukey

_SAMPLES = 6_000
"""The number of pixels up to which the regression uses all kept pixels.

If there are more, it uses every second, every third and so on, but never fewer than this number.
"""
_USUAL = np.array([0.15, 0.12, 0.06, 0.06, 0.05, 0.2])
"""The usual size (standard deviation) of the six parameters that the regression finds.

They are the logarithm of the gain, gamma - 1, the shares of the other two channels, the falloff,
and the contrast.
"""
_MOST = np.array([0.35, 0.3, 1.0, 1.0, 0.2, 0.8])
"""Each of these six parameters is limited to values from minus this to plus this."""
_LEAST_FALLOFF = 0.01
"""A falloff of this size or less is not corrected. It changes the corners by 2 % at most."""
_SETTLED = 1e-3
"""The regression ends when no parameter changes by this value or more."""
_LIGHT = 2.2
"""The exponent that approximately converts encoded values to linear light."""
_AT_ONCE = 6_000_000
"""A large picture is converted to floats in strips, which limits the memory.

Each strip has about this many to twice as many values.
"""
_MOST_ROUNDS = 20
_NOISE = 8
"""How strongly the regression prefers shares of 0, as a factor for the variance of the noise.

Without this preference, the shares would fit noise in a gray picture, where channels differ only by
their noise.
"""
_WHITE = 235.0
"""A pixel counts as nearly white in a channel if its level there is above this."""
_LEAST_WHITE = 20
"""If fewer pixels are nearly white, the change of white is not measured, and white stays white."""
_OUTLIER = 8.0
"""When the two ways of mixing are compared, larger errors count as this (on the scale 0–255)."""
_MIXED = 2.0
"""Mixing in linear light is tried if the error after mixing in encoded values is above this.

The error is the sum of the mean errors of the three channels, on the scale 0–255.
"""
_WORTH_LIGHT = 0.8
"""Mixing in linear light is used if less than this share of the error remains with it."""
_LEAST_SHARE = 0.004
"""The channels are mixed only if this changes any share by more than this.

Without mixing, each channel has the share 1 in itself and 0 in the others. A smaller change of a
share changes colours by about 1 at most (on the scale 0–255).
"""
_INDEPENDENT = 20
"""The number of neighbouring pixels that carry as much information as one independent pixel."""
_MOST_INDEPENDENT = 30
"""The regression assumes at most this many independent pixels.

More would make the regression too certain, because AI models never change colours exactly in the
way that it assumes.
"""
_KNOTS = np.array([*range(0, 256, 16), 251, 255])
"""The knots: the levels (0–255) between which the remainder of a curve is linear."""
_MOST_REST = 14.0
"""The field corrects each level by at most this (on the scale 0–255)."""
_LONGEST = 256
"""The longer side, in pixels, of the small pictures in which the correction is measured."""
_FIELD_LONGEST = 96
"""The longer side, in pixels, of the small pictures in which the field is computed."""
_OTHER_STYLE = 4.5
"""If a tenth of the differences outside the selection stay above this, the tone is not matched.

The differences are those that remain after the correction, on the scale 0–255. So many large
differences mean that the answer has another style.
"""
_WANTED = 5.0
"""A change of tone inside the selection counts as the wanted edit if its median is above this.

The change is on the scale 0–255. This applies only if no content was added inside the selection.
"""
_ADDED = 6.0
"""A difference up to this (on the scale 0–255) never counts as added content."""


@dataclass(frozen=True)
class Mix:
    """A correction that mixes the three channels, in encoded values or in linear light."""

    shares: Floats
    """The shares, (3, 3). Row i contains the share of each channel of the answer in channel i.

    The sum of each row is 1.
    """
    power: float
    """The exponent that converts encoded values to those that are mixed; 1 for encoded values."""

    def applied(self, picture: Floats) -> Floats:
        """Return `picture`, RGB (height, width, 3) on the scale 0–255, with its channels mixed."""
        light = cv2.pow(np.clip(picture, 0, 255) / np.float32(255), self.power)
        mixed = np.clip(cv2.transform(light, self.shares), 0, 1)
        return cv2.pow(mixed, 1 / self.power) * np.float32(255)


@dataclass(frozen=True)
class Tone:
    """The correction of an answer's colours.

    `curves` and `rest` contain levels on the scale 0–255, `mix` contains shares of channels, and
    `falloff` contains factors.
    """

    curves: Floats
    """The corrected level for each level of the answer in red, green and blue, (256, 3)."""
    mix: Mix | None
    """The mix that is applied before the curves, or None if the channels needn't be mixed."""
    falloff: Floats | None
    """The factors by which the levels are multiplied after the curves, or None if all are 1.

    The array has the shape (height, width) of the measuring scale.
    """
    rest: Floats
    """The field that is added at the end, (height, width, 3) at the measuring scale."""

    def applied(self, picture: Floats) -> Floats:
        """Return `picture` with all corrections: mix, curves, falloff and field.

        `picture` is RGB, (height, width, 3), at the measuring scale.
        """
        fine = cv2.resize(self.curves, (3, 256 * 8), interpolation=cv2.INTER_LINEAR)
        if self.mix:
            picture = self.mix.applied(picture)
        # The curves were resampled to eighths of a level, so each value is turned into an index
        # into the resampled curves.
        at = np.rint(picture * 8 + 3.5).astype(np.int32)
        channels = [np.take(fine[:, i], at[..., i], mode="clip") for i in range(3)]
        corrected = cv2.merge(channels)
        if self.falloff is not None:
            corrected *= self.falloff[..., None]
        return corrected + self.rest

    def curved(self, picture: Pixels) -> Pixels:
        """Return `picture` corrected by mix and curves, without falloff and field.

        `picture` is RGB with 8 bits per channel, and can have any size.
        """
        if not self.mix or self.mix.power == 1:
            # Mixing in encoded values is exact enough with whole levels, and faster than with
            # floats.
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
    """Return the correction of an answer's tone, or None if the tone is to be left as it is.

    Return None if too few pixels were kept, if the correction improves too little, or if the answer
    has another style. Also return None if only the tone changed inside the selection, because this
    change is then the edit that the user asked for.
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
        # All channels get the same falloff, as with a real lens. The curves are fitted again, to
        # levels from which the falloff was removed.
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
    # Any correction loses a little precision, so it is used only if it improves noticeably more.
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
    """Return the squared distance of each pixel from the picture's centre, (height, width).

    The distance in x and in y is divided by half the width and half the height, so the value is 0
    at the centre and 2 in the corners.
    """
    x, y = (np.linspace(-1, 1, length, dtype=np.float32) ** 2 for length in (width, height))
    return y[:, None] + x[None]


def _adds(
    difference: Floats, likeness: Floats, inside: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> bool:
    """Return whether the service added content inside the selection.

    All arrays have the shape (height, width). `difference` is the difference that remains after the
    correction, on the scale 0–255. `likeness` is the structural similarity. `inside` and `outside`
    are true inside and outside the selection. Small differences inside count as added content only
    if they exceed those outside.
    """
    other = (difference > _MOST_REST) | (likeness < 0.4)
    if other[inside].mean() >= 0.001:
        return True
    # A smaller difference counts if it exceeds the differences outside. The erosion removes single
    # pixels, which also differ along edges where nothing was added.
    limit = max(_ADDED, 1.5 * quantile(difference[outside], 0.995))
    other = cv2.erode((difference > limit).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return bool(other[inside].mean() > 2e-4 + 3 * other[outside].mean())


def largest(levels: Floats) -> Floats:
    """Return the largest channel of each pixel.

    `levels` has three channels as its last axis; the returned array has no such axis.
    """
    # NumPy's method `max` is slow along such a short axis.
    return np.maximum(np.maximum(levels[..., 0], levels[..., 1]), levels[..., 2])


def _colours(
    given: Floats, wanted: Floats, eccentricity: Floats
) -> tuple[Floats, Mix | None, float]:
    """Return the curves, the mix and the falloff that turn the colours `given` into `wanted`.

    `given` and `wanted` are colours on the scale 0–255, (number, 3). `eccentricity`, (number,), is
    the squared distance of each pixel from the centre, as returned by `_eccentricity`. The curves
    have the shape (256, 3). The falloff is the change of the gain's logarithm for each unit of
    eccentricity.
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

    Return four values: the curve, (256,); the shares, (3,), by which the channels are mixed before
    the curve; the falloff as in `_colours`; and the mean error that remains, on the scale 0–1.
    `channel` is the index of the channel, and `eccentricity` is the same as in `_colours`. The
    channels are mixed after their values are raised to the power of `power`.
    """
    o = wanted.astype(np.float64) / 255
    light = (given.clip(0, 255).astype(np.float64).T / 255) ** power
    own = light[channel]
    others = [i for i in range(3) if i != channel]
    apart = light[others] - own
    inner = (given[:, channel] > 2) & (given[:, channel] < 252)
    # Pixels with frequent levels get smaller weights, so that rare levels count as well.
    bins = np.clip(given[:, channel].astype(int) // 8, 0, 31)
    base = inner / np.sqrt(np.bincount(bins, minlength=32)[bins] + len(o) / 200)
    base *= len(o) / max(base.sum(), 1e-9)
    numbers = _regressed(o, own, apart, inner, base, eccentricity, power)
    gain, gamma = float(np.exp(numbers[0])), 1 + float(numbers[1])
    v = _mixed(own, apart, numbers, power) ** (1 / power)
    # The rest of the function fits the remainder of the curve, which gain, gamma and contrast can't
    # express.
    error = o / np.exp(numbers[4] * eccentricity) - gain * v**gamma - numbers[5] * _contrast(v)
    spread = max(deviation(error), 1 / 255)
    robust = tukey(error / (4 * spread))
    # Pixels that the model clipped to white had many different levels in the original. The best
    # estimate is the mean of these levels, so nearly all of them get a weight.
    clipped = given[:, channel] >= 252
    robust[clipped] = tukey(error[clipped] / 0.25)
    hats = _hats((255 * v).astype(np.float32))
    bends = np.diff(np.eye(len(_KNOTS)), 2, axis=0)
    weighted = hats * robust[:, None]
    # cv2.gemm is faster than einsum and, unlike the operator @, uses no threads that would wait for
    # each other.
    normal = cv2.gemm(weighted, hats, 1, None, 0, flags=cv2.GEMM_1_T)
    normal += 30 * bends.T @ bends + _INDEPENDENT * np.eye(len(_KNOTS))
    heights = np.linalg.solve(normal, np.einsum("ni,n->i", weighted, error))
    levels = np.arange(256) / 255
    curve = gain * levels**gamma + numbers[5] * _contrast(levels)
    # With some combinations of gamma and contrast, the curve would fall near black or white.
    curve = np.maximum.accumulate(np.maximum(curve, 0))
    curve += _hats(np.arange(256, dtype=np.float32)) @ heights
    errors = np.minimum(np.abs(error - hats @ heights), _OUTLIER / 255)
    if np.count_nonzero(given[:, channel] > _WHITE) < _LEAST_WHITE:
        # If too few pixels are nearly white to measure what the model did to white, white stays
        # white, because white is nearly always clipped.
        levels = np.clip((np.arange(256) - _WHITE) / (255 - _WHITE), 0, 1)
        curve += levels * np.maximum(1 - curve, 0)
    left = float((base * errors).sum() / max(base.sum(), 1e-9))
    shares = np.zeros(3)
    shares[others] = numbers[2:4]
    shares[channel] = 1 - shares.sum()
    return 255 * curve, shares, float(numbers[4]), left


def _regressed(
    wanted: NDArray[np.float64],
    own: NDArray[np.float64],
    apart: NDArray[np.float64],
    inner: NDArray[np.bool_],
    base: NDArray[np.float64],
    eccentricity: Floats,
    power: float,
) -> NDArray[np.float64]:
    """Find the six parameters of a channel by robust regression.

    They are the logarithm of the gain, gamma - 1, the shares of the other two channels, the
    falloff, and the contrast. `wanted`, (number,), are the values that the channel should have, on
    the scale 0–1. `own`, (number,), are the values that it has, raised to the power of `power`, and
    `apart`, (2, number), are the differences of the other two channels from them. `inner` is true
    for the pixels that are not clipped, and `base` contains the weights of the pixels.
    """
    numbers = np.zeros(6)
    usual = _USUAL**-2
    together = max(_INDEPENDENT, len(wanted) / _MOST_INDEPENDENT)
    for _round in range(_MOST_ROUNDS):
        share = _mixed(own, apart, numbers, power)
        logs = np.log(share) / power
        value = np.exp(logs)
        power_law = np.exp(numbers[0] + (1 + numbers[1]) * logs)
        fall = np.exp(numbers[4] * eccentricity)
        contrast = _contrast(value)
        model = (power_law + numbers[5] * contrast) * fall
        error = wanted - model
        spread = max(deviation(error[inner]) if inner.any() else 1, 1 / 255)
        weights = base * tukey(error / (4 * spread)) / (together * spread**2)
        # This is the slope of the model over the logarithm of the value.
        slope = (1 + numbers[1]) * power_law + numbers[5] * (value - 6 * value**2 * (1 - value))
        slopes = np.stack(
            [
                power_law * fall,
                power_law * fall * logs,
                *(apart * slope * fall / (power * share)),
                model * eccentricity,
                contrast * fall,
            ]
        )
        weighted = slopes * weights
        precision = np.einsum("in,jn->ij", weighted, slopes)
        pull = np.einsum("in,n->i", weighted, error)
        prior = usual.copy()
        prior[2:4] += _NOISE * spread**2 * weights.sum()
        step = np.linalg.solve(precision + np.diag(prior), pull - prior * numbers)
        numbers = np.clip(numbers + step, -_MOST, _MOST)
        if np.abs(step).max() < _SETTLED:
            break
    return numbers


def _mixed(
    own: NDArray[np.float64],
    apart: NDArray[np.float64],
    numbers: NDArray[np.float64],
    power: float,
) -> NDArray[np.float64]:
    """Return `own` with the shares of the other channels in `numbers`, as in `_regressed`."""
    return np.clip(own + numbers[2:4] @ apart, 255**-power, 1)


def _contrast(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far a contrast of 1 moves each value, on the scale 0–1.

    A positive contrast brightens dark values and darkens bright ones, which undoes an S-curve.
    """
    return values * (1 - values) * (1 - 2 * values)


def _hats(levels: Floats) -> NDArray[np.float64]:
    """Return the weights with which values at the knots are interpolated linearly at `levels`.

    The returned array has the shape (number of levels, number of knots).
    """
    above = np.clip(np.searchsorted(_KNOTS, levels, side="right"), 1, len(_KNOTS) - 1)
    low, high = _KNOTS[above - 1], _KNOTS[above]
    share = np.clip((levels - low) / (high - low), 0, 1)
    hats = np.zeros((len(levels), len(_KNOTS)))
    rows = np.arange(len(levels))
    hats[rows, above - 1] = 1 - share
    hats[rows, above] = share
    return hats


def _rest(difference: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Return a smooth field that equals the mean `difference` around each `kept` pixel.

    The field fades to 0 with the distance from kept pixels. `difference` and the field have the
    shape (height, width, 3), and are on the scale 0–255.
    """
    height, width = kept.shape
    scale = min(1.0, _FIELD_LONGEST / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = largest(np.abs(difference)) < 2 * _MOST_REST
    weight = (kept & small).astype(np.float32)
    told = cv2.resize(difference * weight[..., None], size, interpolation=cv2.INTER_AREA)
    count = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    field = np.zeros_like(told)
    # The field is refined from coarse to fine scales, so that each place uses the finest scale at
    # which enough kept pixels are nearby.
    for spread in (24.0, 12.0, 6.0, 3.0, 1.5):
        known = cv2.GaussianBlur(count, (0, 0), spread, borderType=cv2.BORDER_REFLECT)
        total = cv2.GaussianBlur(told, (0, 0), spread, borderType=cv2.BORDER_REFLECT)
        trust = (known / (known + np.float32(0.08)))[..., None]
        field += trust * (total / (known[..., None] + np.float32(1e-4)) - field)
    field = np.clip(field, -_MOST_REST, _MOST_REST)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
