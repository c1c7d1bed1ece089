"""Undoing the drift of an answer: models redraw everything, a little shifted, zoomed or turned.

What is known are the pixels around the selection: they were sent, and they came back. Where they
don't tell enough (no selection, no texture, a scene that is no longer the same), the answer is
left alone.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Affine = NDArray[np.float64]
"""A 2×3 matrix that takes (x, y, 1), pixel centres at whole numbers, to (x, y)."""

_LONGEST = 640
"""Pixels of the longer side at which drift is measured; sub-pixel methods need no more."""
_LEAST_KEPT = 0.1
"""Share of the picture that must have been kept for a judgement."""
_LEAST_DRIFT = 0.3
"""Pixels of the upload; less is not worth a resampling."""
_MOST_DRIFT = 0.12
"""As a share of the longer side; more is a changed scene, not drift."""
_BETTER = 0.8
"""The kept pixels' difference must fall at least to this share of what it was."""


def drift(sent: Image.Image, answer: Image.Image, mask: Image.Image) -> Affine | None:
    """Return where in `answer` each pixel of `sent` went; None if nothing moved or none can tell.

    All three show the same and have the same size: RGB what was sent, RGB what came back, L the
    selection (255 = edited). The matrix takes coordinates of `sent` to those of `answer`.
    """
    scale = min(1.0, _LONGEST / max(sent.size))
    size = (max(8, round(sent.width * scale)), max(8, round(sent.height * scale)))
    before, after = (_measured(picture, size) for picture in (sent, answer))
    edited = cv2.resize(np.asarray(mask), size, interpolation=cv2.INTER_AREA) > 0
    # What was painted reaches a little beyond the mask, and the measure blurs.
    margin = np.ones((9, 9), np.uint8)
    kept = 1 - cv2.dilate(edited.astype(np.uint8), margin)
    if kept.mean() < _LEAST_KEPT:
        return None
    matrix = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    try:
        _correlation, matrix = cv2.findTransformECC(
            before, after, matrix, cv2.MOTION_AFFINE, stop, kept, 5
        )
    except cv2.error:
        return None
    found = _at_full_size(matrix.astype(np.float64), scale)
    moved = _farthest(found, sent.size)
    if not _LEAST_DRIFT <= moved <= _MOST_DRIFT * max(sent.size):
        return None
    aligned = cv2.warpAffine(
        after, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=np.nan
    )
    judged = (kept > 0) & np.isfinite(aligned)
    if judged.mean() < _LEAST_KEPT:
        return None
    if _difference(before, aligned, judged) > _BETTER * _difference(before, after, judged):
        return None
    return found


def resample(answer: Image.Image, matrix: Affine, size: tuple[int, int]) -> Image.Image:
    """Return the picture of `size` whose pixel (x, y) is `answer` at `matrix` of it."""
    pixels = np.asarray(answer)
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink > 1.2:
        # A sampler looks at a few neighbours only: what is finer than the result must go first.
        pixels = cv2.GaussianBlur(pixels, (0, 0), 0.45 * float(np.sqrt(shrink**2 - 1)))
    sampled = cv2.warpAffine(
        pixels,
        matrix,
        size,
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Image.fromarray(sampled)


def _measured(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    gray = np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX), np.float32)
    return cv2.GaussianBlur(gray, (0, 0), 1.0)


def _at_full_size(matrix: Affine, scale: float) -> Affine:
    """The same motion for pixels that are 1/`scale` as large."""
    found = matrix.copy()
    # Scaling keeps the corners of pixels in place, not their centres.
    half = np.array([0.5, 0.5])
    shift = matrix[:, 2] - half + matrix[:, :2] @ half
    found[:, 2] = shift / scale + half - matrix[:, :2] @ half
    return found


def _farthest(matrix: Affine, size: tuple[int, int]) -> float:
    corners = np.array([[x, y, 1.0] for x in (0, size[0]) for y in (0, size[1])])
    return float(np.linalg.norm(corners @ matrix.T - corners[:, :2], axis=1).max())


def _difference(a: NDArray[np.float32], b: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """Mean difference where asked, brightness and contrast left out of it."""

    def normal(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return (values - values.mean()) / (values.std() + 1e-3)

    return float(np.abs(normal(a[where]) - normal(b[where])).mean())
