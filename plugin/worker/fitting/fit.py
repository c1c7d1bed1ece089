"""Fit the picture of an answer to the region that was sent.

Whatever size and ratio the answer has, `fit` returns a picture of the same size as the region's
content. The answer is resampled only once, so that it loses as little sharpness as possible.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageChops

from plugin.translation import _
from plugin.worker.fitting import repair
from plugin.worker.fitting.affine import Layout, Matrix, Pixels, layouts, scaling, zoom
from plugin.worker.fitting.registration import Unaligned
from plugin.worker.pictures import colours
from plugin.worker.service.upload import Upload


def fit(
    answer: Image.Image,
    upload: Upload,
    source: Image.Image,
    selection: Image.Image | None,
    repaired: bool = False,
    delivered: tuple[int, int] | None = None,
) -> tuple[Pixels, list[str]]:
    """Return `answer` fitted to the region's content `source`, and notes for the user.

    `answer` is sRGB, in mode RGB or RGBA. The returned pixels, (height, width, 3 or 4), have the
    size of `source` and the channels of `answer`. A note is a sentence. `selection` is the mask of
    the content, in mode L, with 255 where the picture was to be edited.

    With `repaired`, undo the changes that the service made to the picture beyond the edit, if
    registration finds out where the picture sent is in the answer. Otherwise only scale the answer.
    If the answer then has another ratio than the upload, assume that it shows more than was sent:
    scale it to cover the upload, centre it, and cut off the excess.

    `delivered` is the (width, height) that the answer had on arrival, if it was scaled down since.
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
                "The picture from the service is transparent in the part to edit, so nothing "
                "in your picture changes. Describe in the prompt what should be visible "
                "there, and start a new edit."
            )
        )
    if why and upload.mask is not None:
        notes.append(_unaligned(why))
    return pixels, notes


def _unaligned(why: str) -> str:
    """Return the note for the user about an answer that could not be aligned.

    `why` is the reason that the exception Unaligned gives.
    """
    return {
        "plain": _(
            "The result could not be aligned: the picture around the selection is too plain "
            "to tell whether the service moved it. The result is used as it came. Check its "
            "position."
        ),
        "repeats": _(
            "The result could not be aligned: the picture looks the same in several places, "
            "as in a pattern or along a line. The result is used as it came. Check its "
            "position."
        ),
        "anew": _(
            "The result could not be aligned: the service has drawn the whole picture anew, "
            "even around the selection. The result is used as it came. Check its position."
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
    """Fit an answer that `judged` has analysed, and return its pixels and notes like `fit`.

    `found` is what `judged` returned for the answer, or None to only scale the answer. The notes
    are about the ratio and the size of the answer only.
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
    """Find out what the service changed beyond the edit, and return how to repair `answer`.

    Raises Unaligned if the answer can't be aligned with the upload.
    """
    return repair.judge(np.asarray(upload.source), _seen(answer), _edited(upload))


def _seen(image: Image.Image) -> Pixels:
    """Return `image` on white as RGB pixels (height, width, 3)."""
    return np.asarray(colours.on_white(image))


def _edited(upload: Upload) -> Pixels | None:
    """Return an array that is above 0 where the service was allowed to change the upload.

    This is inside the mask, and in the padding around the content, which only repeats edge pixels.
    The array has the shape (height, width) of the upload. Return None if there is no mask.
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
    """Return notes for the user if the answer has another ratio or had to be enlarged.

    `matrix` maps pixels of the region's content to pixels of the answer. `answer` and `size` are
    the (width, height) of the answer and of the content.
    """
    notes = []
    if layout != "squeeze":
        sentence = {
            "extend": _(
                "The result has {width}×{height} pixels and other proportions than the picture "
                "that was sent. Its excess edges were cropped."
            ),
            "crop": _(
                "The result has {width}×{height} pixels and other proportions than the picture "
                "that was sent, and doesn't show all of it. The missing parts of the picture stay "
                "as they are."
            ),
        }[layout]
        notes.append(sentence.format(width=answer[0], height=answer[1]))
    scale = 1 / zoom(matrix)
    if scale > 1.02:
        notes.append(
            _(
                "The result was smaller than the edited part, so it was enlarged to {scale:.0%}."
            ).format(scale=scale)
        )
    return notes


def _scaled(answer: Image.Image, matrix: Matrix, size: tuple[int, int]) -> Pixels:
    """Return the answer resampled to `size`, (width, height).

    `matrix` maps pixels of the returned array to pixels of the answer, and only scales and shifts.
    """
    edges = matrix @ np.array([[-0.5, size[0] - 0.5], [-0.5, size[1] - 0.5], [1, 1]]) + 0.5
    left, right = (min(max(0.0, edge), float(answer.width)) for edge in edges[0])
    top, bottom = (min(max(0.0, edge), float(answer.height)) for edge in edges[1])
    box = (round(left, 6), round(top, 6), round(right, 6), round(bottom, 6))
    if all(edge == int(edge) for edge in box) and (box[2] - box[0], box[3] - box[1]) == size:
        return np.asarray(answer.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3]))))
    return np.asarray(answer.resize(size, Image.Resampling.LANCZOS, box=box))


