"""Find bends: the local distortions of an answer that remain after the affine motion is undone.

AI models distort what they draw by a few pixels, differently from place to place. Such a bend is
visible where a line or a letter crosses the selection's edge. A bend is described by a *flow*: an
offset (x, y) for each pixel. The flow is estimated from the *kept* pixels, which show the same in
the picture sent and in the answer, by comparing both pictures in windows that get smaller and
smaller (Lucas and Kanade, 1981). The flow fades to 0 with the distance from the kept pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin.worker.fitting.affine import Floats
from plugin.worker.fitting.robust import deviation

_LONGEST = 320
"""The longer side, in pixels, of the small pictures in which bends are measured.

All lengths in pixels in the constants below refer to these small pictures.
"""
_WINDOWS = 51, 27, 13
"""The sides of the square windows, in pixels, in the order in which the windows are used."""
_TURNS = 2
"""With each window, at most this many steps of estimation are made."""
_USUAL = 1.2
"""The size of usual bends, in pixels: the standard deviation that the estimate assumes for them."""
_MOST = 4.0
"""The offsets of the flow in x and in y are limited to this, in pixels."""
_NEIGHBOURS = 10
"""The number of pixels that count as one measurement, because neighbours have similar errors."""
_FADING = 13
"""The side, in pixels, of the window in which the flow is smoothed at the end.

Within this distance, the flow fades to 0 where no pixels were kept.
"""
_WORTH = 0.8
"""The flow is used only if it reduces the error to this share of the error without it, or less."""
_MOST_ERROR = 30.0
"""A larger difference (on the scale 0–255) counts as this.

Larger differences come from new content, so their size says nothing about the bend.
"""
_LEAST = 200
"""Bends are measured only if at least this many pixels have a gradient of more than 2.

The gradient is the change (on the scale 0–255) from one pixel to the next.
"""
_LEAST_ERROR = 1.0
"""A bend that causes a smaller mean error (on the scale 0–255) is not visible.

The flow is used only if it reduces the error by at least half of this value.
"""
_APART = 7
"""The side, in pixels, of the square by which the kept areas are shrunk (eroded).

Because of this, all measured pixels are at some distance from pixels that were not kept.
"""
_WIDE = (15, 15)
"""The window, in pixels, of the local mean that is subtracted from each picture.

The subtraction removes differences in brightness that extend over wider areas.
"""


def find(
    before: Floats, after: Floats, kept: NDArray[np.bool_], edge: NDArray[np.bool_]
) -> Floats | None:
    """Return the flow: the offset from each pixel of `before` to the same detail in `after`.

    The flow has the shape (height, width, 2) and contains offsets (x, y) in pixels. `before` and
    `after` are gray pictures, (height, width), already aligned by an affine motion. `kept` is true
    where both pictures show the same. `edge` is true in the band along the selection's edge, where
    bends are visible.

    Return None if the kept pixels have too little texture, or if there is hardly any bend in the
    band. If the band has too little texture, the bend is judged at all kept pixels instead.
    """
    height, width = before.shape
    scale = min(1.0, _LONGEST / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))

    def small(values: Any) -> Floats:
        return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    weight = (small(kept) > 0.99).astype(np.float32)
    # The blurs below mix each pixel with its neighbours, so the pixels that are compared must not
    # be close to new content.
    weight = cv2.erode(weight, np.ones((_APART, _APART), np.uint8), borderValue=1)
    total = np.maximum(cv2.blur(weight, _WIDE), np.float32(0.02))
    one, other = (
        cv2.GaussianBlur(each - cv2.blur(each * weight, _WIDE) / total, (0, 0), 1.0)
        for each in map(small, (before, after))
    )
    # The answer may have another contrast, so its contrast is made equal to that of `before`.
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
            # With the windows so far, beginning with the largest, hardly any bend was found.
            return None
    if least > _WORTH * first or first - least < _LEAST_ERROR / 2:
        return None
    square = (_FADING, _FADING)
    known = cv2.blur(weight, square)
    flow = cv2.blur(flow * weight[..., None], square) / np.maximum(known, 0.5)[..., None]
    # The flow is smoothed twice more: if it varied too quickly, it would fold the picture.
    for _time in range(2):
        flow = cv2.blur(flow, square)
    return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) / np.float32(scale)


def bent(picture: NDArray[Any], flow: Floats) -> NDArray[Any]:
    """Return `picture` resampled so that each pixel is taken from its own position plus `flow`.

    `flow`, an array of shape (height, width, 2), contains offsets (x, y) in pixels, and has the
    height and width of `picture`. The interpolation is cubic.
    """
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _error(one: Floats, other: Floats, flow: Floats, seen: NDArray[np.bool_]) -> float:
    """Return the mean difference between `one` and `other` bent by `flow`.

    The difference is on the scale 0–255. Only the pixels at which `seen` is true count.
    Absolute differences are clipped to `_MOST_ERROR` before they are averaged.
    """
    difference = np.abs(bent(other, flow) - one)[seen]
    return float(np.minimum(difference, _MOST_ERROR).mean())


def _step(
    one: Floats, other: Floats, flow: Floats, slopes: tuple[Floats, Floats], window: int
) -> Floats:
    """Return the Lucas-Kanade step, (height, width, 2): the correction to add to `flow`.

    The correction of a pixel is estimated in a window around the pixel. Pixels with large errors
    get little or no weight, and small flows are preferred. `slopes` are the gradients of `one` in x
    and y.
    """
    across, down = slopes
    error = one - bent(other, flow)
    spread = max(deviation(error[(across != 0) | (down != 0)][::4]), 0.7)
    sure = np.clip(1 - (error / (6 * spread)) ** 2, 0, None) ** 2

    def total(values: Floats) -> Floats:
        # Two box filters, one after the other, have the effect of one window with soft edges.
        half = (window // 2 | 1,) * 2
        return cv2.blur(cv2.blur(values * sure, half), half) * np.float32(half[0] ** 2)

    prior = np.float32(_NEIGHBOURS * (spread / _USUAL) ** 2)
    xx, yy = total(across * across) + prior, total(down * down) + prior
    xy = total(across * down)
    x = total(across * error) - prior * flow[..., 0]
    y = total(down * error) - prior * flow[..., 1]
    determinant = xx * yy - xy * xy
    return np.stack([(yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant], axis=-1)
