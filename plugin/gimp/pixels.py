"""Convert pixels between GIMP's buffers and PNG files, and handle what a selection leaves out.

Buffers keep their own precision and colour space. PNG files contain sRGB with 8 bits per channel.
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
JOINED_PIXELS = 250_000
"""A number of pixels whose bytes fit into the processor's cache."""
_PIXELS_PER_COPY = 32
"""The pixels per box below which joining bytes is faster than a call for each box.

It was measured with formats from u8 to float.
"""
_NOT_SELECTED = re.compile(rb"\0+")
"""A run of unselected pixels in a row of one byte per pixel."""
_ALL_OR_NOTHING = bytes([0]) + bytes([255]) * 255
_FORMATS = {1: "Y' u8", 3: "R'G'B' u8", 4: "R'G'B'A u8"}
"""The formats of the PNG files that GIMP and the worker exchange, by number of channels."""
SHARES = "Y float"
"""The format of buffers that contain the weight of each pixel, from 0 to 1."""
_BETWEEN = {3: "R'G'B' u16", 4: "R'G'B'A u16"}
"""The intermediate formats for converting pixels with 8 bits per channel, by bytes per pixel."""


class Picture(NamedTuple):
    """The pixels of a layer or the canvas, or of a part of it, in its coordinates.

    `alpha` is true if they have an alpha channel.
    """

    buffer: Gegl.Buffer
    alpha: bool

    @property
    def channels(self) -> int:
        """The number of channels of the pixels in sRGB."""
        return 4 if self.alpha else 3


def picture(drawable: Gimp.Drawable) -> Picture:
    """Return the drawable's own pixels."""
    return Picture(drawable.get_buffer(), drawable.has_alpha())


def moved(shown: Picture, box: Box) -> Picture:
    """Return the same pixels, moved from the origin to `box`. They are not copied."""
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
    """Return the box as a rectangle of GEGL."""
    return Gegl.Rectangle.new(box.x, box.y, box.width, box.height)


def extent(drawable: Gimp.Drawable) -> Box:
    """Return the box of the whole drawable, in its own coordinates."""
    return Box(0, 0, drawable.get_width(), drawable.get_height())


def covered(buffer: Gegl.Buffer) -> Box:
    """Return the box that the buffer contains, in its own coordinates."""
    rectangle = buffer.get_extent()
    return Box(rectangle.x, rectangle.y, rectangle.width, rectangle.height)


def srgb(shown: Picture, box: Box) -> bytes:
    """Return the pixels of `box` as sRGB with 8 bits per channel, and with alpha if present."""
    pixel_format = _FORMATS[shown.channels]
    part, buffer = rectangle(box), shown.buffer
    between = _between(buffer, Gegl.Buffer.new(pixel_format, 0, 0, 1, 1))
    if between:
        buffer = Gegl.Buffer.new(between, *astuple(box))
        shown.buffer.copy(part, _NONE, buffer, part)
    return bytes(buffer.get(part, 1.0, pixel_format, _NONE))


def _between(source: Gegl.Buffer, target: Gegl.Buffer) -> str:
    """Return the intermediate format that speeds up copying `source` to `target`, or "" if none.

    To convert 8 bits to 8 bits, when the colour space differs or an alpha channel is added, Babl
    fills a table of all colours. This takes up to two seconds and 400 MB in each process. With more
    bits in between, no table is needed.
    """
    size, wanted = source.get_property("px-size"), target.get_property("px-size")
    few_bits = size in _BETWEEN and wanted in _BETWEEN and size <= wanted
    alike = source.get_property("format") == target.get_property("format")
    return _BETWEEN[wanted] if few_bits and not alike else ""


def _convert(source: Gegl.Buffer, target: Gegl.Buffer) -> None:
    """Copy all pixels of a PNG's buffer to the origin of `target`, in the format of `target`."""
    whole = covered(source)
    between = _between(source, target)
    for strip in strips(whole) if between else [whole]:
        part, read = rectangle(strip), source
        if between:
            read = Gegl.Buffer.new(between, *astuple(strip))
            source.copy(part, _NONE, read, part)
        read.copy(part, _NONE, target, part)


def write_png(shown: Picture, box: Box, path: Path) -> None:
    """Write the pixels of `box` to an sRGB PNG.

    The file is not compressed. The worker makes it smaller before sending it.
    """
    _write(path, box, lambda strip: srgb(shown, strip), shown.channels, 0)


def write_mask_png(selection: Gegl.Buffer, box: Box, path: Path) -> None:
    """Write the selection in `box` to a gray PNG, in which 255 is selected."""
    # The values must not be converted. In a buffer with Y' they would be treated as lightness.
    _write(path, box, lambda strip: shares(selection, strip), 1, 1)


def _write(path: Path, box: Box, read: Callable[[Box], bytes], channels: int, level: int) -> None:
    values = map(read, strips(box, quick_png.STRIP_PIXELS))
    with path.open("wb") as file:
        file.writelines(quick_png.encoded((box.width, box.height), channels, values, level))


def read_png(path: Path) -> Gegl.Buffer:
    """Return the pixels of a PNG without converting them, in a buffer that begins at the origin."""
    width, height, channels = quick_png.header(path)
    read = Gegl.Buffer.new(_FORMATS[channels], 0, 0, width, height)
    graph = Gegl.Node()
    load = _node(graph, "gegl:png-load", path=str(path))
    write = _node(graph, "gegl:write-buffer", buffer=read)
    load.link(write)
    write.process()
    return read