def _see_through(answer: Image.Image, matrix: Matrix, size: tuple[int, int]) -> Pixels:
    """Return the RGBA answer resampled to `size`, (width, height).

    `matrix` maps pixels of the returned array to pixels of the answer. Returned pixels that the
    answer doesn't cover are transparent.
    """
    # The colours are multiplied by the alpha before the answer is resampled, so that the colours of
    # transparent pixels don't spread into their neighbours.
    pixels = repair.resample(np.asarray(answer.convert("RGBa")), matrix, size)
    reached = cv2.warpAffine(
        np.ones((answer.height, answer.width), np.uint8),
        matrix[:2],
        size,
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    )
    pixels[reached == 0] = 0
    return np.asarray(Image.frombytes("RGBa", size, pixels.tobytes()).convert("RGBA"))


def _shows(alpha: Pixels, selection: Image.Image | None) -> bool:
    """Return whether a picture with the channel `alpha` has visible pixels inside `selection`.

    `selection` is a mask in mode L. None means that the whole picture counts.
    """
    seen = alpha > 0
    if selection is not None:
        seen &= np.asarray(selection) > 0
    return bool(seen.any())


def keep_alpha(placed: Pixels, source: Image.Image) -> Pixels:
    """Return the fitted result `placed` with the alpha channel of the layer `source`.

    The returned array has the shape (height, width, 4), or (height, width, 3) if the layer has no
    alpha channel.

    The layer was sent on a white ground. Where the layer is partly transparent, the white is
    removed from the colours of the result, so that no pale fringe is left. Where the result differs
    from the layer on white by at most 1 level, the layer's own colours are used, because the colour
    of nearly transparent pixels can't be separated from the white.
    """
    if placed.shape[2] == 3 and source.mode == "RGB":
        return placed
    ground = colours.on_white(source)
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
    unmixed = np.where(same, own[..., :3], np.clip(np.rint(unmixed), 0, 255))
    return np.dstack((unmixed.astype(np.uint8), own[..., 3]))


def what_hides(
    selection: Image.Image | None, blend: Image.Image | None, source: Image.Image | None
) -> str:
    """Return a sentence for the user if no part of a result would be visible, otherwise "".

    `selection` and `blend` are the masks of the result, in mode L, or None if there is no such
    mask. `source` is the region's content if its transparency is to be kept, otherwise None.
    """
    if selection is not None and selection.getbbox() is None:
        return _(
            "The selection is empty. Select the part to edit. Nothing was sent, so nothing "
            "was charged."
        )
    through = selection
    if selection is not None and blend is not None:
        through = ImageChops.multiply(selection.point(lambda value: 255 * (value > 0)), blend)
        if through.getbbox() is None:
            return _(
                "“Blend at the edge” is so wide that nothing of the selection is left. Set "
                "fewer pixels. Nothing was sent, so nothing was charged."
            )
    alpha = np.asarray(source.getchannel("A")) if source and source.mode == "RGBA" else None
    if alpha is not None and not _shows(alpha, through):
        return _(
            "The result would be invisible, because the part to edit is fully transparent and "
            "its transparency is kept. Fill that part with a colour, or unlock the alpha "
            "channel and select that part. Nothing was sent, so nothing was charged."
        )
    return ""
