"""Fitting an answer to the region that was sent: one resampling from the answer to the layer.

Whatever size and ratio came back, `fit` returns exactly the pixels of the region's content.
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
    """Return `answer` (sRGB, RGB or RGBA) at the size of `source`, the content, and notes.

    Its pixels are RGB or RGBA, (height, width, 3 or 4), as the answer's are. `selection` is the
    content's mask (L, 255 = edited). `repaired` undoes what the service did to the picture beyond
    the edit, where that can be told; otherwise an answer of another ratio than the upload's covers
    it, centred, and is cut off. `delivered` is the (width, height) in which the answer came, if it
    is smaller by now. Notes are sentences for the user.
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
    """What the user is told of an answer whose place can't be told."""
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
    """As `fit`, by what was `found` out about the answer already."""
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
    """What happened to `answer` beyond the edit. Raises Unaligned if that can't be told."""
    return repair.judge(np.asarray(upload.source), _seen(answer), _edited(upload))


def _seen(image: Image.Image) -> Pixels:
    """RGB over white, (height, width, 3)."""
    return np.asarray(picture.on_white(image))


def _edited(upload: Upload) -> Pixels | None:
    """What may be new in the answer: the selection, and beyond the picture, which repeats it."""
    if upload.mask is None:
        return None
    left, top, right, bottom = upload.inner
    edited = np.full((upload.source.height, upload.source.width), 255, np.uint8)
    edited[top:bottom, left:right] = np.asarray(upload.mask)[top:bottom, left:right]
    return edited


def _notes(
    answer: tuple[int, int], layout: Layout, matrix: Matrix, size: tuple[int, int]
) -> list[str]:
    """What the user is told of an answer that is placed by `matrix`; sizes (width, height)."""
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
    """The answer at `size`, by a matrix that only scales and shifts."""
    edges = matrix @ np.array([[-0.5, size[0] - 0.5], [-0.5, size[1] - 0.5], [1, 1]]) + 0.5
    left, right = (min(max(0.0, edge), float(answer.width)) for edge in edges[0])
    top, bottom = (min(max(0.0, edge), float(answer.height)) for edge in edges[1])
    box = (round(left, 6), round(top, 6), round(right, 6), round(bottom, 6))
    if all(edge == int(edge) for edge in box) and (box[2] - box[0], box[3] - box[1]) == size:
        return np.asarray(answer.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3]))))
    return np.asarray(answer.resize(size, Image.Resampling.LANCZOS, box=box))


def _see_through(answer: Image.Image, matrix: Matrix, size: tuple[int, int]) -> Pixels:
    """The RGBA answer at `size`, with nothing where it doesn't reach."""
    # Premultiplied: the colours of transparent pixels must not run into their neighbours.
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
    """Return a sentence for the user if nothing of any result would be seen, else "".

    `selection` and `blend` (L) are what it is seen through, if there are any; `source` is the
    picture whose transparency is kept, if it is.
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
    """Whether anything of a picture is seen, by its `alpha` and through `selection` (L)."""
    seen = alpha > 0
    if selection is not None:
        seen &= np.asarray(selection) > 0
    return bool(seen.any())


def keep_alpha(placed: Pixels, source: Image.Image) -> Pixels:
    """Give the edit of a layer whose transparency is to stay the layer's own alpha.

    The service saw the layer over white; that white is taken out again where the layer is partly
    transparent, so that no pale fringe stays. Where nothing changed, the layer's own colours stay:
    what shines through faintly can't be told from the white behind it.
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
