"""Pixels between GIMP's buffers and PNG files, which of them a selection leaves out, and where
they went.

Buffers keep their own precision and colour space; what goes to a PNG is converted to sRGB, 8 bits.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gi.repository import Babl, Gegl, Gimp

from plugin.region import Box

_NONE = Gegl.AbyssPolicy.NONE
_STRIP_PIXELS = 8_000_000
_JOINED_PIXELS = 250_000
"""Few enough to stay in the processor's cache, as bytes."""
_PIXELS_PER_COPY = 32
"""From so few pixels a copy on, joining bytes is faster: measured from u8 to float."""
_RUN_OUTSIDE = re.compile(rb"\0+")
_ALL_OR_NOTHING = bytes([0]) + bytes([255]) * 255


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


def write_png(buffer: Gegl.Buffer, box: Box, path: Path, alpha: bool) -> None:
    """Write the pixels of `box` as an sRGB PNG."""
    flat = Gegl.Buffer.new("R'G'B'A u8" if alpha else "R'G'B' u8", 0, 0, box.width, box.height)
    buffer.copy(rectangle(box), _NONE, flat, Gegl.Rectangle.new(0, 0, 0, 0))
    _save(flat, path)


def write_mask_png(selection: Gegl.Buffer, box: Box, path: Path) -> None:
    """Write the selection over `box` as a gray PNG, 255 = selected."""
    gray = Gegl.Buffer.new("Y' u8", 0, 0, box.width, box.height)
    for strip in _strips(box):
        # The selection's numbers as they are: through Y' they would be taken for lightness.
        values = selection.get(rectangle(strip), 1.0, "Y u8", _NONE)
        target = strip.moved(-box.x, -box.y)
        gray.set(rectangle(target), "Y' u8", values)
    _save(gray, path)


def _save(buffer: Gegl.Buffer, path: Path) -> None:
    graph = Gegl.Node()
    source = _node(graph, "gegl:buffer-source", buffer=buffer)
    save = _node(graph, "gegl:png-save", path=str(path), compression=1, bitdepth=8)
    source.link(save)
    save.process()


def load_png(path: Path, target: Gegl.Buffer) -> None:
    """Write a PNG's pixels into `target`, from its origin, in its own format."""
    graph = Gegl.Node()
    load = _node(graph, "gegl:png-load", path=str(path))
    write = _node(graph, "gegl:write-buffer", buffer=target)
    load.link(write)
    write.process()
    target.flush()


def lay_over(
    below: Gegl.Buffer,
    path: Path,
    factor: Path | None,
    box: Box,
    target: Gegl.Buffer,
    colours_only: bool,
) -> None:
    """Write `below` with the PNG laid over it at `box` into `target`.

    `factor` is a gray PNG that says how much of it counts, None for all. `colours_only` leaves
    the PNG's own alpha out.
    """
    graph = Gegl.Node()
    over = _node(graph, "gegl:over")
    _node(graph, "gegl:buffer-source", buffer=below).link(over)
    if colours_only:
        colours = Gegl.Buffer.new("R'G'B' u8", 0, 0, box.width, box.height)
        load_png(path, colours)
        top = _node(graph, "gegl:buffer-source", buffer=colours)
    else:
        top = _node(graph, "gegl:png-load", path=str(path))
    if factor is not None:
        fade = _node(graph, "gegl:opacity")
        top.link(fade)
        _node(graph, "gegl:buffer-source", buffer=linear_gray(factor, box)).connect_to(
            "output", fade, "aux"
        )
        top = fade
    move = _node(graph, "gegl:translate", x=float(box.x), y=float(box.y))
    top.link(move)
    move.connect_to("output", over, "aux")
    write = _node(graph, "gegl:write-buffer", buffer=target)
    over.link(write)
    write.process()
    target.flush()


def linear_gray(path: Path, box: Box) -> Gegl.Buffer:
    """Return a gray PNG of the size of `box` as shares, 0 to 1 by its very numbers."""
    read = Gegl.Buffer.new("Y' u8", 0, 0, box.width, box.height)
    load_png(path, read)
    shares = Gegl.Buffer.new("Y u8", 0, 0, box.width, box.height)
    for strip in _strips(Box(0, 0, box.width, box.height)):
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
    for strip in _strips(box):
        values = selection.get(rectangle(strip), 1.0, "Y u8", _NONE)
        for row in range(strip.height):
            line = values[row * strip.width : (row + 1) * strip.width]
            kept = line.lstrip(b"\0")
            if kept:
                left = min(left, strip.right - len(kept))
                right = max(right, strip.x + len(line.rstrip(b"\0")))
                top = min(top, strip.y + row)
                bottom = strip.y + row + 1
    return Box(left, top, max(0, right - left), max(0, bottom - top))


