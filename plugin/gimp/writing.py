"""Writing a result's pixels into its layer, in tiles, while the user works on that layer.

GIMP takes whole tiles, and takes them without looking: what was read before the image was converted
is bytes of another format by then. So the layer is looked at between the tiles, and has its own
pixels again if it is another one.
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
"""Tiles of a row that are written together."""
_TRIES = 4
"""How often pixels are put back into a layer that is converted again meanwhile."""


class Written(enum.Enum):
    """What became of a result."""

    WHOLE = enum.auto()
    NOTHING = enum.auto()
    """The layer is not what the result was made for, and has its own pixels."""
    PART = enum.auto()
    """The layer was changed or deleted meanwhile."""


Part = tuple[Box, "bytes | None"]
"""What is written at once: tiles that are written whole, with None; or a part of a single tile,
with what is selected of it."""


class Inside(NamedTuple):
    """The pixels of a layer that an edit may change.

    Those of `box` that are selected, by a selection that has them at `at`; all without a
    `selection`. `colours_only`: their alpha stays.
    """

    box: Box
    selection: Gegl.Buffer | None
    at: Box
    colours_only: bool

    def of(self, new: bytes, now: bytes, selected: bytes, drawable: Gimp.Drawable) -> bytes:
        """Return a strip's pixels: `new` ones where they may change, else as they are `now`.

        `selected` is what `selected` gives for it.
        """
        if self.colours_only and drawable.has_alpha():
            new = _with_alpha_of(new, now, drawable)
        return pixels.joined(new, now, selected) if b"\0" in selected else new

    def selected(self, strip: Box) -> bytes:
        """What is selected of a strip, a byte a pixel; nothing at all without a selection."""
        if self.selection is None:
            return b""
        return pixels.selected_part(self.selection, strip, self.box, self.at)


def profile(image: Gimp.Image) -> str:
    """What tells an image's colour profile from others, "" if the image was closed."""
    found = image.get_effective_color_profile() if image.is_valid() else None
    return hashlib.sha256(found.get_icc_profile()).hexdigest() if found else ""


def write(
    drawable: Gimp.Drawable,
    new: Gegl.Buffer,
    inside: Inside,
    before: Gimp.Layer,
    made_for: str,
) -> Written:
    """Write what may change of `new`, which is in the drawable's own format, into the drawable.

    `before` is a copy of the drawable, `made_for` the `profile` that its image had by then. A tile
    of which only a part is written goes back to GIMP at once: what the user paints into it between
    the moments in which it is read and written, beside what is selected, would be lost.
    """
    image = before.get_image()
    if not is_alike(drawable, before) or profile(image) != made_for:
        return Written.NOTHING
    buffer, first = drawable.get_buffer(), _looks(drawable)
    # Of the profile too: bytes written in a drawable's own format are not converted.
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
            # A part of a tile is a single strip.
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
    """Give the drawable its own pixels again where `write` has written something.

    Its image may have been converted. Of the last part that was `written` the whole tile is put
    back: it may have been read before that, and written after it. Without that list all is put back
    that may have been written. Returns NOTHING, or PART if the drawable is yet another one.
    """
    parts = list(_parts(pixels.extent(before), inside)) if written is None else written
    spoilt = {len(parts) - 1} if written else set()
    for _try in range(_TRIES):
        # GIMP converts a copy just as it has converted the layer.
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
    """Whether `own`, a copy of `before`, has what the drawable had, in its format of now.

    GIMP doesn't convert a copy to another profile alone.
    """
    encoding, former = (Babl.format_get_encoding(each.get_format()) for each in (own, before))
    same_profile = profile(own.get_image()) == made_for
    return _looks(own) == _looks(drawable) and (same_profile or encoding != former)


def _restore(
    drawable: Gimp.Drawable, own: Gegl.Buffer, parts: Sequence[Part], spoilt: set[int]
) -> int | None:
    """Write `own` into the drawable, by parts; the whole tiles of those that are `spoilt`.

    Returns the number of the part at which the drawable was converted once more, if it was.
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
    """Whether two drawables have the same format and size."""
    return _looks(drawable) == _looks(other)


def _looks(drawable: Gimp.Drawable) -> tuple[str, Box] | None:
    """A drawable's format and size; None if it is gone."""
    if not drawable.is_valid():
        return None
    return Babl.get_name(drawable.get_format()), pixels.extent(drawable)


def _parts(whole: Box, inside: Inside) -> Iterator[Part]:
    """Cut what is written of a drawable of that size into parts."""
    for row in _tile_rows(inside.box):
        yield from _parts_of_row(whole, row, inside)


def _tile_rows(box: Box) -> Iterator[Box]:
    """Cut `box` of a drawable into what its rows of tiles have of it."""
    side = Gimp.tile_height()
    for top in range(box.y // side * side, box.bottom, side):
        yield Box(box.x, top, box.width, side).intersection(box)


def _tiles_of(box: Box) -> Box:
    """All of the tiles that `box` touches."""
    wide, high = Gimp.tile_width(), Gimp.tile_height()
    left, top = box.x // wide * wide, box.y // high * high
    return Box(left, top, -(-box.right // wide) * wide - left, -(-box.bottom // high) * high - top)


def _parts_of_row(whole: Box, row: Box, inside: Inside) -> Iterator[Part]:
    """Yield what is written of a row of tiles, some that are written whole together."""
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
    """Fill the mask of a layer with what is selected in `inside.box`."""
    buffer = mask.get_buffer()
    for strip in pixels.strips(inside.box):
        buffer.set(pixels.rectangle(strip), "Y u8", inside.selected(strip))
    buffer.flush()


def is_written(
    drawable: Gimp.Drawable, new: Gegl.Buffer, before: Gegl.Buffer, inside: Inside
) -> bool:
    """Whether the drawable, which was as `before`, has what `write` makes of it.

    The user may have worked on it since. So it has, if more of it is new than as before: a stroke
    that was begun before the result came brings back what was around it.
    """
    buffer = drawable.get_buffer()
    own_format = Babl.get_name(drawable.get_format())

    def read(source: Gegl.Buffer, strip: Box) -> bytes:
        return bytes(source.get(pixels.rectangle(strip), 1.0, own_format, _NONE))

    parts = list(pixels.strips(inside.box, pixels.JOINED_PIXELS))
    # Mostly all is new.
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
    """How many bytes are the same in both, which are as long."""
    differences = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return differences.to_bytes(len(one), "little").count(0)


def _with_alpha_of(colours: bytes, alpha: bytes, drawable: Gimp.Drawable) -> bytes:
    """The pixels of `colours` with the alpha of `alpha`, both in the drawable's own format."""
    size = drawable.get_bpp()
    channels = 4 if drawable.is_rgb() else 2
    mixed = bytearray(colours)
    for place in range(size - size // channels, size):
        mixed[place::size] = alpha[place::size]
    return bytes(mixed)
