"""Fitting an answer to the region that was sent: one resampling from the answer to the layer.

Whatever size and ratio came back, `fit` returns exactly the pixels of the region's content.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from plugin.region import RATIO_TOLERANCE
from plugin.words import _
from plugin.worker import picture, repair
from plugin.worker.upload import Upload


def fit(
    answer: Image.Image, upload: Upload, size: tuple[int, int], repaired: bool = False
) -> tuple[Image.Image, list[str]]:
    """Return `answer` (sRGB, RGB or RGBA) at `size`, the content's (width, height), and notes.

    An answer of another ratio than the upload's covers it, centred, and is cut off. `repaired`
    undoes its drift, where that can be told. Notes are sentences for the user.
    """
    across = answer.width / upload.source_size[0]
    down = answer.height / upload.source_size[1]
    notes = []
    left, top, right, bottom = (float(side) for side in upload.inner)
    shift_x = shift_y = 0.0
    # The table's sizes are themselves a little off their ratios: that is no other ratio.
    if abs(across / down - 1) > 2 * RATIO_TOLERANCE:
        scale = min(across, down)
        shift_x = (answer.width - upload.source_size[0] * scale) / 2
        shift_y = (answer.height - upload.source_size[1] * scale) / 2
        across = down = scale
        notes.append(
            _(
                "The service answered with another ratio ({width}×{height}); what was too much "
                "was cut off."
            ).format(width=answer.width, height=answer.height)
        )
    box = (
        left * across + shift_x,
        top * down + shift_y,
        min(right * across + shift_x, answer.width),
        min(bottom * down + shift_y, answer.height),
    )
    scale = size[0] / (box[2] - box[0])
    if scale > 1.02:
        notes.append(
            _("The result was enlarged to {scale:.0%} of what the service delivered.").format(
                scale=scale
            )
        )
    if repaired:
        moved = _drift(answer, upload, (across, down), (shift_x, shift_y))
        if moved is not None:
            to_sent = _stretch(((right - left) / size[0], (bottom - top) / size[1]), (left, top))
            to_answer = _stretch((across, down), (shift_x, shift_y))
            matrix = to_answer @ np.vstack([moved, [0, 0, 1]]) @ to_sent
            return repair.resample(answer, matrix[:2], size), notes
    if all(edge == int(edge) for edge in box) and (box[2] - box[0], box[3] - box[1]) == size:
        return answer.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3]))), notes
    return answer.resize(size, Image.Resampling.LANCZOS, box=box), notes


def _drift(
    answer: Image.Image, upload: Upload, scale: tuple[float, float], shift: tuple[float, float]
) -> repair.Affine | None:
    """The answer's drift in pixels of the upload, None where it can't be told."""
    if upload.mask is None:
        return None
    width, height = upload.source_size
    seen = (
        shift[0],
        shift[1],
        min(shift[0] + width * scale[0], answer.width),
        min(shift[1] + height * scale[1], answer.height),
    )
    small = answer.convert("RGB").resize(upload.source_size, Image.Resampling.BICUBIC, box=seen)
    return repair.drift(upload.source, small, upload.mask)


def _stretch(scale: tuple[float, float], shift: tuple[float, float]) -> repair.Affine:
    """The 3×3 matrix that scales and shifts by the edges of pixels, for their centres."""
    across, down = scale
    return np.array(
        [
            [across, 0, shift[0] + across / 2 - 0.5],
            [0, down, shift[1] + down / 2 - 0.5],
            [0, 0, 1],
        ]
    )


def keep_alpha(placed: Image.Image, source: Image.Image) -> Image.Image:
    """Give the edit of a layer whose transparency is to stay the layer's own alpha.

    The service saw the layer over white; that white is taken out again where the layer is partly
    transparent, so that no pale fringe stays. Where nothing changed, the layer's own colours stay:
    what shines through faintly can't be told from the white behind it.
    """
    if placed.mode == source.mode == "RGB":
        return placed
    ground = picture.on_white(source)
    if placed.mode == "RGBA":
        placed = Image.alpha_composite(ground.convert("RGBA"), placed).convert("RGB")
    if source.mode != "RGBA":
        return placed
    alpha = source.getchannel("A")
    share = np.asarray(alpha, np.float32)[..., None] / 255
    seen = np.asarray(placed, np.float32)
    unmixed = (seen - 255 * (1 - share)) / np.maximum(share, 1 / 255)
    same = np.abs(seen - np.asarray(ground, np.float32)).max(axis=2, keepdims=True) <= 1
    colours = np.where(same, np.asarray(source)[..., :3], np.clip(np.rint(unmixed), 0, 255))
    result = Image.fromarray(colours.astype(np.uint8))
    result.putalpha(alpha)
    return result


def blend_factor(mask: Image.Image, pixels: int) -> Image.Image:
    """How much of the result counts, rising over `pixels` from the selection's edge inwards.

    `mask` is gray (L), 255 = edit. The factor (L) times the mask never exceeds either the mask or
    the ramp, so a feather that is softer already stays as it is.
    """
    selected = np.asarray(mask)
    # Beyond the picture's border the selection counts as going on: no blend along that edge.
    inside = cv2.copyMakeBorder((selected > 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    ramp = np.clip(distance / (pixels + 1), 0, 1) * 255
    factor = np.minimum(1, ramp / np.maximum(selected, 1))
    return Image.fromarray(np.rint(factor * 255).astype(np.uint8))
