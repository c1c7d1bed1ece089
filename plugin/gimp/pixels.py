"""Pixels between GIMP's buffers and PNG files, and which of them a selection leaves out.

Buffers keep their own precision and colour space; what goes to a PNG is converted to sRGB, 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gi.repository import Gegl

from plugin.region import Box

_NONE = Gegl.AbyssPolicy.NONE
_STRIP_BYTES = 8_000_000
_RUN_OUTSIDE = re.compile(rb"\0+")


def rectangle(box: Box) -> Gegl.Rectangle:
    """The same box for GEGL."""
    return Gegl.Rectangle.new(box.x, box.y, box.width, box.height)


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
    below: Gegl.Buffer, path: Path, factor: Path | None, box: Box, target: Gegl.Buffer
) -> None:
    """Write `below` with the PNG laid over it at `box` into `target`.

    `factor` is a gray PNG that says how much of it counts, None for all.
    """
    graph = Gegl.Node()
    over = _node(graph, "gegl:over")
    _node(graph, "gegl:buffer-source", buffer=below).link(over)
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


def boxes_outside(selection: Gegl.Buffer, box: Box) -> Iterator[Box]:
    """Yield boxes that cover exactly what is not selected inside `box`.

    Rows that look alike come as one box each run, so a rectangle costs few.
    """
    for strip in _strips(box):
        values = selection.get(rectangle(strip), 1.0, "Y u8", _NONE)
        row = 0
        while row < strip.height:
            line = values[row * strip.width : (row + 1) * strip.width]
            alike = row + 1
            while (
                alike < strip.height
                and values[alike * strip.width : (alike + 1) * strip.width] == line
            ):
                alike += 1
            for run in _RUN_OUTSIDE.finditer(line):
                yield Box(
                    strip.x + run.start(), strip.y + row, run.end() - run.start(), alike - row
                )
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


def _strips(box: Box) -> Iterator[Box]:
    rows = max(1, _STRIP_BYTES // max(1, box.width))
    for y in range(box.y, box.bottom, rows):
        yield Box(box.x, y, box.width, min(rows, box.bottom - y))
