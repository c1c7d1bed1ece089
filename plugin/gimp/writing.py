"""Write the pixels of a result to its layer in tiles, while the user may work on that layer.

GIMP accepts whole tiles without checking their format. If the image is converted after a tile was
read, the bytes of this tile are in the wrong format. The layer is therefore checked between tiles,
and gets its own pixels back if it was changed.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gi.repository import Babl, Gegl, Gimp

from plugin.gimp import pixels
from plugin.region import Box

_NONE = Gegl.AbyssPolicy.NONE
_RUN = 8
"""The maximum number of adjacent tiles that are written together."""
_TRIES = 4
"""How often to try to put pixels back into a layer that is converted again meanwhile."""


class Written(enum.Enum):
    """The outcome of writing a result."""

    WHOLE = enum.auto()
    NOTHING = enum.auto()
    """The layer has its own pixels, because it is not as it was when the result was prepared."""
    PART = enum.auto()
    """The layer was changed or deleted while the result was written."""


Part = tuple[Box, "bytes | None"]
"""The pixels that are written at once: several whole tiles, or a part of a single tile.

Whole tiles come with None, a part of a tile with its selection: one byte per pixel, or b"" if there
is no selection.
"""


class Inside(NamedTuple):
    """The pixels of a layer that an edit may change.

    These are the pixels of `box` that are selected, or all of them if `selection` is None. `at` is
    the position of `box` in the coordinates of the selection. With `colours_only`, their alpha
    stays.
    """

    box: Box
    selection: Gegl.Buffer | None
    at: Box
    colours_only: bool

    def of(self, new: bytes, now: bytes, selected: bytes, drawable: Gimp.Drawable) -> bytes:
        """Return the pixels of a strip: `new` where they may change, and `now` elsewhere.

        `selected` is what the method `selected` returns for the strip.
        """
        if self.colours_only and drawable.has_alpha():
            new = _with_alpha_of(new, now, drawable)
        return pixels.joined(new, now, selected) if b"\0" in selected else new

    def selected(self, strip: Box) -> bytes:
        """Return the selection in a strip, one byte per pixel, or b"" if there is no selection."""
        if self.selection is None:
            return b""
        return pixels.selected_part(self.selection, strip, self.box, self.at)


def profile(image: Gimp.Image) -> str:
    """Return a hash that identifies an image's colour profile, or "" if the image was closed."""
    found = image.get_effective_color_profile() if image.is_valid() else None
    return hashlib.sha256(found.get_icc_profile()).hexdigest() if found else ""


def write(
    drawable: Gimp.Drawable,
    new: Gegl.Buffer,
    inside: Inside,
    before: Gimp.Layer,
    made_for: str,
) -> Written:
    """Write the pixels of `new` that may change to the drawable.

    `new` has the drawable's own format. `before` is a copy of the drawable. `made_for` is the
    `profile` of the image for which `new` was made. A tile of which only a part is written is
    flushed immediately. What the user paints in the rest of this tile between its reading and its
    writing is lost.
    """
    image = before.get_image()
    if not is_alike(drawable, before) or profile(image) != made_for:
        return Written.NOTHING
    buffer, first = drawable.get_buffer(), _looks(drawable)
    # The format includes the colour space, so bytes in it are written without a conversion.
    own_format = Babl.get_name(drawable.get_format())
    keeps_alpha = inside.colours_only and drawable.has_alpha()
    written: list[Part] = []
    for part, selected in _parts(pixels.extent(before), inside):
        if _looks(drawable) != first:
            return take_back(drawable, before, inside, made_for, written)
        written.append((part, selected))
        if not keeps_alpha and b"\0" not in (selected or b""):
            pixels.copy(new, buffer, part)
        else:
            # A part of a tile is small enough for a single strip.
            for place in map(pixels.rectangle, pixels.strips(part, pixels.JOINED_PIXELS)):
                wanted = new.get(place, 1.0, own_format, _NONE)
                now = buffer.get(place, 1.0, own_format, _NONE)
                values = inside.of(wanted, now, selected or b"", drawable)
                buffer.set(place, own_format, values)
        buffer.flush()
    if _looks(drawable) != first:
        return take_back(drawable, before, inside, made_for, written)
    return Written.WHOLE


