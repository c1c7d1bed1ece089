"""Fit the picture of an answer to the region that was sent.

Whatever the size and ratio of the answer, `fit` returns a picture of the size of the region's
content. The answer is resampled only once.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageChops

from plugin.words import _
from plugin.worker import picture, repair
from plugin.worker.affine import Layout, Matrix, Pixels, layouts, scaling, zoom
from plugin.worker.registration import Unaligned
from plugin.worker.upload import Upload


def fit(
    answer: Image.Image,
    upload: Upload,
    source: Image.Image,
    selection: Image.Image | None,
    repaired: bool = False,
    delivered: tuple[int, int] | None = None,
) -> tuple[Pixels, list[str]]:
    """Return `answer` (sRGB, RGB or RGBA) fitted to `source`, and notes, sentences for the user.

    `source` is the region's content. The pixels returned have its size and the channels of
    `answer`: (height, width, 3 or 4). `selection` is the mask of the content (L, 255 = edited).

    With `repaired`, changes that the service made to the picture beyond the edit are undone, if
    registration finds out where the picture is in the answer. Otherwise the answer is scaled as a
    whole. If its ratio is not that of the upload, it is then assumed to show more than was sent:
    it is scaled to cover the upload, centred, and what is too much is cut off.

    `delivered` is the (width, height) in which the answer arrived, if it was scaled down since.
    """
    found, why = None, ""
    if repaired:
        try:
            found = judged(answer, upload)
        except Unaligned as error:
            why = error.why
    pixels, notes = placed(answer, upload, source, selection, found, delivered)
    if pixels.shape[2] == 4 and not _shows(pixels[..., 3], selection):
        notes.append(
            _(
                "The service's picture is transparent wherever the edit belongs: nothing of the "
                "picture changes. Say in the prompt what is to be seen there."
            )
        )
    if why and upload.mask is not None:
        notes.append(_unaligned(why))
    return pixels, notes


def _unaligned(why: str) -> str:
    """Return the note for the user about an answer that could not be aligned.

    `why` is that of Unaligned.
    """
    return {
        "plain": _(
            "The result could not be aligned: around the selection the picture is too plain to "
            "tell whether the service moved it. It is used as it came."
        ),
        "repeats": _(
            "The result could not be aligned: the picture looks the same in several places, as "
            "along a line or in a pattern, so where the answer belongs can't be told. It is used "
            "as it came."
        ),
        "anew": _(
            "The result could not be aligned: the service has drawn the whole picture anew, "
            "also around the selection. It is used as it came."
        ),
    }[why]


def placed(
    answer: Image.Image,
    upload: Upload,
    source: Image.Image,
    selection: Image.Image | None,
    found: repair.Repair | None,
    delivered: tuple[int, int] | None = None,
) -> tuple[Pixels, list[str]]:
    """Fit an answer that has been analysed, and return its pixels and notes like `fit`.

    `found` is the result of `judged`, or None to use the answer as it came. The notes are only
    about the ratio and the size of the answer.
    """
    left, top, right, bottom = upload.inner
    to_sent = scaling(((right - left) / source.width, (bottom - top) / source.height), (left, top))
    if found is None:
        layout, way = layouts(upload.source_size, answer.size)[0]
        matrix = way @ to_sent
    else:
        layout, matrix = found.registration.layout, found.registration.matrix @ to_sent
    notes = _notes(delivered or answer.size, layout, matrix, source.size)
    if found is None:
        return _scaled(answer, matrix, source.size), notes
    if answer.mode == "RGB":
        selected = None if selection is None else np.asarray(selection)
        pixels = repair.repaired(np.asarray(answer), found, to_sent, _seen(source), selected)
        return pixels, notes
    return _see_through(answer, matrix, source.size), notes


def judged(answer: Image.Image, upload: Upload) -> repair.Repair:
    """Return what the service changed in `answer` beyond the edit.

    Raises Unaligned if it can't be found out.
    """
    return repair.judge(np.asarray(upload.source), _seen(answer), _edited(upload))


def _seen(image: Image.Image) -> Pixels:
    """Return `image` on white as RGB pixels (height, width, 3)."""
    return np.asarray(picture.on_white(image))


def _edited(upload: Upload) -> Pixels | None:
    """Return the part of the upload that may be new in the answer, (height, width), above 0 = new.

    This is the mask, and the border where the edge of the content is repeated. Return None if there
    is no mask.
    """
    if upload.mask is None:
        return None
    left, top, right, bottom = upload.inner
    edited = np.full((upload.source.height, upload.source.width), 255, np.uint8)
    edited[top:bottom, left:right] = np.asarray(upload.mask)[top:bottom, left:right]
    return edited


def _notes(
    answer: tuple[int, int], layout: Layout, matrix: Matrix, size: tuple[int, int]
) -> list[str]:
    """Return notes for the user about another ratio and about a result that was enlarged.

    `matrix` takes pixels of the content to those of the answer. `answer` and `size` are the (width,
    height) of the answer and of the content.
    """
    notes = []
    if layout != "squeeze":
        sentence = {
            "extend": _(
                "The service answered with another ratio ({width}×{height}); what was too much "
                "was cut off."
            ),
            "crop": _(
                "The service answered with another ratio ({width}×{height}) that doesn't show "
                "all of what was sent; there the picture stays as it is."
            ),
        }[layout]
        notes.append(sentence.format(width=answer[0], height=answer[1]))
    scale = 1 / zoom(matrix)
    if scale > 1.02:
        notes.append(
            _("The result was enlarged to {scale:.0%} of what the service delivered.").format(
                scale=scale
            )
        )
    return notes


def _scaled(answer: Image.Image, matrix: Matrix, size: tuple[int, int]) -> Pixels:
    """Return the answer at `size` (width, height), by a matrix that only scales and shifts."""
    edges = matrix @ np.array([[-0.5, size[0] - 0.5], [-0.5, size[1] - 0.5], [1, 1]]) + 0.5
    left, right = (min(max(0.0, edge), float(answer.width)) for edge in edges[0])
    top, bottom = (min(max(0.0, edge), float(answer.height)) for edge in edges[1])
    box = (round(left, 6), round(top, 6), round(right, 6), round(bottom, 6))
    if all(edge == int(edge) for edge in box) and (box[2] - box[0], box[3] - box[1]) == size:
        return np.asarray(answer.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3]))))
    return np.asarray(answer.resize(size, Image.Resampling.LANCZOS, box=box))


def _see_through(answer: Image.Image, matrix: Matrix, size: tuple[int, int]) -> Pixels:
    """Return the RGBA answer at `size` (width, height), transparent beyond the answer's edges."""
    # The alpha is premultiplied, so that the colours of transparent pixels don't spread into their
    # neighbours.
    pixels = repair.resample(np.asarray(answer.convert("RGBa")), matrix, size)
    reached = cv2.warpAffine(
        np.ones((answer.height, answer.width), np.uint8),
        matrix[:2],
        size,
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    )
    pixels[reached == 0] = 0
    return np.asarray(Image.frombytes("RGBa", size, pixels.tobytes()).convert("RGBA"))