def put_back_outside(
    drawable: Gimp.Drawable,
    box: Box,
    selection: Gegl.Buffer,
    at: Box,
    original: Gegl.Buffer | None = None,
) -> None:
    """Give the pixels of `box` that are not selected their very bytes of `original` back.

    The selection lies over `at`, of the same size, in its own coordinates. Without `original` they
    become 0.
    """
    buffer = drawable.get_buffer()
    # Of the profile too: bytes written in a drawable's own format are not converted.
    own_format = Babl.get_name(drawable.get_format())
    for strip in _strips(box, _JOINED_PIXELS):
        there = strip.moved(at.x - box.x, at.y - box.y)
        selected = selection.get(rectangle(there), 1.0, "Y u8", _NONE)
        most = len(selected) // _PIXELS_PER_COPY
        outside = list(itertools.islice(_boxes_outside(selected, strip), most + 1))
        if len(outside) <= most:
            for part in map(rectangle, outside):
                if original is None:
                    buffer.clear(part)
                else:
                    original.copy(part, _NONE, buffer, part)
            continue
        # Speckles, as left by a selection by colour: so many copies would take seconds.
        new = buffer.get(rectangle(strip), 1.0, None, _NONE)
        old = bytes(len(new))
        if original is not None:
            old = original.get(rectangle(strip), 1.0, None, _NONE)
        buffer.set(rectangle(strip), own_format, _joined(new, old, selected))
    buffer.flush()


def _joined(inside: bytes, outside: bytes, selected: bytes) -> bytes:
    """The pixels of `inside` where `selected` has one that is not 0, elsewhere of `outside`."""
    each = len(inside) // len(selected)
    shares = selected.translate(_ALL_OR_NOTHING)
    mask = bytearray(len(inside))
    for number in range(each):
        mask[number::each] = shares
    # As one long number each: Python alone has no other fast way to do it.
    chosen, new, old = (int.from_bytes(part, "little") for part in (mask, inside, outside))
    return (old ^ ((old ^ new) & chosen)).to_bytes(len(inside), "little")


def _boxes_outside(selected: bytes, strip: Box) -> Iterator[Box]:
    """Yield boxes that cover exactly what is not selected; rows that look alike share theirs."""
    row = 0
    while row < strip.height:
        line = selected[row * strip.width : (row + 1) * strip.width]
        alike = row + 1
        while (
            alike < strip.height
            and selected[alike * strip.width : (alike + 1) * strip.width] == line
        ):
            alike += 1
        for run in _RUN_OUTSIDE.finditer(line):
            yield Box(strip.x + run.start(), strip.y + row, run.end() - run.start(), alike - row)
        row = alike


def alike(one: Gegl.Buffer, here: Box, other: Gegl.Buffer, there: Box) -> bool:
    """Whether two selections say the same over two boxes of one size."""
    for strip in _strips(here):
        moved = strip.moved(there.x - here.x, there.y - here.y)
        if one.get(rectangle(strip), 1.0, "Y float", _NONE) != other.get(
            rectangle(moved), 1.0, "Y float", _NONE
        ):
            return False
    return True


class Look(NamedTuple):
    """A layer or an image at a glance: lightness over white, in rows."""

    width: int
    height: int
    values: tuple[int, ...]


_GLANCE = 24
"""Values of the longer side of a look."""
_SAMPLES = 4
"""Pixels of GIMP's thumbnail for each, across and down: it doesn't average deep images."""
_SURELY = 0.8
"""Correlation from which on two looks show the same."""
_CLEARLY = 0.05
"""By how much one must correlate better than another."""


