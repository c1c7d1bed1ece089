"""Bends: the residual motion of an answer that an affine motion doesn't explain.

Models bend what they draw by a few pixels, differently from place to place. This is visible where a
line or a letter crosses the selection's edge. The residual flow is estimated from what was kept, in
windows that get smaller (Lucas and Kanade, 1981). It fades out with the distance from what was
kept.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.affine import Floats
from plugin.worker.robust import deviation

_LONGEST = 320
"""The longer side, in pixels, of the small pictures in which bends are measured.

Pixels below are those of the small pictures.
"""
_WINDOWS = 51, 27, 13
"""Sides of the windows, in pixels."""
_TURNS = 2
"""The most steps with each window."""
_USUAL = 1.2
"""The prior: the standard deviation of bends, in pixels."""
_MOST = 4.0
"""The largest bend in x and y, in pixels."""
_NEIGHBOURS = 10
"""Neighbouring pixels have similar residuals: so many count as one independent measurement."""
_FADING = 13
"""The window, in pixels, in which a bend is smoothed and fades out where nothing was kept."""
_WORTH = 0.8
"""Bends are used if they reduce the error at least to this share."""
_MOST_ERROR = 30.0
"""The limit to which differences are clipped, in levels of 255. More is other content."""
_LEAST = 200
"""The least number of pixels with a slope (a gradient of more than 2 levels per pixel)."""
_LEAST_ERROR = 1.0
"""A bend that causes a smaller error, in levels of 255, is not visible.

The error must decrease by at least half of this.
"""
_APART = 7
"""Side, in pixels, of the square by which kept parts are eroded.

This keeps a distance from what was not kept.
"""
_WIDE = (15, 15)
"""The window, in pixels, of the local mean, which is subtracted: wider shades don't count."""


def find(
    before: Floats, after: Floats, kept: NDArray[np.bool_], edge: NDArray[np.bool_]
) -> Floats | None:
    """Return the offset (x, y), in pixels, from each pixel of `before` to its place in `after`.

    The result is (height, width, 2). Both pictures are gray, (height, width), and aligned by an
    affine motion. `kept` is what shows the same in both. `edge` is the band along the selection's
    edge, where bends are visible.

    None means that there is too little texture, or hardly any bend at the edge. (If the edge has
    too little texture, all that was kept decides.)
    """
    height, width = before.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))

    def small(values: Any) -> Floats:
        return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    weight = (small(kept) > 0.99).astype(np.float32)
    # Blurred pixels that are compared must contain nothing that is new.
    weight = cv2.erode(weight, np.ones((_APART, _APART), np.uint8), borderValue=1)
    total = np.maximum(cv2.blur(weight, _WIDE), np.float32(0.02))
    one, other = (
        cv2.GaussianBlur(each - cv2.blur(each * weight, _WIDE) / total, (0, 0), 1.0)
        for each in map(small, (before, after))
    )
    # The answer's contrast may differ.
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
            # Even the largest windows found hardly any bend.
            return None
    if least > _WORTH * first or first - least < _LEAST_ERROR / 2:
        return None
    square = (_FADING, _FADING)
    known = cv2.blur(weight, square)
    flow = cv2.blur(flow * weight[..., None], square) / np.maximum(known, 0.5)[..., None]
    # The flow must vary slowly, so that nothing is folded.
    for _time in range(2):
        flow = cv2.blur(flow, square)
    return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) / np.float32(scale)


def bent(picture: NDArray[Any], flow: Floats) -> NDArray[Any]:
    """Return `picture` resampled, with each pixel taken from its own place plus `flow`.

    `flow`, (height, width, 2), has the height and width of `picture`. The interpolation is cubic.
    """
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _error(one: Floats, other: Floats, flow: Floats, seen: NDArray[np.bool_]) -> float:
    """Return the mean absolute difference of the pixels that are `seen`, in levels of 255."""
    difference = np.abs(bent(other, flow) - one)[seen]
    return float(np.minimum(difference, _MOST_ERROR).mean())


def _step(
    one: Floats, other: Floats, flow: Floats, slopes: tuple[Floats, Floats], window: int
) -> Floats:
    """Return the Lucas-Kanade step: what to add to `flow`, (height, width, 2).

    It is estimated for each pixel in its window, with robust weights and a prior for small flows.
    `slopes` are the gradients of `one` in x and y.
    """
    across, down = slopes
    error = one - bent(other, flow)
    spread = max(deviation(error[(across != 0) | (down != 0)][::4]), 0.7)
    sure = np.clip(1 - (error / (6 * spread)) ** 2, 0, None) ** 2

    def total(values: Floats) -> Floats:
        # Two box filters in succession make a window with soft edges.
        half = (window // 2 | 1,) * 2
        return cv2.blur(cv2.blur(values * sure, half), half) * np.float32(half[0] ** 2)

    prior = np.float32(_NEIGHBOURS * (spread / _USUAL) ** 2)
    xx, yy = total(across * across) + prior, total(down * down) + prior
    xy = total(across * down)
    x = total(across * error) - prior * flow[..., 0]
    y = total(down * error) - prior * flow[..., 1]
    determinant = xx * yy - xy * xy
    return np.stack([(yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant], axis=-1)
