"""Encode the pictures of a job as PNGs that fit the service's size limits.

The pictures are the source (the pixels to edit), the mask (which marks where to edit) and the
references (other pictures that help the model). A reference whose longer side is longer than the
answer's longer side is always scaled down to the answer's longer side.

If the PNGs exceed a limit, all of them are compressed harder. If that isn't enough, the references
are scaled down further, and last the source and the mask. But if the source and the mask alone
exceed a limit, they are scaled down first. So the service refuses no edit for its size after a long
upload.
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
from plugin.worker.pictures import colours, formats, png_files
from plugin.worker.service import mask_to_send

_SMALLEST_REFERENCE = 512
"""The longer side of a reference is never scaled down to fewer pixels than this, because a smaller
reference would be of little use to the model."""
_JUST_UNDER = 0.97
"""A factor that makes pictures slightly smaller than calculated. Otherwise the PNGs would often
still be too large, because the bytes don't shrink exactly in proportion to the pixels."""


@dataclass
class Upload:
    """The pictures of a job, scaled and encoded for the request."""

    files: list[tuple[str, str, bytes]]
    """The (form field, file name, PNG bytes) of each picture. The pictures are in the order in
    which the model sees them."""
    source: Image.Image
    """The source as it is sent, in mode RGB."""
    mask: Image.Image | None
    """The mask as it is sent, or None if the job has no mask. The mask has the size of `source` and
    mode L. The value 255 means that the pixel is to be edited."""
    inner: tuple[int, int, int, int]
    """The (left, top, right, bottom), in pixels, of the rectangle in `source` that shows the
    region's content. All pixels outside this rectangle only repeat the edge of the content."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user, for example that the source was scaled down."""

    @property
    def source_size(self) -> tuple[int, int]:
        """The (width, height) of the source as it is sent, with which the answer is compared."""
        return self.source.size


def build(
    region: Region,
    source: Image.Image,
    mask: Image.Image | None,
    references: Sequence[Image.Image],
    total: int = TOTAL_BYTES,
) -> Upload:
    """Scale and encode the pictures of a job. All PNGs together have at most `total` bytes.

    `source` contains the pixels of `region.content`. `mask` has the size of `source` and mode L;
    the value 255 means that the pixel is to be edited. Raises Failure if there are more pictures
    than the service accepts, or if all pixels of the mask are 0.
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
    flat = colours.on_white(source)
    size = region.upload
    own, inner = _own_pictures(flat, mask, region, size)
    others = [_within(colours.on_white(reference), max(region.answer)) for reference in references]
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
    """Return the pictures to send, at the (width, height) `size`, and the value of `Upload.inner`.

    The pictures are the source and, if `mask` is not None, the mask. `flat` is the source on a
    white background.
    """
    sent, inner = _at_size(flat, region, size)
    if mask is None:
        return [sent], inner
    return [sent, mask_to_send.made(mask, size, inner)], inner


def _encoded(pictures: Sequence[Image.Image], hard: bool = False) -> list[bytes]:
    return [png_files.encoded(p, hard) for p in pictures]


def _over(data: Sequence[bytes], total: int) -> float:
    """Return the size of the PNGs in `data` divided by the limit. A value up to 1 means they fit.

    There are two limits: PICTURE_BYTES for each PNG, and `total` bytes for all PNGs together. The
    larger of the two quotients is returned.
    """
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
    """Scale the source, and extend it to the (width, height) `size` by repeating its edge pixels.

    The returned picture shows the whole `region.box`. Also return the (left, top, right, bottom) of
    the source in this picture.
    """
    inner = _inner(region, size)
    left, top, right, bottom = inner
    if source.size != (right - left, bottom - top):
        source = source.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    if source.size == size:
        return source, inner
    left, top, right, bottom = inner
    edges = top, size[1] - bottom, left, size[0] - right
    framed = cv2.copyMakeBorder(np.asarray(source), *edges, cv2.BORDER_REPLICATE)
    return Image.fromarray(framed), inner


def _inner(region: Region, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the (left, top, right, bottom) of `region.content` in a picture of `region.box`.

    All four are in pixels of this picture, which has the (width, height) `size`.
    """
    across, down = size[0] / region.box.width, size[1] / region.box.height
    left = min(round((region.content.x - region.box.x) * across), size[0] - 1)
    top = min(round((region.content.y - region.box.y) * down), size[1] - 1)
    right = max(left + 1, round((region.content.right - region.box.x) * across))
    bottom = max(top + 1, round((region.content.bottom - region.box.y) * down))
    return left, top, min(right, size[0]), min(bottom, size[1])


def read_source(folder: Path) -> tuple[Image.Image, Image.Image | None]:
    """Return the source and the mask in the job folder `folder`.

    The source has mode RGB or RGBA. The mask has mode L, or is None if the job has no mask. Raises
    Failure if the source is missing, or if one of the files is damaged.
    """
    try:
        source = png_files.read(folder / "source.png")
        mask = None
        if (folder / "mask.png").exists():
            mask = png_files.read(folder / "mask.png").convert("L")
    except formats.Unreadable as error:
        raise Failure(
            Kind.SETUP,
            _("The edit can't be sent ({why}). Start a new edit.").format(why=error),
        ) from error
    return source if source.mode in ("RGB", "RGBA") else source.convert("RGBA"), mask


def read_references(folder: Path, names: Sequence[str]) -> list[Image.Image]:
    """Return the references with the file names `names` in the job folder `folder`.

    Raises Failure if a reference can't be read. The message contains the number of this reference.
    """
    references = []
    for number, name in enumerate(names, 1):
        try:
            references.append(png_files.read(folder / name))
        except formats.Unreadable as error:
            raise Failure(
                Kind.SETUP,
                _(
                    "Reference picture {number} can't be read: {why}. Add it again and start "
                    "a new edit."
                ).format(number=number, why=error),
            ) from error
    return references
