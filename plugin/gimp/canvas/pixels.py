"""Convert pixels between GIMP's buffers and PNG files, and keep changes inside a selection.

A buffer is an object of GEGL, GIMP's image processor, that contains the pixels of a drawable in the
precision and colour space of its image. PNG files contain sRGB with 8 bits per channel.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from gi.repository import Gegl, Gimp

from plugin import quick_png
from plugin.region import Box

_NONE = Gegl.AbyssPolicy.NONE
_STRIP_PIXELS = 8_000_000
"""By default, a strip has at most this many pixels. It is held in memory as bytes."""
JOINED_PIXELS = 250_000
"""A strip for `joined` has at most this many pixels, so it fits into the processor's cache."""
_PIXELS_PER_COPY = 32
"""If a strip has at least this many pixels per box, each box is cleared by a call of its own.

If it has fewer, that is, more boxes, `joined` is faster. This was measured with 8-bit to float
formats.
"""
_NOT_SELECTED = re.compile(rb"\0+")
"""Matches a run of unselected pixels in a row of the selection, which has one byte per pixel."""
_ALL_OR_NOTHING = bytes([0]) + bytes([255]) * 255
"""The table for `bytes.translate` that keeps 0 and turns every other value into 255."""
_FORMATS = {1: "Y' u8", 3: "R'G'B' u8", 4: "R'G'B'A u8"}
"""The formats of the PNG files that GIMP and the worker exchange, by number of channels."""
SHARES = "Y float"
"""The format of buffers that contain the weight of each pixel, from 0 to 1."""
_BETWEEN = {3: "R'G'B' u16", 4: "R'G'B'A u16"}
"""The 16-bit formats for the first step of an 8-bit conversion, by the target's bytes per pixel."""


class Picture(NamedTuple):
    """The pixels of a layer or of the canvas, or of a box in it.

    Positions are in the coordinates of the layer or canvas. `alpha` says whether the pixels have an
    alpha channel.
    """

    buffer: Gegl.Buffer
    alpha: bool

    @property
    def channels(self) -> int:
        """The number of channels that the pixels have when they are converted to sRGB."""
        return 4 if self.alpha else 3


def picture(drawable: Gimp.Drawable) -> Picture:
    """Return the drawable's own pixels."""
    return Picture(drawable.get_buffer(), drawable.has_alpha())


def moved(shown: Picture, box: Box) -> Picture:
    """Return a picture of the same pixels, moved from the origin to `box`, without a copy."""
    buffer = Gegl.Buffer(
        source=shown.buffer,
        x=box.x,
        y=box.y,
        width=box.width,
        height=box.height,
        shift_x=-box.x,
        shift_y=-box.y,
    )
    return shown._replace(buffer=buffer)


def rectangle(box: Box) -> Gegl.Rectangle:
    """Convert the box to GEGL's type for rectangles."""
    return Gegl.Rectangle.new(box.x, box.y, box.width, box.height)


def extent(drawable: Gimp.Drawable) -> Box:
    """Return the box of the whole drawable, in its own coordinates."""
    return Box(0, 0, drawable.get_width(), drawable.get_height())


def covered(buffer: Gegl.Buffer) -> Box:
    """Return the box of all pixels in the buffer, in the buffer's own coordinates."""
    rectangle = buffer.get_extent()
    return Box(rectangle.x, rectangle.y, rectangle.width, rectangle.height)


def srgb(shown: Picture, box: Box) -> bytes:
    """Return the pixels of `box` as sRGB with 8 bits per channel.

    The pixels have alpha if the picture has alpha.
    """
    pixel_format = _FORMATS[shown.channels]
    part, buffer = rectangle(box), shown.buffer
    between = _between(buffer, Gegl.Buffer.new(pixel_format, 0, 0, 1, 1))
    if between:
        buffer = Gegl.Buffer.new(between, *astuple(box))
        shown.buffer.copy(part, _NONE, buffer, part)
    return bytes(buffer.get(part, 1.0, pixel_format, _NONE))


