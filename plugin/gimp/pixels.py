"""Pixels between GIMP's buffers and PNG files, and which of them a selection leaves out.

Buffers keep their own precision and colour space; what goes to a PNG is converted to sRGB, 8 bits.
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
"""Few enough to stay in the processor's cache, as bytes."""
_PIXELS_PER_COPY = 32
"""From so few pixels a copy on, joining bytes is faster: measured from u8 to float."""
_NOT_SELECTED = re.compile(rb"\0+")
"""A run of pixels in a row, by what is selected of each."""
_ALL_OR_NOTHING = bytes([0]) + bytes([255]) * 255
_FORMATS = {1: "Y' u8", 3: "R'G'B' u8", 4: "R'G'B'A u8"}
"""What is in our PNGs, by their channels."""
SHARES = "Y float"
"""How much of each pixel counts, 0 to 1."""
_BETWEEN = {3: "R'G'B' u16", 4: "R'G'B'A u16"}
"""By the bytes of a pixel of 8 bits: what it comes through into another colour space."""


class Picture(NamedTuple):
    """Pixels in the coordinates of their layer or canvas, of all of it or of a part.

    `alpha`: whether they have any.
    """

    buffer: Gegl.Buffer
    alpha: bool

    @property
    def channels(self) -> int:
        """How many they have as sRGB."""
        return 4 if self.alpha else 3


def picture(drawable: Gimp.Drawable) -> Picture:
    """The drawable's own pixels."""
    return Picture(drawable.get_buffer(), drawable.has_alpha())


def moved(shown: Picture, box: Box) -> Picture:
    """The same pixels, which begin at the origin, where `box` is. Nothing is copied."""
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
    """The same box for GEGL."""
    return Gegl.Rectangle.new(box.x, box.y, box.width, box.height)


def extent(drawable: Gimp.Drawable) -> Box:
    """The whole drawable, in its own coordinates."""
    return Box(0, 0, drawable.get_width(), drawable.get_height())


def covered(buffer: Gegl.Buffer) -> Box:
    """What the buffer holds, in its own coordinates."""
    rectangle = buffer.get_extent()
    return Box(rectangle.x, rectangle.y, rectangle.width, rectangle.height)


def srgb(shown: Picture, box: Box) -> bytes:
    """The pixels of `box` as sRGB of 8 bits, with alpha if they have any."""
    pixel_format = _FORMATS[shown.channels]
    part, buffer = rectangle(box), shown.buffer
    between = _between(buffer, Gegl.Buffer.new(pixel_format, 0, 0, 1, 1))
    if between:
        buffer = Gegl.Buffer.new(between, *astuple(box))
        shown.buffer.copy(part, _NONE, buffer, part)
    return bytes(buffer.get(part, 1.0, pixel_format, _NONE))


def _between(source: Gegl.Buffer, target: Gegl.Buffer) -> str:
    """Return the format through which pixels get faster from `source` to `target`, "" if none.

    To convert 8 bits to 8 bits, of another colour space or with an alpha channel added, Babl fills
    a table of all colours. That takes up to two seconds and 400 MB in each process; with more bits
    between it needs none.
    """
    size, wanted = source.get_property("px-size"), target.get_property("px-size")
    few_bits = size in _BETWEEN and wanted in _BETWEEN and size <= wanted
    alike = source.get_property("format") == target.get_property("format")
    return _BETWEEN[wanted] if few_bits and not alike else ""


def _convert(source: Gegl.Buffer, target: Gegl.Buffer) -> None:
    """Copy all pixels of a PNG's buffer into `target`, from its origin, in its own format."""
    whole = covered(source)
    between = _between(source, target)
    for strip in strips(whole) if between else [whole]:
        part, read = rectangle(strip), source
        if between:
            read = Gegl.Buffer.new(between, *astuple(strip))
            source.copy(part, _NONE, read, part)
        read.copy(part, _NONE, target, part)


def write_png(shown: Picture, box: Box, path: Path) -> None:
    """Write the pixels of `box` as an sRGB PNG: large, for the worker makes it smaller."""
    _write(path, box, lambda strip: srgb(shown, strip), shown.channels, 0)


def write_mask_png(selection: Gegl.Buffer, box: Box, path: Path) -> None:
    """Write the selection over `box` as a gray PNG, 255 = selected."""
    # The selection's numbers as they are: through Y' they would be taken for lightness.
    _write(path, box, lambda strip: shares(selection, strip), 1, 1)


def _write(path: Path, box: Box, read: Callable[[Box], bytes], channels: int, level: int) -> None:
    values = map(read, strips(box, quick_png.STRIP_PIXELS))
    with path.open("wb") as file:
        file.writelines(quick_png.encoded((box.width, box.height), channels, values, level))


def read_png(path: Path) -> Gegl.Buffer:
    """Return a PNG's pixels as they are in it, from the origin on."""
    width, height, channels = quick_png.header(path)
    read = Gegl.Buffer.new(_FORMATS[channels], 0, 0, width, height)
    graph = Gegl.Node()
    load = _node(graph, "gegl:png-load", path=str(path))
    write = _node(graph, "gegl:write-buffer", buffer=read)
    load.link(write)
    write.process()
    return read