def load_png(path: Path, target: Gegl.Buffer) -> None:
    """Write the pixels of a PNG to the origin of `target`, in the format of `target`."""
    # Convert the pixels here. The graph of GEGL would use another conversion, which takes it half a
    # second to find.
    _convert(read_png(path), target)
    target.flush()


def png_size(path: Path) -> tuple[int, int]:
    """Return the (width, height) of a PNG, or (0, 0) if it can't be read."""
    try:
        return quick_png.header(path)[:2]
    except (OSError, ValueError):
        return 0, 0


def get_ready(pixel_format: str, blending: bool) -> None:
    """Let GEGL find the conversions from PNG pixels to `pixel_format`.

    With `blending`, also prepare `lay_over`. This takes up to half a second, once in each process.
    """
    one = Box(0, 0, 1, 1)
    target = Gegl.Buffer.new(pixel_format, *astuple(one))
    _node(Gegl.Node(), "gegl:png-load")
    opaque, see_through = (Gegl.Buffer.new(_FORMATS[each], *astuple(one)) for each in (3, 4))
    _convert(opaque, target)
    _convert(see_through, target)
    if blending:
        # Only opaque pictures are laid over here. Transparent ones are rare, and GEGL would need
        # another 350 MB for them.
        shares = Gegl.Buffer.new(SHARES, *astuple(one))
        lay_over(target.dup(), opaque, shares, one, target)


def copy(source: Gegl.Buffer, target: Gegl.Buffer, box: Box) -> None:
    """Copy the pixels of `box` to the same place in `target`, in the format of `target`."""
    source.copy(rectangle(box), _NONE, target, rectangle(box))


def lay_over(
    below: Gegl.Buffer, top: Gegl.Buffer, shares: Gegl.Buffer, box: Box, target: Gegl.Buffer
) -> None:
    """Lay `top` over `below` at `box`, and write the result to `target`.

    `shares` contains the weight of each pixel of `top`, in the format SHARES. `top` and `shares`
    begin at the origin.
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
    """Return the values of a gray PNG as shares from 0 to 1, without converting them.

    The PNG has the size of `box`. The buffer begins at the origin.
    """
    read = read_png(path)
    shares = Gegl.Buffer.new("Y u8", 0, 0, box.width, box.height)
    for strip in strips(Box(0, 0, box.width, box.height)):
        values = read.get(rectangle(strip), 1.0, "Y' u8", _NONE)
        shares.set(rectangle(strip), "Y u8", values)
    return shares


def multiply(buffer: Gegl.Buffer, shares: Gegl.Buffer) -> None:
    """Multiply the buffer of a mask in place by shares of the same size."""
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
    """Return the bounding box of the pixels in `box` that are selected by at least half of 1/255.

    In deep images, a feathered selection never ends. What is selected by less counts as outside.
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

    `pixel_format` is the buffer's own. `at` is the box of the same size in the coordinates of the
    selection.
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
    """Return the selection in a strip of `box`, one byte per pixel.

    `at` is the position of `box` in the coordinates of the selection.
    """
    return shares(selection, strip.moved(at.x - box.x, at.y - box.y))


def joined(inside: bytes, outside: bytes, selected: bytes) -> bytes:
    """Return the pixels of `inside` where `selected` is not 0, and those of `outside` elsewhere.

    `selected` has one byte per pixel. The other two have the same format.
    """
    each = len(inside) // len(selected)
    shares = selected.translate(_ALL_OR_NOTHING)
    mask = bytearray(len(inside))
    for number in range(each):
        mask[number::each] = shares
    # Treat each as a single long number: there is no other fast way in Python alone.
    chosen, new, old = (int.from_bytes(part, "little") for part in (mask, inside, outside))
    return (old ^ ((old ^ new) & chosen)).to_bytes(len(inside), "little")


def any_in(read: Callable[[Box], bytes], box: Box) -> bool:
    """Return whether any pixel in `box` is not 0. `read` returns one byte per pixel."""
    return any(read(strip).strip(b"\0") for strip in strips(box, JOINED_PIXELS))


def any_selected(read: Callable[[Box], bytes], box: Box, selection: Gegl.Buffer, at: Box) -> bool:
    """Return whether any selected pixel in `box` is not 0, as read by `read`.

    `at` is the position of `box` in the coordinates of the selection.
    """

    def chosen(strip: Box) -> bytes:
        values = read(strip)
        return joined(values, bytes(len(values)), selected_part(selection, strip, box, at))

    return any_in(chosen, box)


def alpha(shown: Picture, box: Box) -> bytes:
    """Return the alpha of `box`, one byte per pixel. The picture must have an alpha channel."""
    return srgb(shown, box)[3::4]


def shares(mask: Gegl.Buffer, box: Box) -> bytes:
    """Return the values of a mask or a selection in `box`, one byte per pixel."""
    return bytes(mask.get(rectangle(box), 1.0, "Y u8", _NONE))


def _few(boxes: Iterator[Box], selected: bytes) -> list[Box] | None:
    """Return the boxes of a strip, or None if there are too many to handle each on its own.

    A selection by colour can leave many small speckles. A call for each of them would take seconds.
    """
    most = len(selected) // _PIXELS_PER_COPY
    few = list(itertools.islice(boxes, most + 1))
    return few if len(few) <= most else None


def _boxes_outside(selected: bytes, strip: Box) -> Iterator[Box]:
    """Yield boxes that cover the unselected pixels. Equal adjacent rows share their boxes."""
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
    """Cut `box` into strips of whole rows, with about `pixels` pixels at most.

    This limits how much is held in memory as bytes at once.
    """
    rows = max(1, pixels // max(1, box.width))
    for y in range(box.y, box.bottom, rows):
        yield Box(box.x, y, box.width, min(rows, box.bottom - y))