def _between(source: Gegl.Buffer, target: Gegl.Buffer) -> str:
    """Return the format for an intermediate copy of `source`, or "" if none is needed.

    A copy directly from `source` to `target` is slow if both have 8 bits per channel but different
    formats, unless alpha is removed: Babl, GEGL's library for conversions, then fills a table of
    all colours, which takes up to two seconds and 400 MB in each process. Babl needs no table if
    `source` is first copied to a buffer with 16 bits per channel, and from there to `target`.
    """
    size, wanted = source.get_property("px-size"), target.get_property("px-size")
    few_bits = size in _BETWEEN and wanted in _BETWEEN and size <= wanted
    alike = source.get_property("format") == target.get_property("format")
    return _BETWEEN[wanted] if few_bits and not alike else ""


def _convert(source: Gegl.Buffer, target: Gegl.Buffer) -> None:
    """Copy `source`, which contains a PNG, to the origin of `target`, in the format of `target`."""
    whole = covered(source)
    between = _between(source, target)
    for strip in strips(whole) if between else [whole]:
        part, read = rectangle(strip), source
        if between:
            read = Gegl.Buffer.new(between, *astuple(strip))
            source.copy(part, _NONE, read, part)
        read.copy(part, _NONE, target, part)


def write_png(shown: Picture, box: Box, path: Path) -> None:
    """Write the pixels of `box` to an sRGB PNG, which is not compressed.

    The worker compresses the picture before it is sent.
    """
    _write(path, box, lambda strip: srgb(shown, strip), shown.channels, 0)


def write_mask_png(selection: Gegl.Buffer, box: Box, path: Path) -> None:
    """Write the selection in `box` to a gray PNG, from 0 (not selected) to 255 (selected)."""
    # The values must not be converted. Writing them by way of a buffer in the format Y' would
    # convert them from linear light.
    _write(path, box, lambda strip: shares(selection, strip), 1, 1)


def _write(path: Path, box: Box, read: Callable[[Box], bytes], channels: int, level: int) -> None:
    values = map(read, strips(box, quick_png.STRIP_PIXELS))
    with path.open("wb") as file:
        file.writelines(quick_png.encoded((box.width, box.height), channels, values, level))


def read_png(path: Path) -> Gegl.Buffer:
    """Return a buffer that contains the unconverted pixels of a PNG, and begins at the origin."""
    width, height, channels = quick_png.header(path)
    read = Gegl.Buffer.new(_FORMATS[channels], 0, 0, width, height)
    graph = Gegl.Node()
    load = _node(graph, "gegl:png-load", path=str(path))
    write = _node(graph, "gegl:write-buffer", buffer=read)
    load.link(write)
    write.process()
    return read


def load_png(path: Path, target: Gegl.Buffer) -> None:
    """Copy the pixels of a PNG to the origin of `target`, in the format of `target`."""
    # Convert the pixels after loading. If GEGL converted them while loading, it would use another
    # conversion, and finding this conversion would take half a second.
    _convert(read_png(path), target)
    target.flush()


def png_size(path: Path) -> tuple[int, int]:
    """Return the (width, height) of a PNG, or (0, 0) if it can't be read."""
    try:
        return quick_png.header(path)[:2]
    except (OSError, ValueError):
        return 0, 0


def warm_up(pixel_format: str, blending: bool) -> None:
    """Make GEGL prepare the conversions from PNG pixels to `pixel_format`, which are fast later.

    With `blending`, also prepare `lay_over`. This takes up to half a second in each process.
    """
    one = Box(0, 0, 1, 1)
    target = Gegl.Buffer.new(pixel_format, *astuple(one))
    _node(Gegl.Node(), "gegl:png-load")
    opaque, see_through = (Gegl.Buffer.new(_FORMATS[each], *astuple(one)) for each in (3, 4))
    _convert(opaque, target)
    _convert(see_through, target)
    if blending:
        # Prepare `lay_over` only for opaque pictures. Transparent pictures are rare, and preparing
        # for them would take another 350 MB.
        shares = Gegl.Buffer.new(SHARES, *astuple(one))
        lay_over(target.dup(), opaque, shares, one, target)