def what_hides(
    selection: Image.Image | None, blend: Image.Image | None, source: Image.Image | None
) -> str:
    """Return a sentence for the user if no part of a result would be visible, else "".

    `selection` and `blend` (L, or None) are the masks of the result. `source` is the content if its
    transparency is to be kept, else None.
    """
    if selection is not None and selection.getbbox() is None:
        return _("The selection is empty: select what is to be edited. Nothing was sent.")
    through = selection
    if selection is not None and blend is not None:
        through = ImageChops.multiply(selection.point(lambda value: 255 * (value > 0)), blend)
        if through.getbbox() is None:
            return _(
                "The blend is so wide that it leaves nothing of the selection: set fewer pixels. "
                "Nothing was sent."
            )
    alpha = np.asarray(source.getchannel("A")) if source and source.mode == "RGBA" else None
    if alpha is not None and not _shows(alpha, through):
        return _(
            "Nothing of the result would be seen: the picture is fully transparent where it is "
            "edited, and its transparency is kept. Fill that part with a colour first, or select "
            "it with the alpha channel unlocked. Nothing was sent."
        )
    return ""


def _shows(alpha: Pixels, selection: Image.Image | None) -> bool:
    """Return whether a picture with this `alpha` has visible pixels inside `selection` (L)."""
    seen = alpha > 0
    if selection is not None:
        seen &= np.asarray(selection) > 0
    return bool(seen.any())


def keep_alpha(placed: Pixels, source: Image.Image) -> Pixels:
    """Return a fitted result with the alpha of the layer `source`, (height, width, 3 or 4).

    It is RGB if the layer has no alpha.

    The layer was sent on white. Where it is partly transparent, the white is removed from the
    colours again, so that no pale fringe is left. Where the result is within 1 level of what was
    sent, the layer's own colours are used, because in nearly transparent pixels the colour can't
    be separated from the white.
    """
    if placed.shape[2] == 3 and source.mode == "RGB":
        return placed
    ground = picture.on_white(source)
    if placed.shape[2] == 4:
        laid = Image.alpha_composite(ground.convert("RGBA"), Image.fromarray(placed))
        placed = np.asarray(laid.convert("RGB"))
    if source.mode != "RGBA":
        return placed
    own = np.asarray(source)
    share = own[..., 3:].astype(np.float32) / 255
    seen = placed.astype(np.float32)
    unmixed = (seen - 255 * (1 - share)) / np.maximum(share, 1 / 255)
    same = np.abs(seen - np.asarray(ground, np.float32)).max(axis=2, keepdims=True) <= 1
    colours = np.where(same, own[..., :3], np.clip(np.rint(unmixed), 0, 255))
    return np.dstack((colours.astype(np.uint8), own[..., 3]))


def blend_factor(mask: Image.Image, pixels: int) -> Image.Image:
    """Return the factor (L) by which the blend reduces the mask inside the selection's edge.

    The ramp rises from the edge inwards over the number of `pixels`. `mask` is gray (L), 255 =
    edit. The product of factor and mask exceeds neither the mask nor the ramp, so a feathered edge
    that is softer than the ramp is not changed.
    """
    selected = np.asarray(mask)
    # Where the selection reaches the border of the picture, treat it as going on beyond it, so that
    # there is no blend along the border.
    inside = cv2.copyMakeBorder((selected > 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    ramp = np.clip(distance / (pixels + 1), 0, 1) * 255
    factor = np.minimum(1, ramp / np.maximum(selected, 1))
    return Image.fromarray(np.rint(factor * 255).astype(np.uint8))
