"""Tone match: the colours of an answer brought to the original's, by what was kept.

First a curve for each channel, found by robust regression on the pixels that show the same before
and after: a gain and a gamma, which also say something of levels that none of them has, and a
smooth rest; where channels were mixed, shares of the other two as well. Then what still differs
from place to place, smoothed widely and fading out away from what was kept, so that new things keep
their colours. All of it is in encoded values (sRGB), in which models work, unless a mix in linear
light explains much more.
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
_USUAL_GAIN, _USUAL_GAMMA, _USUAL_MIX = 0.15, 0.12, 0.06
"""Standard deviations of what models do to tone."""
_MOST_GAIN, _MOST_GAMMA = 0.35, 0.3
_SETTLED = 1e-3
"""A step of these numbers that is the last."""
_LIGHT = 2.2
"""The exponent by which encoded values become linear light, nearly."""
_AT_ONCE = 6_000_000
"""Values that are converted to floats at once."""
_MOST_ROUNDS = 20
_NOISE = 8
"""Variances of noise by which shares are held: of a gray picture channels differ by it alone."""
_WHITE = 235.0
"""Levels above which a channel tells of white."""
_LEAST_WHITE = 20
_OUTLIER = 8.0
"""Levels; by more than that nothing differs that says which way of mixing is right."""
_MIXED = 2.0
"""Levels that the channels are off together, at the least, if they were mixed in linear light."""
_WORTH_LIGHT = 0.8
"""So counts what leaves so much less of an error."""
_LEAST_SHARE = 0.004
"""Less than a level of any other channel is no mix."""
_INDEPENDENT = 20
"""Pixels that tell as much as a single independent one."""
_MOST_INDEPENDENT = 30
"""So many tell as much as any number: what models do is never quite what is looked for."""
_KNOTS = np.array([*range(0, 256, 16), 251, 255])
_MOST_REST = 14.0
"""Levels by which one place may be corrected beyond the curves."""
_LONGEST = 256
"""The longer side at which tone is compared."""
_FIELD_LONGEST = 96
_OTHER_STYLE = 4.5
"""Levels that a tenth of what was kept may still be off after a match."""
_WANTED = 5.0
"""Levels of change that are the edit itself, if nothing is added inside the selection."""
_ADDED = 6.0
"""Levels by which a place differs at the least where something is added."""


@dataclass(frozen=True)
class Mix:
    """Channels as sums of channels, in encoded values (`power` 1) or in linear light."""

    shares: Floats
    """(3, 3): how much of each of the answer's channels is in each; rows sum to 1."""
    power: float

    def applied(self, picture: Floats) -> Floats:
        """`picture`, RGB (height, width, 3) in levels of 255, with its channels mixed."""
        light = cv2.pow(np.clip(picture, 0, 255) / np.float32(255), self.power)
        mixed = np.clip(cv2.transform(light, self.shares), 0, 1)
        return cv2.pow(mixed, 1 / self.power) * np.float32(255)


