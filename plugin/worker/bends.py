"""Bends: what is left of a picture's motion when an affine one is taken off.

Models bend what they draw by a few pixels, differently from place to place. That is seen where a
line or a letter crosses the selection's edge. Windows that get smaller find the motion of each
place (Lucas and Kanade, 1981) by what was kept; away from that it fades out.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats
from plugin.worker.robust import deviation

_LONGEST = 320
"""The longer side at which bends are looked for."""
_WINDOWS = 51, 27, 13
"""Pixels there."""
_TURNS = 2
"""Steps for each of them."""
_USUAL = 1.2
"""Standard deviation of bends, in pixels there."""
_MOST = 4.0
_NEIGHBOURS = 10
"""Pixels that differ alike, and count as one."""
_FADING = 13
"""Pixels there over which a bend fades out where nothing was kept."""
_WORTH = 0.8
"""Bends count if they leave so much less of an error."""
_MOST_ERROR = 30.0
"""Levels; more is other content."""
_LEAST = 200
"""Points that must tell something."""
_LEAST_ERROR = 1.0
"""Levels; less is no bend that anybody sees."""
_APART = 7
"""Pixels that is kept away from what was not kept."""
_WIDE = (15, 15)
"""Shades wider than that don't count."""


def find(
    before: Floats, after: Floats, kept: NDArray[np.bool_], edge: NDArray[np.bool_]
) -> Floats | None:
    """Return how far each place of `before` is from its place in `after`, (height, width, 2).

    Both are gray, (height, width), and lie on each other but for that; `kept` is what shows the
    same in both. None if there is hardly any bend where it would be seen, at the `edge`.
    """
    height, width = before.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))

    def small(values: Any) -> Floats:
        return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    weight = (small(kept) > 0.99).astype(np.float32)
    # What is new must not reach what is compared.
    weight = cv2.erode(weight, np.ones((_APART, _APART), np.uint8), borderValue=1)
    total = np.maximum(cv2.blur(weight, _WIDE), np.float32(0.02))
    one, other = (
        cv2.GaussianBlur(each - cv2.blur(each * weight, _WIDE) / total, (0, 0), 1.0)
        for each in map(small, (before, after))
    )
    # The answer's contrast may be another one.
    strong, other_strong = (float((each * each * weight).sum()) + 1 for each in (one, other))
    other *= np.float32(np.sqrt(strong / other_strong))
    across = cv2.Sobel(one, cv2.CV_32F, 1, 0, scale=1 / 8) * weight
    down = cv2.Sobel(one, cv2.CV_32F, 0, 1, scale=1 / 8) * weight
    told = across * across + down * down > 4
    seen = (small(edge) > 0.5) & told
    if np.count_nonzero(seen) < _LEAST:
        seen = told
        if np.count_nonzero(seen) < _LEAST:
            return None
    flow = np.zeros((size[1], size[0], 2), np.float32)
    first = least = _error(one, other, flow, seen)
    if first < _LEAST_ERROR:
        return None
    for window in _WINDOWS:
        for _turn in range(_TURNS):
            step = _step(one, other, flow, (across, down), window)
            closer = np.clip(flow + step, -_MOST, _MOST)
            error = _error(one, other, closer, seen)
            if error > 0.98 * least:
                break
            flow, least = closer, error
        if least > 0.95 * first:
            # Nothing that the largest windows would know of.
            return None
    if least > _WORTH * first or first - least < _LEAST_ERROR / 2:
        return None
    square = (_FADING, _FADING)
    known = cv2.blur(weight, square)
    flow = cv2.blur(flow * weight[..., None], square) / np.maximum(known, 0.5)[..., None]
    # Slowly enough that nothing is folded.
    for _time in range(2):
        flow = cv2.blur(flow, square)
    return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) / np.float32(scale)


def bent(picture: NDArray[Any], flow: Floats) -> NDArray[Any]:
    """The picture with each place taken from where `flow`, of its size, says."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _error(one: Floats, other: Floats, flow: Floats, seen: NDArray[np.bool_]) -> float:
    """The mean of what differs where it is `seen`."""
    difference = np.abs(bent(other, flow) - one)[seen]
    return float(np.minimum(difference, _MOST_ERROR).mean())


def _step(
    one: Floats, other: Floats, flow: Floats, slopes: tuple[Floats, Floats], window: int
) -> Floats:
    """How much farther each place has moved than `flow` says, by what is in its window."""
    across, down = slopes
    error = one - bent(other, flow)
    spread = max(deviation(error[(across != 0) | (down != 0)][::4]), 0.7)
    sure = np.clip(1 - (error / (6 * spread)) ** 2, 0, None) ** 2

    def total(values: Floats) -> Floats:
        # Twice: a window with soft edges.
        half = (window // 2 | 1,) * 2
        return cv2.blur(cv2.blur(values * sure, half), half) * np.float32(half[0] ** 2)

    prior = np.float32(_NEIGHBOURS * (spread / _USUAL) ** 2)
    xx, yy = total(across * across) + prior, total(down * down) + prior
    xy = total(across * down)
    x = total(across * error) - prior * flow[..., 0]
    y = total(down * error) - prior * flow[..., 1]
    determinant = xx * yy - xy * xy
    return np.stack([(yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant], axis=-1)