def take_back(
    drawable: Gimp.Drawable,
    before: Gimp.Layer,
    inside: Inside,
    made_for: str,
    written: Sequence[Part] | None = None,
) -> Written:
    """Give the drawable its own pixels back where `write` has written.

    The image may have been converted meanwhile. `written` contains the parts that were written;
    None stands for all parts that may have been written. The last of them is put back as a whole
    tile, because it may have been read before a conversion and written after it. Return NOTHING, or
    PART if the drawable was changed in a way that makes this impossible.
    """
    parts = list(_parts(pixels.extent(before), inside)) if written is None else written
    spoilt = {len(parts) - 1} if written else set()
    for _try in range(_TRIES):
        # GIMP converts this copy in the same way as it has converted the layer.
        image = before.get_image() if before.is_valid() else None
        own = Gimp.Layer.new_from_drawable(before, image) if image else None
        if own is None:
            return Written.PART
        try:
            if not _stands_in(own, before, drawable, made_for):
                return Written.PART
            failed = _restore(drawable, own.get_buffer(), parts, spoilt)
        finally:
            if before.is_valid():
                own.delete()
        if failed is None:
            return Written.NOTHING
        spoilt.add(failed)
    return Written.PART


def _stands_in(own: Gimp.Layer, before: Gimp.Layer, drawable: Gimp.Drawable, made_for: str) -> bool:
    """Return whether `own` has the pixels of `before` in the drawable's current format.

    `own` is a copy of `before` that GIMP has converted, unless only the colour profile differs.
    """
    encoding, former = (Babl.format_get_encoding(each.get_format()) for each in (own, before))
    same_profile = profile(own.get_image()) == made_for
    return _looks(own) == _looks(drawable) and (same_profile or encoding != former)


def _restore(
    drawable: Gimp.Drawable, own: Gegl.Buffer, parts: Sequence[Part], spoilt: set[int]
) -> int | None:
    """Write `own` to the drawable, by parts, and whole tiles for the parts in `spoilt`.

    Return the number of the part during which the drawable was converted again, or None.
    """
    buffer, first = drawable.get_buffer(), _looks(drawable)
    own_format = Babl.get_name(drawable.get_format())
    for number, (part, selected) in enumerate(parts):
        if _looks(drawable) != first:
            return max(0, number - 1)
        if number in spoilt:
            whole = _tiles_of(part).intersection(pixels.extent(drawable))
            pixels.copy(own, buffer, whole)
        elif selected is None or b"\0" not in selected:
            pixels.copy(own, buffer, part)
        else:
            place = pixels.rectangle(part)
            old = own.get(place, 1.0, own_format, _NONE)
            now = buffer.get(place, 1.0, own_format, _NONE)
            buffer.set(place, own_format, pixels.joined(old, now, selected))
        buffer.flush()
    return None if _looks(drawable) == first else len(parts) - 1


def is_alike(drawable: Gimp.Drawable, other: Gimp.Drawable) -> bool:
    """Return whether two drawables have the same format and size."""
    return _looks(drawable) == _looks(other)


def _looks(drawable: Gimp.Drawable) -> tuple[str, Box] | None:
    """Return the format and extent of a drawable, or None if it was deleted."""
    if not drawable.is_valid():
        return None
    return Babl.get_name(drawable.get_format()), pixels.extent(drawable)


def _parts(whole: Box, inside: Inside) -> Iterator[Part]:
    """Yield the parts that are written of a drawable, whose extent is `whole`."""
    for row in _tile_rows(inside.box):
        yield from _parts_of_row(whole, row, inside)


