"""Encode the source, mask and references of a job as PNGs that fit the service's size limits.

References are always scaled down to the longer side of the answer. If the PNGs are too large, they
are compressed harder. If that isn't enough, the references are scaled down further, and after them
the source together with its mask (at once, where these two exceed the limits alone). So no edit is
refused for its size after a long upload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from plugin.errors import Failure, Kind
from plugin.limits import MOST_PICTURES, PICTURE_BYTES, TOTAL_BYTES
from plugin.region import Region
from plugin.translation import _
from plugin.worker import picture

_SMALLEST_REFERENCE = 512
"""The smallest longer side of a reference, in pixels. A smaller one would be of little use to the
model."""
_JUST_UNDER = 0.97
"""A safety factor for scaling down: the bytes don't shrink exactly in proportion to the pixels, and
a slightly lower target avoids another round."""


@dataclass
class Upload:
    """The pictures of a job, scaled and encoded for the request."""

    files: list[tuple[str, str, bytes]]
    """(form field, file name, PNG bytes) of each picture, in the order in which the model sees
    them."""
    source: Image.Image
    """The source as it is sent, mode RGB."""
    mask: Image.Image | None
    """The mask as it is sent, at the size of `source`, mode L, 255 = edit."""
    inner: tuple[int, int, int, int]
    """Left, top, right and bottom of the region's content in `source`, in pixels. The pixels around
    it repeat the content's edge."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""

    @property
    def source_size(self) -> tuple[int, int]:
        """The (width, height) of the source as it is sent. The answer is fitted relative to it."""
        return self.source.size


def build(
    region: Region,
    source: Image.Image,
    mask: Image.Image | None,
    references: Sequence[Image.Image],
    total: int = TOTAL_BYTES,
) -> Upload:
    """Scale and encode the pictures for `region`, in at most `total` bytes.

    `source` contains the pixels of `region.content`. `mask` (mode L, 255 = edit) has the size of
    `source`. Raises Failure if there are too many pictures, or if the mask is empty.
    """
    count = 1 + (mask is not None) + len(references)
    if count > MOST_PICTURES:
        room = MOST_PICTURES - 1 - (mask is not None)
        raise Failure(
            Kind.SETUP,
            _(
                "The service accepts at most {room} reference pictures with this edit, but "
                "there are {count}. Remove some of them."
            ).format(room=room, count=len(references)),
        )
    flat = picture.on_white(source)
    size = region.upload
    own, inner = _own_pictures(flat, mask, region, size)
    others = [_within(picture.on_white(reference), max(region.answer)) for reference in references]
    data, other_data = _encoded(own), _encoded(others)
    notes: list[str] = []
    hard = _over(data + other_data, total) > 1
    if hard:
        data, other_data = _encoded(own, hard), _encoded(others, hard)
    while (over := _over(data + other_data, total)) > 1:
        if _over(data, total) <= 1 and any(
            max(other.size) > _SMALLEST_REFERENCE for other in others
        ):
            room = total - sum(map(len, data))
            share = min(room / sum(map(len, other_data)), PICTURE_BYTES / max(map(len, other_data)))
            others = [_shrunk_reference(other, _JUST_UNDER * share**0.5) for other in others]
            other_data = _encoded(others, hard)
        else:
            factor = _JUST_UNDER / over**0.5
            size = (max(1, int(size[0] * factor)), max(1, int(size[1] * factor)))
            own, inner = _own_pictures(flat, mask, region, size)
            data = _encoded(own, hard)
            notes = [
                _(
                    "The picture was too large to upload, so it was sent at {width}×{height} "
                    "pixels."
                ).format(width=size[0], height=size[1])
            ]
    several = bool(references)
    files = [("image[]" if several else "image", "source.png", data[0])]
    for number, encoded in enumerate(other_data, 1):
        files.append(("image[]", f"reference-{number}.png", encoded))
    if mask is not None:
        files.append(("mask", "mask.png", data[1]))
    sent_mask = own[1].getchannel("R") if mask is not None else None
    return Upload(files, own[0], sent_mask, inner, notes)


def _own_pictures(
    flat: Image.Image, mask: Image.Image | None, region: Region, size: tuple[int, int]
) -> tuple[list[Image.Image], tuple[int, int, int, int]]:
    """Return the source and the mask to send at `size`, and the box of the content in them.

    `size` is (width, height); the box is (left, top, right, bottom).
    """
    sent, inner = _at_size(flat, region, size)
    if mask is None:
        return [sent], inner
    return [sent, _both_ways(_mask_at_size(mask, size, inner))], inner