def look(thing: Gimp.Drawable | Gimp.Image) -> Look:
    """Return how it looks now, from a thumbnail that GIMP makes within milliseconds."""
    side = _GLANCE * _SAMPLES
    thumbnail, across, down, bpp = thing.get_thumbnail_data(side, side)
    data = thumbnail.get_data()
    colours = bpp - 1 if bpp in (2, 4) else bpp
    width, height = max(1, across // _SAMPLES), max(1, down // _SAMPLES)
    sums = [0] * (width * height)
    for y in range(down):
        for x in range(across):
            start = (y * across + x) * bpp
            alpha = data[start + colours] if colours < bpp else 255
            lightness = sum(data[start : start + colours]) * alpha + colours * 255 * (255 - alpha)
            sums[min(y // _SAMPLES, height - 1) * width + min(x // _SAMPLES, width - 1)] += (
                lightness
            )
    return Look(width, height, tuple(sums))


def turned(before: Look, now: Look) -> bool:
    """Whether `now` shows what `before` did, flipped or rotated: nothing stays in its place then.

    Painting and new tones don't count.
    """
    if before == now:
        return False
    as_it_was = _correlation(before, now)
    return any(
        (fits := _correlation(turn(before), now)) > _SURELY and fits > as_it_was + _CLEARLY
        for turn in _TURNS
    )


def _flipped(look: Look) -> Look:
    rows = [look.values[i : i + look.width] for i in range(0, len(look.values), look.width)]
    return Look(look.width, look.height, tuple(value for row in rows for value in row[::-1]))


def _half_turned(look: Look) -> Look:
    return look._replace(values=look.values[::-1])


def _transposed(look: Look) -> Look:
    columns = [look.values[x :: look.width] for x in range(look.width)]
    return Look(look.height, look.width, tuple(value for column in columns for value in column))


_TURNS: tuple[Callable[[Look], Look], ...] = (
    _flipped,
    _half_turned,
    lambda look: _flipped(_half_turned(look)),
    _transposed,
    lambda look: _flipped(_transposed(look)),
    lambda look: _half_turned(_transposed(look)),
    lambda look: _flipped(_half_turned(_transposed(look))),
)


def _correlation(one: Look, other: Look) -> float:
    """From -1 to 1; 0 where nothing can be compared."""
    if (one.width, one.height) != (other.width, other.height):
        return 0
    try:
        return statistics.correlation(one.values, other.values)
    except statistics.StatisticsError:
        return 0


_NEEDLE = 24
"""Pixels in a row that are looked for together."""
_NEEDLES = 40
_LEAST_FOUND = 3


def displacement(path: Path, buffer: Gegl.Buffer) -> tuple[int, int] | None:
    """Where in `buffer` the origin of an exported PNG's picture lies now; None if none can tell.

    Short runs of its pixels are looked for, so it may have been cut or extended on any side.
    """
    graph = Gegl.Node()
    load = _node(graph, "gegl:png-load", path=str(path))
    there = load.get_bounding_box()
    exported = Gegl.Buffer.new("R'G'B'A u8", 0, 0, there.width, there.height)
    write = _node(graph, "gegl:write-buffer", buffer=exported)
    load.link(write)
    write.process()
    needles = _needles(exported, Box(0, 0, there.width, there.height))
    found: Counter[tuple[int, int]] = Counter()
    for strip in _strips(covered(buffer)):
        values = buffer.get(rectangle(strip), 1.0, "R'G'B'A u8", _NONE)
        for x, y, needle in needles:
            at = values.find(needle)
            while at >= 0:
                row, column = divmod(at // 4, strip.width)
                if at % 4 == 0 and column + _NEEDLE <= strip.width:
                    found[strip.x + column - x, strip.y + row - y] += 1
                    break
                at = values.find(needle, at + 1)
    ranked = found.most_common(2)
    if not ranked or ranked[0][1] < _LEAST_FOUND:
        return None
    if len(ranked) > 1 and ranked[1][1] * 2 > ranked[0][1]:
        return None
    return ranked[0][0]


def _needles(buffer: Gegl.Buffer, box: Box) -> list[tuple[int, int, bytes]]:
    """The most distinctive runs of pixels on a grid over `box`, each with where it begins."""
    runs = []
    for y in range(0, box.height, max(1, box.height // 24)):
        row = buffer.get(Gegl.Rectangle.new(0, y, box.width, 1), 1.0, "R'G'B'A u8", _NONE)
        for x in range(0, box.width - _NEEDLE + 1, max(_NEEDLE, box.width // 16)):
            run = row[4 * x : 4 * (x + _NEEDLE)]
            runs.append((len({run[i : i + 4] for i in range(0, len(run), 4)}), x, y, run))
    runs.sort(key=lambda each: -each[0])
    return [(x, y, run) for colours, x, y, run in runs[:_NEEDLES] if colours > _NEEDLE // 4]


def _strips(box: Box, pixels: int = _STRIP_PIXELS) -> Iterator[Box]:
    rows = max(1, pixels // max(1, box.width))
    for y in range(box.y, box.bottom, rows):
        yield Box(box.x, y, box.width, min(rows, box.bottom - y))
