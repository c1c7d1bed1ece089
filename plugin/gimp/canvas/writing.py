"""Write the pixels of a result into an existing layer, while the user may work on that layer.

GIMP stores the pixels of a layer in square tiles, and accepts whole tiles from a plug-in without
checking their format. If the user converts the image after this process has read a tile, the bytes
of this tile have the wrong format. This module therefore checks the layer between tiles. If the
layer was converted or resized, the module restores the layer's original pixels.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gi.repository import Babl, Gegl, Gimp

from plugin.gimp.canvas import pixels
from plugin.region import Box

_NONE = Gegl.AbyssPolicy.NONE
_RUN = 8
"""At most this many adjacent tiles are written together."""
_TRIES = 4
"""How often to try to restore the pixels of a layer that the user converts again meanwhile."""


class Written(enum.Enum):
    """The outcome of writing a result."""

    WHOLE = enum.auto()
    """The layer contains the whole result."""
    NOTHING = enum.auto()
    """The layer has its original pixels: the user has converted, resized, locked or deleted it."""
    PART = enum.auto()
    """The layer was changed or deleted meanwhile, and may contain a part of the result."""


Part = tuple[Box, "bytes | None"]
"""The box of pixels that are written in one step, and the selection in this box.

The box contains either one or more whole tiles, or only some pixels of a single tile. For whole
tiles, the selection is None. For a single tile, the selection has one byte per pixel, or is b"" if
the edit has no selection.
"""


class Inside(NamedTuple):
    """The pixels of a layer that an edit is allowed to change.

    These are the selected pixels in `box`, or all pixels in `box` if `selection` is None. `at` is
    the same box as `box`, in the coordinates of the selection. If `colours_only` is true, the edit
    must not change the alpha of the pixels.
    """

    box: Box
    selection: Gegl.Buffer | None
    at: Box
    colours_only: bool

    def of(self, new: bytes, now: bytes, selected: bytes, drawable: Gimp.Drawable) -> bytes:
        """Return the pixels of a strip: `new` where the edit is allowed to change them, else `now`.

        `selected` is the value that the method `selected` returns for the strip.
        """
        if self.colours_only and drawable.has_alpha():
            new = _with_alpha_of(new, now, drawable)
        return pixels.joined(new, now, selected) if b"\0" in selected else new

    def selected(self, strip: Box) -> bytes:
        """Return the selection in a strip, one byte per pixel, or b"" if `selection` is None."""
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
    """Write the pixels of `new` to the drawable, where `inside` allows changes.

    `new` has the format of the drawable. `before` is a copy of the drawable. `made_for` is the
    `profile` of the image for which `new` was made. To change only some pixels of a tile, this
    process must read the tile and send it back as a whole. If the user paints into the tile between
    these two steps, the paint is lost. Each tile is therefore sent back immediately.
    """
    image = before.get_image()
    if not is_alike(drawable, before) or profile(image) != made_for:
        return Written.NOTHING
    buffer, first = drawable.get_buffer(), _looks(drawable)
    # This name of the format includes the colour space, so that GEGL writes bytes unconverted.
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
            # Only whole tiles can need several strips, for which `selected` is None. For a single
            # tile, the one strip has the same pixels as `selected`.
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
    """Restore the drawable's original pixels, which are in `before`, where `write` has written.

    `written` contains the parts that `write` has written. It is None if they are unknown; all parts
    are restored then. The user may have converted the image meanwhile. Of the last part in
    `written`, whole tiles are restored, because they may have been read before the conversion and
    written after it. Return NOTHING after a success. Return PART if the pixels can't be restored,
    for example because the drawable was resized or deleted.
    """
    parts = list(_parts(pixels.extent(before), inside)) if written is None else written
    spoilt = {len(parts) - 1} if written else set()
    for _try in range(_TRIES):
        # GIMP converts this copy to the current format of the image, as it has converted the layer.
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
    """Return whether `own` can be written to the drawable to restore the pixels of `before`.

    `own` is a copy of `before` in the current format of the image. It must have the same format and
    size as the drawable. If the colour profile of the image has changed since, GIMP must also have
    converted the pixels of `own`, which shows in a different encoding (such as u8 or float).
    """
    encoding, former = (Babl.format_get_encoding(each.get_format()) for each in (own, before))
    same_profile = profile(own.get_image()) == made_for
    return _looks(own) == _looks(drawable) and (same_profile or encoding != former)


def _restore(
    drawable: Gimp.Drawable, own: Gegl.Buffer, parts: Sequence[Part], spoilt: set[int]
) -> int | None:
    """Write the pixels of `own` to the drawable, one part after the other.

    `spoilt` contains the numbers of the parts of which whole tiles are written. If the drawable is
    converted or resized meanwhile, return the number of the part that was being written, otherwise
    None.
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
    """Yield the parts that `write` writes. `whole` is the extent of the drawable."""
    for row in _tile_rows(inside.box):
        yield from _parts_of_row(whole, row, inside)


def _tile_rows(box: Box) -> Iterator[Box]:
    """Cut `box` at the edges of the rows of tiles, and yield the pieces from top to bottom."""
    side = Gimp.tile_height()
    for top in range(box.y // side * side, box.bottom, side):
        yield Box(box.x, top, box.width, side).intersection(box)


def _tiles_of(box: Box) -> Box:
    """Return the smallest box of whole tiles that contains `box`."""
    wide, high = Gimp.tile_width(), Gimp.tile_height()
    left, top = box.x // wide * wide, box.y // high * high
    return Box(left, top, -(-box.right // wide) * wide - left, -(-box.bottom // high) * high - top)


def _parts_of_row(whole: Box, row: Box, inside: Inside) -> Iterator[Part]:
    """Yield the parts of one row of tiles, with up to _RUN adjacent whole tiles in one part.

    `row` is the box of pixels to write in this row, and `whole` is the extent of the drawable.
    Tiles without any selected pixel are left out.
    """
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
    """Write the selection in `inside.box` to the same box of the layer mask."""
    buffer = mask.get_buffer()
    for strip in pixels.strips(inside.box):
        buffer.set(pixels.rectangle(strip), "Y u8", inside.selected(strip))
    buffer.flush()


def is_written(
    drawable: Gimp.Drawable, new: Gegl.Buffer, before: Gegl.Buffer, inside: Inside
) -> bool:
    """Return whether the drawable contains the result that `write` should have written.

    `new` contains the result, `before` the original pixels. The user may have changed some pixels
    since. For example, if a brush stroke began before the result was written, GIMP restores the
    original pixels around the stroke when it ends. The result therefore counts as written unless
    more bytes of the drawable are equal to the original than to the result.
    """
    buffer = drawable.get_buffer()
    own_format = Babl.get_name(drawable.get_format())

    def read(source: Gegl.Buffer, strip: Box) -> bytes:
        return bytes(source.get(pixels.rectangle(strip), 1.0, own_format, _NONE))

    parts = list(pixels.strips(inside.box, pixels.JOINED_PIXELS))
    # Usually, all pixels of the drawable are equal to the result.
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
    """Return the number of positions with equal bytes. Both values have the same length."""
    differences = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return differences.to_bytes(len(one), "little").count(0)


def _with_alpha_of(colours: bytes, alpha: bytes, drawable: Gimp.Drawable) -> bytes:
    """Return the pixels of `colours` with the alpha values of the pixels of `alpha`.

    Both have the format of the drawable.
    """
    size = drawable.get_bpp()
    channels = 4 if drawable.is_rgb() else 2
    mixed = bytearray(colours)
    for place in range(size - size // channels, size):
        mixed[place::size] = alpha[place::size]
    return bytes(mixed)
