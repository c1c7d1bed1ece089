"""What goes up: source, mask and references as PNG, within the service's budget.

What gives way when the budget is short, in this order: references are scaled down to the tier,
PNGs are compressed harder, references and then the source are scaled down further. It is never
refused after a wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from plugin.limits import MOST_PICTURES
from plugin.region import Region
from plugin.words import _
from plugin.worker import picture
from plugin.worker.failure import Failure

PICTURE_BYTES = 20_000_000
TOTAL_BYTES = 31_500_000
"""A little below the proxy's 32 MB, for what is around the pictures."""
_SMALLEST_REFERENCE = 512
"""Pixels of the longer side below which a reference would tell the model too little."""
_JUST_UNDER = 0.97
"""Bytes don't shrink quite like pixels; aiming a little lower saves another round."""


@dataclass
class Upload:
    """The encoded pictures as (field, file name, PNG bytes), in the order that the model sees."""

    files: list[tuple[str, str, bytes]]
    source: Image.Image
    """What the service sees, RGB."""
    mask: Image.Image | None
    """The selection over it, L, 255 = edit."""
    inner: tuple[int, int, int, int]
    """Left, top, right, bottom of the real pixels in it; beyond lies repeated edge."""
    notes: list[str] = field(default_factory=list)

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) at which the source goes up; the answer is fitted by it."""
        return self.source.size


def build(
    region: Region,
    source: Image.Image,
    mask: Image.Image | None,
    references: Sequence[Image.Image],
    total: int = TOTAL_BYTES,
) -> Upload:
    """Encode what goes up for `region`, in at most `total` bytes.

    `source` has the pixels of `region.content`, `mask` (mode L, 255 = edit) the same size.
    Raises Failure if there are too many pictures.
    """
    count = 1 + (mask is not None) + len(references)
    if count > MOST_PICTURES:
        room = MOST_PICTURES - 1 - (mask is not None)
        raise Failure(
            Failure.SETUP,
            _(
                "The service takes at most {room} references with this edit, not {count}: "
                "take some off the list."
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
                    "The picture was too large for one upload and went up at "
                    "{width}×{height} pixels."
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
    """Return source and mask as they go up at `size`, and where in them the real pixels lie."""
    sent, inner = _at_size(flat, region, size)
    if mask is None:
        return [sent], inner
    return [sent, _both_ways(_mask_at_size(mask, size, inner))], inner


def _encoded(pictures: Sequence[Image.Image], hard: bool = False) -> list[bytes]:
    return [picture.png(p, hard) for p in pictures]


def _over(data: Sequence[bytes], total: int) -> float:
    """By which factor the budget is exceeded, at most 1 if it is kept."""
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
    """Scale the content and repeat its edge, so that the whole box of the region fills `size`."""
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
        raise Failure(Failure.SETUP, _("The selection is empty: select what is to be edited."))
    shown = (right - left, bottom - top)
    small = mask if mask.size == shown else mask.resize(shown, Image.Resampling.BOX)
    if _highest(small) < 128:
        # So faint, or a hairline that faded: to the model that would read as "keep everything".
        touched = (np.asarray(mask) > 0).astype(np.float32)
        share = cv2.resize(touched, shown, interpolation=cv2.INTER_AREA)
        small = Image.fromarray(((share > 0) * 255).astype(np.uint8))
    return _framed(small, size, inner, cv2.BORDER_CONSTANT)


def _highest(gray: Image.Image) -> int:
    return int(np.asarray(gray).max())


def _inner(region: Region, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where the content lies in a picture of `size` that shows the region's box."""
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
    """The mask as both customs have it: transparent and white where to edit."""
    keep = mask.point(lambda value: 255 - value)
    return Image.merge("RGBA", (mask, mask, mask, keep))


def read_source(folder: Path) -> tuple[Image.Image, Image.Image | None]:
    """Return the job's source (RGB or RGBA) and mask (L, or None). Raises Failure."""
    try:
        source = picture.read_own(folder / "source.png")
        mask = None
        if (folder / "mask.png").exists():
            mask = picture.read_own(folder / "mask.png").convert("L")
    except picture.Unreadable as error:
        raise Failure(
            Failure.SETUP,
            _("The job can't be sent ({why}): start the edit anew.").format(why=error),
        ) from error
    return source if source.mode in ("RGB", "RGBA") else source.convert("RGBA"), mask


def read_references(folder: Path, names: Sequence[str]) -> list[Image.Image]:
    """Return the job's references. Raises Failure naming the one that can't be read."""
    references = []
    for number, name in enumerate(names, 1):
        try:
            references.append(picture.read_own(folder / name))
        except picture.Unreadable as error:
            raise Failure(
                Failure.SETUP,
                _("Reference {number} can't be read: {why}. Start the edit anew.").format(
                    number=number, why=error
                ),
            ) from error
    return references