def _encoded(pictures: Sequence[Image.Image], hard: bool = False) -> list[bytes]:
    return [picture.png(p, hard) for p in pictures]


def _over(data: Sequence[bytes], total: int) -> float:
    """Return the factor by which `data` exceeds the limits; at most 1 if it fits."""
    return max(max(map(len, data)) / PICTURE_BYTES, sum(map(len, data)) / total)


def _shrunk_reference(reference: Image.Image, factor: float) -> Image.Image:
    return _within(reference, max(_SMALLEST_REFERENCE, int(max(reference.size) * factor)))


def _within(image: Image.Image, longest: int) -> Image.Image:
    factor = longest / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _at_size(
    source: Image.Image, region: Region, size: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Scale the content and repeat its edge, so that the region's box fills `size`.

    Return the picture and the (left, top, right, bottom) of the content in it.
    """
    inner = _inner(region, size)
    left, top, right, bottom = inner
    if source.size != (right - left, bottom - top):
        source = source.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    if source.size == size:
        return source, inner
    return _framed(source, size, inner, cv2.BORDER_REPLICATE), inner


def _mask_at_size(
    mask: Image.Image, size: tuple[int, int], inner: tuple[int, int, int, int]
) -> Image.Image:
    left, top, right, bottom = inner
    if _highest(mask) == 0:
        raise Failure(Kind.SETUP, _("The selection is empty. Select the part to edit."))
    shown = (right - left, bottom - top)
    small = mask if mask.size == shown else mask.resize(shown, Image.Resampling.BOX)
    if _highest(small) < 128:
        # The selection is faint, or it is a thin line that faded when it was scaled down. To the
        # model, such a mask would mean "keep everything". So every pixel that the selection
        # touches becomes white.
        touched = (np.asarray(mask) > 0).astype(np.float32)
        share = cv2.resize(touched, shown, interpolation=cv2.INTER_AREA)
        small = Image.fromarray(((share > 0) * 255).astype(np.uint8))
    return _framed(small, size, inner, cv2.BORDER_CONSTANT)


def _highest(gray: Image.Image) -> int:
    return int(np.asarray(gray).max())


def _inner(region: Region, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the (left, top, right, bottom) of the content in a picture of the box at `size`."""
    across, down = size[0] / region.box.width, size[1] / region.box.height
    left = min(round((region.content.x - region.box.x) * across), size[0] - 1)
    top = min(round((region.content.y - region.box.y) * down), size[1] - 1)
    right = max(left + 1, round((region.content.right - region.box.x) * across))
    bottom = max(top + 1, round((region.content.bottom - region.box.y) * down))
    return left, top, min(right, size[0]), min(bottom, size[1])


def _framed(
    image: Image.Image, size: tuple[int, int], inner: tuple[int, int, int, int], border: int
) -> Image.Image:
    left, top, right, bottom = inner
    if image.size == size:
        return image
    array = cv2.copyMakeBorder(
        np.asarray(image), top, size[1] - bottom, left, size[0] - right, border
    )
    return Image.fromarray(array)


def _both_ways(mask: Image.Image) -> Image.Image:
    """Return an RGBA mask that is both white and transparent where to edit.

    There are two conventions for masks: transparent means edit, or white means edit. This mask has
    the same meaning in both.
    """
    keep = mask.point(lambda value: 255 - value)
    return Image.merge("RGBA", (mask, mask, mask, keep))


def read_source(folder: Path) -> tuple[Image.Image, Image.Image | None]:
    """Return the job's source (RGB or RGBA) and mask (L, or None if the job has none).

    Raises Failure if one of the files is missing or damaged.
    """
    try:
        source = picture.read_own(folder / "source.png")
        mask = None
        if (folder / "mask.png").exists():
            mask = picture.read_own(folder / "mask.png").convert("L")
    except picture.Unreadable as error:
        raise Failure(
            Kind.SETUP,
            _("The edit can't be sent ({why}). Start a new edit.").format(why=error),
        ) from error
    return source if source.mode in ("RGB", "RGBA") else source.convert("RGBA"), mask


def read_references(folder: Path, names: Sequence[str]) -> list[Image.Image]:
    """Return the job's references.

    Raises Failure if one of them can't be read; the message contains its number.
    """
    references = []
    for number, name in enumerate(names, 1):
        try:
            references.append(picture.read_own(folder / name))
        except picture.Unreadable as error:
            raise Failure(
                Kind.SETUP,
                _(
                    "Reference picture {number} can't be read: {why}. Add it again and start "
                    "a new edit."
                ).format(number=number, why=error),
            ) from error
    return references