def load_png(path: Path, target: Gegl.Buffer) -> None:
    """Write a PNG's pixels into `target`, from its origin, in its own format."""
    # Converted here: the graph would take a way of its own, and half a second to find it.
    _convert(read_png(path), target)
    target.flush()


def png_size(path: Path) -> tuple[int, int]:
    """Return a PNG's (width, height); (0, 0) if there is none that can be read."""
    try:
        return quick_png.header(path)[:2]
    except (OSError, ValueError):
        return 0, 0


def get_ready(pixel_format: str, blending: bool) -> None:
    """Let GEGL find out how a PNG's pixels come into buffers of `pixel_format`.

    `blending`: by `lay_over`, too. That takes it up to half a second, once in each process.
    """
    one = Box(0, 0, 1, 1)
    target = Gegl.Buffer.new(pixel_format, *astuple(one))
    _node(Gegl.Node(), "gegl:png-load")
    opaque, see_through = (Gegl.Buffer.new(_FORMATS[each], *astuple(one)) for each in (3, 4))
    _convert(opaque, target)
    _convert(see_through, target)
    if blending:
        # What is laid over is hardly ever transparent itself, for which GEGL needs 350 MB more.
        shares = Gegl.Buffer.new(SHARES, *astuple(one))
        lay_over(target.dup(), opaque, shares, one, target)


def copy(source: Gegl.Buffer, target: Gegl.Buffer, box: Box) -> None:
    """Copy the pixels of `box` to the same place of another buffer, in its own format."""
    source.copy(rectangle(box), _NONE, target, rectangle(box))


def lay_over(
    below: Gegl.Buffer, top: Gegl.Buffer, shares: Gegl.Buffer, box: Box, target: Gegl.Buffer
) -> None:
    """Write `below` with `top` laid over it at `box` into `target`.

    `shares`, in the format SHARES, says how much of `top` counts; both begin at the origin.
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
    """Return a gray PNG of the size of `box` as shares, 0 to 1 by its very numbers."""
    read = read_png(path)
    shares = Gegl.Buffer.new("Y u8", 0, 0, box.width, box.height)
    for strip in strips(Box(0, 0, box.width, box.height)):
        values = read.get(rectangle(strip), 1.0, "Y' u8", _NONE)
        shares.set(rectangle(strip), "Y u8", values)
    return shares


def multiply(buffer: Gegl.Buffer, shares: Gegl.Buffer) -> None:
    """Multiply a mask's buffer in place by shares of the same size."""
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
    """Return the box around what is selected inside `box`: at least half of 1/255.

    In deep images the tail of a feathered selection never ends; what lies under that limit is
    outside.
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
    """Make the pixels of `box` that are not selected 0; `pixel_format` is the buffer's own.

    The selection lies over `at`, of the same size, in its own coordinates.
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
    """What is selected in a strip of `box`, a byte a pixel; the selection has `box` at `at`."""
    return shares(selection, strip.moved(at.x - box.x, at.y - box.y))


def joined(inside: bytes, outside: bytes, selected: bytes) -> bytes:
    """The pixels of `inside` where `selected` has one that is not 0, elsewhere of `outside`."""
    each = len(inside) // len(selected)
    shares = selected.translate(_ALL_OR_NOTHING)
    mask = bytearray(len(inside))
    for number in range(each):
        mask[number::each] = shares
    # As one long number each: Python alone has no other fast way to do it.
    chosen, new, old = (int.from_bytes(part, "little") for part in (mask, inside, outside))
    return (old ^ ((old ^ new) & chosen)).to_bytes(len(inside), "little")


def any_in(read: Callable[[Box], bytes], box: Box) -> bool:
    """Whether anything in `box`, read as one byte a pixel, is not 0."""
    return any(read(strip).strip(b"\0") for strip in strips(box, JOINED_PIXELS))


def any_selected(read: Callable[[Box], bytes], box: Box, selection: Gegl.Buffer, at: Box) -> bool:
    """As `any_in`, of what is selected in `box`, by a selection that has it at `at`."""

    def chosen(strip: Box) -> bytes:
        values = read(strip)
        return joined(values, bytes(len(values)), selected_part(selection, strip, box, at))

    return any_in(chosen, box)


def alpha(shown: Picture, box: Box) -> bytes:
    """The alpha of `box`, a byte a pixel, of pixels that have any."""
    return srgb(shown, box)[3::4]


def shares(mask: Gegl.Buffer, box: Box) -> bytes:
    """What a mask or a selection shows of `box`, a byte a pixel."""
    return bytes(mask.get(rectangle(box), 1.0, "Y u8", _NONE))


def _few(boxes: Iterator[Box], selected: bytes) -> list[Box] | None:
    """Return the boxes of a strip, None if there are too many to work on each.

    Speckles, as left by a selection by colour: so many calls would take seconds.
    """
    most = len(selected) // _PIXELS_PER_COPY
    few = list(itertools.islice(boxes, most + 1))
    return few if len(few) <= most else None


def _boxes_outside(selected: bytes, strip: Box) -> Iterator[Box]:
    """Yield boxes that cover what is not selected; rows that look alike share theirs."""
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
    """Cut `box` into boxes of whole rows, so that no more than that is held as bytes at once."""
    rows = max(1, pixels // max(1, box.width))
    for y in range(box.y, box.bottom, rows):
        yield Box(box.x, y, box.width, min(rows, box.bottom - y))