def copy(source: Gegl.Buffer, target: Gegl.Buffer, box: Box) -> None:
    """Copy the pixels of `box` to the same position in `target`, in the format of `target`."""
    source.copy(rectangle(box), _NONE, target, rectangle(box))


def lay_over(
    below: Gegl.Buffer, top: Gegl.Buffer, shares: Gegl.Buffer, box: Box, target: Gegl.Buffer
) -> None:
    """Lay `top` over `below` at the position of `box`, and write the result to `target`.

    `shares` contains the weight of each pixel of `top`, in the format SHARES. The buffers `top` and
    `shares` begin at the origin.
    """
    graph = Gegl.Node()
    over = _node(graph, "gegl:over")
    _node(graph, "gegl:buffer-source", buffer=below).link(over)
    fade = _node(graph, "gegl:opacity")
    _node(graph, "gegl:buffer-source", buffer=top).link(fade)
    _node(graph, "gegl:buffer-source", buffer=shares).connect_to("output", fade, "aux")
    move = _node(graph, "gegl:translate", x=float(box.x), y=float(box.y))
    fade.link(move)
    move.connect_to("output", over, "aux")
    write = _node(graph, "gegl:write-buffer", buffer=target)
    over.link(write)
    write.process()
    target.flush()


def linear_gray(path: Path, box: Box) -> Gegl.Buffer:
    """Read a gray PNG, and return a buffer that contains its values as weights from 0 to 1.

    The values are not converted from sRGB to linear light. The PNG has the size of `box`. The
    buffer begins at the origin.
    """
    read = read_png(path)
    shares = Gegl.Buffer.new("Y u8", 0, 0, box.width, box.height)
    for strip in strips(Box(0, 0, box.width, box.height)):
        values = read.get(rectangle(strip), 1.0, "Y' u8", _NONE)
        shares.set(rectangle(strip), "Y u8", values)
    return shares


def multiply(buffer: Gegl.Buffer, shares: Gegl.Buffer) -> None:
    """Multiply a mask in `buffer` by the weights in `shares`, which has the same size, in place."""
    graph = Gegl.Node()
    product = _node(graph, "gegl:multiply")
    _node(graph, "gegl:buffer-source", buffer=buffer.dup()).link(product)
    _node(graph, "gegl:buffer-source", buffer=shares).connect_to("output", product, "aux")
    write = _node(graph, "gegl:write-buffer", buffer=buffer)
    product.link(write)
    write.process()


def _node(graph: Gegl.Node, operation: str, **properties: object) -> Gegl.Node:
    node = graph.create_child(operation)
    for name, value in properties.items():
        node.set_property(name, value)
    return node


def selected_bounds(selection: Gegl.Buffer, box: Box) -> Box:
    """Return the bounding box of the selected pixels in `box`.

    A pixel that is selected by less than half of 1/255 counts as not selected. In images with more
    than 8 bits per channel, such tiny values would otherwise extend a feathered selection very far.
    """
    left, top, right, bottom = box.right, box.bottom, box.x, box.y
    for strip in strips(box):
        values = shares(selection, strip)
        for row in range(strip.height):
            line = values[row * strip.width : (row + 1) * strip.width]
            kept = line.lstrip(b"\0")
            if kept:
                left = min(left, strip.right - len(kept))
                right = max(right, strip.x + len(line.rstrip(b"\0")))
                top = min(top, strip.y + row)
                bottom = strip.y + row + 1
    return Box(left, top, max(0, right - left), max(0, bottom - top))


def clear_outside(
    buffer: Gegl.Buffer, pixel_format: str, box: Box, selection: Gegl.Buffer, at: Box
) -> None:
    """Set the pixels of `box` that are not selected to 0.

    `pixel_format` is the format of the buffer. `at` is the same box as `box`, in the coordinates of
    the selection.
    """
    for strip in strips(box, JOINED_PIXELS):
        selected = selected_part(selection, strip, box, at)
        outside = _few(_boxes_outside(selected, strip), selected)
        if outside is not None:
            for part in map(rectangle, outside):
                buffer.clear(part)
            continue
        new = buffer.get(rectangle(strip), 1.0, pixel_format, _NONE)
        buffer.set(rectangle(strip), pixel_format, joined(new, bytes(len(new)), selected))


