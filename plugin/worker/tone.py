"""Tone match: the colours of an answer brought to the original's, by what was kept.

First a curve for each channel, found by robust regression on the pixels that show the same before
and after: a gain and a gamma, which also say something of levels that none of them has, and a
smooth rest. Then what still differs from place to place, smoothed widely and fading out away from
what was kept, so that new things keep their colours. All of it in encoded values (sRGB): models
work in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.registration import Floats, Registration, deviation, quantile, tukey

_SAMPLES = 6_000
_USUAL_GAIN, _USUAL_GAMMA = 0.15, 0.12
"""Standard deviations of what models do to tone."""
_MOST_GAIN, _MOST_GAMMA = 0.35, 0.3
_SETTLED = 1e-3
"""A step of gain and gamma that is the last."""
_INDEPENDENT = 20
"""Pixels that tell as much as a single independent one."""
_KNOTS = np.array([*range(0, 256, 16), 251, 255])
_MOST_REST = 14.0
"""Levels by which one place may be corrected beyond the curves."""
_LONGEST = 256
"""The longer side at which tone is compared."""
_FIELD_LONGEST = 96
_OTHER_STYLE = 4.5
"""Levels that a tenth of what was kept may still be off after a match."""
_WANTED = 5.0
"""Levels of change that are the edit itself, if nothing else changed inside the selection."""


@dataclass(frozen=True)
class Tone:
    """How the answer's colours become the original's, in levels of 255."""

    curves: Floats
    """(256, 3): the level for each of the answer's, red, green and blue."""
    rest: Floats
    """(height, width, 3) at the measure's scale: what is added after them."""

    def applied(self, picture: Floats) -> Floats:
        """`picture`, RGB (height, width, 3) at the measure's scale, in the original's colours."""
        fine = cv2.resize(self.curves, (3, 256 * 8), interpolation=cv2.INTER_LINEAR)
        # Each eighth of a level, where the resizing put it.
        at = np.rint(picture * 8 + 3.5).astype(np.int32)
        channels = [np.take(fine[:, i], at[..., i], mode="clip") for i in range(3)]
        return cv2.merge(channels) + self.rest


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
    curves = np.stack([_curve(given[:, i], wanted[:, i]) for i in range(3)], axis=1)
    matched = Tone(curves.astype(np.float32), np.zeros_like(before)).applied(after)
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
    if inside.any() and quantile(largest(earlier)[inside], 0.5) > _WANTED:
        other = (largest(now) > _MOST_REST) | (likeness < 0.4)
        if other[inside].mean() < 0.001:
            return None
    wide = cv2.resize(rest, (width, height), interpolation=cv2.INTER_LINEAR)
    return Tone(curves.astype(np.float32), wide)


def largest(levels: Floats) -> Floats:
    """The largest of three channels: (height, width, 3) to (height, width)."""
    # NumPy's own is slow over so short an axis.
    return np.maximum(np.maximum(levels[..., 0], levels[..., 1]), levels[..., 2])


def _curve(given: Floats, wanted: Floats) -> NDArray[np.float64]:
    """The 256 levels that take `given` to `wanted`, both (number,)."""
    v, o = given.clip(0, 255).astype(np.float64) / 255, wanted.astype(np.float64) / 255
    inner = (given > 2) & (given < 252)
    log_gain, gamma = 0.0, 1.0
    # Levels that many pixels have don't count for more than those that tell about other levels.
    bins = np.clip(given.astype(int) // 8, 0, 31)
    base = inner / np.sqrt(np.bincount(bins, minlength=32)[bins] + len(v) / 200)
    base *= len(v) / max(base.sum(), 1e-9)
    logs = np.log(np.maximum(v, 1 / 255))
    for _round in range(8):
        model = np.exp(log_gain + gamma * logs)
        error = o - model
        spread = max(deviation(error[inner]) if inner.any() else 1, 1 / 255)
        weights = base * tukey(error / (4 * spread))
        slopes = np.stack([model, model * logs])
        weighted = slopes * weights
        precision = np.einsum("in,jn->ij", weighted, slopes) / (_INDEPENDENT * spread**2)
        pull = np.einsum("in,n->i", weighted, error) / (_INDEPENDENT * spread**2)
        prior = np.diag([_USUAL_GAIN**-2.0, _USUAL_GAMMA**-2.0])
        pull -= prior @ np.array([log_gain, gamma - 1])
        step = np.linalg.solve(precision + prior, pull)
        log_gain = float(np.clip(log_gain + step[0], -_MOST_GAIN, _MOST_GAIN))
        gamma = float(np.clip(gamma + step[1], 1 - _MOST_GAMMA, 1 + _MOST_GAMMA))
        if np.abs(step).max() < _SETTLED:
            break
    levels = np.arange(256) / 255
    curve = np.exp(log_gain) * levels**gamma
    # What the two numbers can't express.
    error = o - np.exp(log_gain) * v**gamma
    spread = max(deviation(error), 1 / 255)
    robust = tukey(error / (4 * spread))
    # Clipped levels have a wide choice of originals: their mean is the best guess.
    clipped = given >= 252
    robust[clipped] = tukey(error[clipped] / 0.25)
    hats = _hats(given)
    bends = np.diff(np.eye(len(_KNOTS)), 2, axis=0)
    weighted = hats * robust[:, None]
    # OpenCV's product needs no threads that wait for each other, and is quicker than einsum.
    normal = cv2.gemm(weighted, hats, 1, None, 0, flags=cv2.GEMM_1_T)
    normal += 30 * bends.T @ bends + _INDEPENDENT * np.eye(len(_KNOTS))
    heights = np.linalg.solve(normal, np.einsum("ni,n->i", weighted, error))
    return 255 * (curve + _hats(np.arange(256, dtype=np.float32)) @ heights)


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