def _tile_rows(box: Box) -> Iterator[Box]:
    """Yield the part of `box` in each row of tiles of its drawable."""
    side = Gimp.tile_height()
    for top in range(box.y // side * side, box.bottom, side):
        yield Box(box.x, top, box.width, side).intersection(box)


def _tiles_of(box: Box) -> Box:
    """Return the box of all tiles that `box` touches."""
    wide, high = Gimp.tile_width(), Gimp.tile_height()
    left, top = box.x // wide * wide, box.y // high * high
    return Box(left, top, -(-box.right // wide) * wide - left, -(-box.bottom // high) * high - top)


def _parts_of_row(whole: Box, row: Box, inside: Inside) -> Iterator[Part]:
    """Yield the parts that are written of a row of tiles, up to _RUN whole tiles at once."""
    side = Gimp.tile_width()
    is_high = row.y % Gimp.tile_height() == 0 and (
        row.bottom % Gimp.tile_height() == 0 or row.bottom == whole.bottom
    )
    together = Box(row.x, row.y, 0, row.height)
    for left in range(row.x // side * side, row.right, side):
        tile = Box(left, row.y, side, row.height).intersection(row)
        is_wide = tile.x == left and (tile.width == side or tile.right == whole.right)
        selected = inside.selected(tile)
        is_whole = is_high and is_wide and b"\0" not in selected
        if together.width and not (is_whole and together.width < _RUN * side):
            yield together, None
            together = Box(tile.x, row.y, 0, row.height)
        if is_whole:
            begin = together.x if together.width else tile.x
            together = Box(begin, row.y, tile.right - begin, row.height)
        elif not selected or selected.strip(b"\0"):
            yield tile, selected
    if together.width:
        yield together, None


def fill_mask(mask: Gimp.LayerMask, inside: Inside) -> None:
    """Fill the layer mask with the selection in `inside.box`."""
    buffer = mask.get_buffer()
    for strip in pixels.strips(inside.box):
        buffer.set(pixels.rectangle(strip), "Y u8", inside.selected(strip))
    buffer.flush()


def is_written(
    drawable: Gimp.Drawable, new: Gegl.Buffer, before: Gegl.Buffer, inside: Inside
) -> bool:
    """Return whether the drawable contains the result, as `write` puts it there.

    `before` contains the pixels from before. The user may have changed some pixels since: a brush
    stroke that began before the result was written restores its surroundings when it ends. The
    result therefore counts as written unless more bytes are as before than as in the result.
    """
    buffer = drawable.get_buffer()
    own_format = Babl.get_name(drawable.get_format())

    def read(source: Gegl.Buffer, strip: Box) -> bytes:
        return bytes(source.get(pixels.rectangle(strip), 1.0, own_format, _NONE))

    parts = list(pixels.strips(inside.box, pixels.JOINED_PIXELS))
    # Usually, everything is new.
    if all(read(buffer, strip) == read(new, strip) for strip in parts):
        return True
    written = left = 0
    for strip in parts:
        now, old = read(buffer, strip), read(before, strip)
        wanted = inside.of(read(new, strip), old, inside.selected(strip), drawable)
        written += _count_alike(now, wanted)
        left += _count_alike(now, old)
    return left <= written


def _count_alike(one: bytes, other: bytes) -> int:
    """Return how many bytes are the same in both, which have the same length."""
    differences = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return differences.to_bytes(len(one), "little").count(0)


def _with_alpha_of(colours: bytes, alpha: bytes, drawable: Gimp.Drawable) -> bytes:
    """Return the pixels of `colours` with the alpha of `alpha`, both in the drawable's format."""
    size = drawable.get_bpp()
    channels = 4 if drawable.is_rgb() else 2
    mixed = bytearray(colours)
    for place in range(size - size // channels, size):
        mixed[place::size] = alpha[place::size]
    return bytes(mixed)