def selected_part(selection: Gegl.Buffer, strip: Box, box: Box, at: Box) -> bytes:
    """Return the selection in `strip`, which is a part of `box`, with one byte per pixel.

    `at` is the same box as `box`, in the coordinates of the selection.
    """
    return shares(selection, strip.moved(at.x - box.x, at.y - box.y))


def joined(inside: bytes, outside: bytes, selected: bytes) -> bytes:
    """Return the pixels of `inside` where `selected` is not 0, and those of `outside` elsewhere.

    `selected` has one byte per pixel. `inside` and `outside` have the same format.
    """
    each = len(inside) // len(selected)
    shares = selected.translate(_ALL_OR_NOTHING)
    mask = bytearray(len(inside))
    for number in range(each):
        mask[number::each] = shares
    # Treat each of the three as a single long number, because a loop over the bytes would be slow.
    chosen, new, old = (int.from_bytes(part, "little") for part in (mask, inside, outside))
    return (old ^ ((old ^ new) & chosen)).to_bytes(len(inside), "little")


def any_in(read: Callable[[Box], bytes], box: Box) -> bool:
    """Return whether any pixel in `box` is not 0.

    `read` returns the pixels of a strip, with one byte per pixel.
    """
    return any(read(strip).strip(b"\0") for strip in strips(box, JOINED_PIXELS))


def any_selected(read: Callable[[Box], bytes], box: Box, selection: Gegl.Buffer, at: Box) -> bool:
    """Return whether any selected pixel in `box` is not 0.

    `read` returns the pixels of a strip, with one byte per pixel. `at` is the same box as `box`, in
    the coordinates of the selection.
    """

    def chosen(strip: Box) -> bytes:
        values = read(strip)
        return joined(values, bytes(len(values)), selected_part(selection, strip, box, at))

    return any_in(chosen, box)


def alpha(shown: Picture, box: Box) -> bytes:
    """Return the alpha of `box`, one byte per pixel. The picture must have an alpha channel."""
    return srgb(shown, box)[3::4]


def shares(mask: Gegl.Buffer, box: Box) -> bytes:
    """Return the values of a mask or a selection in `box`, with one byte per pixel."""
    return bytes(mask.get(rectangle(box), 1.0, "Y u8", _NONE))


def _few(boxes: Iterator[Box], selected: bytes) -> list[Box] | None:
    """Return the boxes as a list, or None if there are too many to clear each box by a call.

    A selection by colour can leave many small speckles. A call for each speckle would take seconds.
    `selected` is the selection in the strip that contains the boxes, with one byte per pixel.
    """
    most = len(selected) // _PIXELS_PER_COPY
    few = list(itertools.islice(boxes, most + 1))
    return few if len(few) <= most else None


def _boxes_outside(selected: bytes, strip: Box) -> Iterator[Box]:
    """Yield boxes that together cover exactly the unselected pixels of `strip`.

    If adjacent rows have the same selection, the boxes extend over these rows.
    """
    row = 0
    while row < strip.height:
        line = selected[row * strip.width : (row + 1) * strip.width]
        alike = row + 1
        while (
            alike < strip.height
            and selected[alike * strip.width : (alike + 1) * strip.width] == line
        ):
            alike += 1
        for found in _NOT_SELECTED.finditer(line):
            left, right = found.span()
            yield Box(strip.x + left, strip.y + row, right - left, alike - row)
        row = alike


def strips(box: Box, pixels: int = _STRIP_PIXELS) -> Iterator[Box]:
    """Divide `box` into strips from top to bottom, and yield the box of each strip.

    A strip is as wide as `box`. It has at most `pixels` pixels, but at least one row. Callers read
    one strip after the other, which limits how many pixels are in memory as bytes at once.
    """
    rows = max(1, pixels // max(1, box.width))
    for y in range(box.y, box.bottom, rows):
        yield Box(box.x, y, box.width, min(rows, box.bottom - y))