@dataclass(frozen=True)
class Tone:
    """How the answer's colours become the original's, in levels of 255."""

    curves: Floats
    """(256, 3): the level for each of the answer's, red, green and blue."""
    mix: Mix | None
    """What happens to the channels before the curves."""
    rest: Floats
    """(height, width, 3) at the measure's scale: what is added after them."""

    def applied(self, picture: Floats) -> Floats:
        """`picture`, RGB (height, width, 3) at the measure's scale, in the original's colours."""
        fine = cv2.resize(self.curves, (3, 256 * 8), interpolation=cv2.INTER_LINEAR)
        if self.mix:
            picture = self.mix.applied(picture)
        # Each eighth of a level, where the resizing put it.
        at = np.rint(picture * 8 + 3.5).astype(np.int32)
        channels = [np.take(fine[:, i], at[..., i], mode="clip") for i in range(3)]
        return cv2.merge(channels) + self.rest

    def curved(self, picture: Pixels) -> Pixels:
        """A picture of any size, RGB of 8 bits, as `applied` gives it without the rest."""
        if not self.mix or self.mix.power == 1:
            # In whole levels, which is exact enough and fast.
            mixed = cv2.transform(picture, self.mix.shares) if self.mix else picture
            return cv2.LUT(mixed, self.curves[None])
        whole = replace(self, rest=np.zeros(3, np.float32))
        strips = np.array_split(picture, max(1, picture.size // _AT_ONCE))
        return np.concatenate(
            [
                cv2.add(whole.applied(strip.astype(np.float32)), 0, dtype=cv2.CV_8U)
                for strip in strips
            ]
        )


def match(registration: Registration) -> Tone | None:
    """Find how the answer's tone differs; None if it doesn't, or none can tell.

    A change of tone that is all there is inside the selection is the edit that was asked for.
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
    curves, mix = _colours(given, wanted)
    matched = Tone(curves, mix, np.zeros(3, np.float32)).applied(after)
    rest = _rest(before - matched, kept)
    now, earlier = np.abs(before - matched - rest), np.abs(before - after)
    if not outside.any():
        return None
    was, left = (float(np.minimum(levels[outside], 20).mean()) for levels in (earlier, now))
    # A match costs a little precision: it must be worth that.
    if left > min(0.9 * was, was - 0.3):
        return None
    # Where places still differ much after it, the colours are another style's.
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
    return Tone(curves, mix, wide)


def _adds(
    difference: Floats, likeness: Floats, inside: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> bool:
    """Whether something is to be seen inside that was not there, beside what differs outside."""
    other = (difference > _MOST_REST) | (likeness < 0.4)
    if other[inside].mean() >= 0.001:
        return True
    # Little things: more than differs outside, and more than single pixels along edges.
    limit = max(_ADDED, 1.5 * quantile(difference[outside], 0.995))
    other = cv2.erode((difference > limit).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return bool(other[inside].mean() > 2e-4 + 3 * other[outside].mean())


def largest(levels: Floats) -> Floats:
    """The largest of three channels: (height, width, 3) to (height, width)."""
    # NumPy's own is slow over so short an axis.
    return np.maximum(np.maximum(levels[..., 0], levels[..., 1]), levels[..., 2])


def _colours(given: Floats, wanted: Floats) -> tuple[Floats, Mix | None]:
    """The curves (256, 3), and the mix before them, that take `given` to `wanted`: (number, 3)."""

    def fitted(power: float) -> tuple[float, Floats, Mix]:
        curves, shares, errors = zip(
            *(_channel(given, wanted[:, i], i, power) for i in range(3)), strict=True
        )
        mix = Mix(np.stack(shares).astype(np.float32), power)
        return sum(errors), np.stack(curves, axis=1).astype(np.float32), mix

    best = fitted(1.0)
    if best[0] > _MIXED / 255:
        mixed = fitted(_LIGHT)
        if mixed[0] < _WORTH_LIGHT * best[0]:
            best = mixed
    _error, curves, mix = best
    return curves, mix if np.abs(mix.shares - np.eye(3)).max() > _LEAST_SHARE else None


def _channel(
    given: Floats, wanted: Floats, channel: int, power: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """How one channel of `given`, (number, 3), becomes `wanted`, (number,).

    Returns its curve of 256 levels, how much of each channel is in it by then (with a `power`, in
    which they are mixed), and the mean error that is left.
    """
    o = wanted.astype(np.float64) / 255
    light = (given.clip(0, 255).astype(np.float64).T / 255) ** power
    own = light[channel]
    others = [i for i in range(3) if i != channel]
    apart = light[others] - own
    inner = (given[:, channel] > 2) & (given[:, channel] < 252)
    # log gain, gamma - 1, and the shares of the others.
    numbers = np.zeros(2 + len(others))
    most = np.array([_MOST_GAIN, _MOST_GAMMA, *(1.0 for _other in others)])
    usual = np.array([_USUAL_GAIN, _USUAL_GAMMA, *(_USUAL_MIX for _other in others)]) ** -2
    # Levels that many pixels have don't count for more than those that tell about other levels.
    bins = np.clip(given[:, channel].astype(int) // 8, 0, 31)
    base = inner / np.sqrt(np.bincount(bins, minlength=32)[bins] + len(o) / 200)
    base *= len(o) / max(base.sum(), 1e-9)
    together = max(_INDEPENDENT, len(o) / _MOST_INDEPENDENT)

    def mixed() -> NDArray[np.float64]:
        return np.clip(own + numbers[2:] @ apart, 255**-power, 1)

    for _round in range(_MOST_ROUNDS):
        share = mixed()
        logs = np.log(share) / power
        model = np.exp(numbers[0] + (1 + numbers[1]) * logs)
        error = o - model
        spread = max(deviation(error[inner]) if inner.any() else 1, 1 / 255)
        weights = base * tukey(error / (4 * spread)) / (together * spread**2)
        slope = model * (1 + numbers[1]) / (power * share)
        slopes = np.stack([model, model * logs, *(apart * slope)])
        weighted = slopes * weights
        precision = np.einsum("in,jn->ij", weighted, slopes)
        pull = np.einsum("in,n->i", weighted, error)
        prior = usual.copy()
        prior[2:] += _NOISE * spread**2 * weights.sum()
        step = np.linalg.solve(precision + np.diag(prior), pull - prior * numbers)
        numbers = np.clip(numbers + step, -most, most)
        if np.abs(step).max() < _SETTLED:
            break
    gain, gamma = float(np.exp(numbers[0])), 1 + float(numbers[1])
    v = mixed() ** (1 / power)
    # What the numbers can't express.
    error = o - gain * v**gamma
    spread = max(deviation(error), 1 / 255)
    robust = tukey(error / (4 * spread))
    # Clipped levels have a wide choice of originals: their mean is the best guess.
    clipped = given[:, channel] >= 252
    robust[clipped] = tukey(error[clipped] / 0.25)
    hats = _hats((255 * v).astype(np.float32))
    bends = np.diff(np.eye(len(_KNOTS)), 2, axis=0)
    weighted = hats * robust[:, None]
    # OpenCV's product needs no threads that wait for each other, and is quicker than einsum.
    normal = cv2.gemm(weighted, hats, 1, None, 0, flags=cv2.GEMM_1_T)
    normal += 30 * bends.T @ bends + _INDEPENDENT * np.eye(len(_KNOTS))
    heights = np.linalg.solve(normal, np.einsum("ni,n->i", weighted, error))
    curve = gain * (np.arange(256) / 255) ** gamma
    curve += _hats(np.arange(256, dtype=np.float32)) @ heights
    errors = np.minimum(np.abs(error - hats @ heights), _OUTLIER / 255)
    if np.count_nonzero(given[:, channel] > _WHITE) < _LEAST_WHITE:
        # Nothing tells of white, of which there is hardly any but clipped white.
        levels = np.clip((np.arange(256) - _WHITE) / (255 - _WHITE), 0, 1)
        curve += levels * np.maximum(1 - curve, 0)
    left = float((base * errors).sum() / max(base.sum(), 1e-9))
    shares = np.zeros(3)
    shares[others] = numbers[2:]
    shares[channel] = 1 - shares.sum()
    return 255 * curve, shares, left


def _hats(levels: Floats) -> NDArray[np.float64]:
    """(number, knots): what each knot counts for each level in a broken line."""
    above = np.clip(np.searchsorted(_KNOTS, levels, side="right"), 1, len(_KNOTS) - 1)
    low, high = _KNOTS[above - 1], _KNOTS[above]
    share = np.clip((levels - low) / (high - low), 0, 1)
    hats = np.zeros((len(levels), len(_KNOTS)))
    rows = np.arange(len(levels))
    hats[rows, above - 1] = 1 - share
    hats[rows, above] = share
    return hats


def _rest(difference: Floats, kept: NDArray[np.bool_]) -> Floats:
    """`difference` where `kept`, smooth, carried on into its surroundings and fading out there."""
    height, width = kept.shape
    scale = min(1.0, _FIELD_LONGEST / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = largest(np.abs(difference)) < 2 * _MOST_REST
    weight = (kept & small).astype(np.float32)
    told = cv2.resize(difference * weight[..., None], size, interpolation=cv2.INTER_AREA)
    count = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    field = np.zeros_like(told)
    # From coarse to fine; a place goes by the finest scale that knows enough about it.
    for spread in (24.0, 12.0, 6.0, 3.0, 1.5):
        known = cv2.GaussianBlur(count, (0, 0), spread, borderType=cv2.BORDER_REFLECT)
        total = cv2.GaussianBlur(told, (0, 0), spread, borderType=cv2.BORDER_REFLECT)
        trust = (known / (known + np.float32(0.08)))[..., None]
        field += trust * (total / (known[..., None] + np.float32(1e-4)) - field)
    field = np.clip(field, -_MOST_REST, _MOST_REST)
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
