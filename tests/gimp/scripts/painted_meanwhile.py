"""The user paints beside the selection while a result is written to the layer.

The findings for each kind of layer are how many strokes are there afterwards, how many were made,
and whether the result is there.
"""

import sys

import inside
from gi.repository import Gegl, Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin.gimp.canvas import pixels, writing
from plugin.region import Box

WIDTH, HEIGHT = 1000, 900
DOT = 6


def painted(kind):
    image, layer = inside.photo()
    image.scale(WIDTH, HEIGHT)
    if kind == "alpha":
        layer.add_alpha()
    box = Box(70, 50, 800, 700)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, box.x, box.y, box.width, box.height)
    if kind == "float":
        image.convert_precision(Gimp.Precision.FLOAT_NON_LINEAR)
    selection = image.get_selection().copy()
    shares = selection.get_buffer()
    before, new = layer.copy(), layer.copy()
    buffer = new.get_buffer()
    buffer.set(pixels.rectangle(pixels.extent(new)), "R'G'B' u8", b"\xfa\5\5" * (WIDTH * HEIGHT))
    buffer.flush()
    strokes = []
    original = pixels.selected_part

    def looked_at(*arguments):
        """Paint a stroke, unless it would touch the selection. This is called for each tile."""
        x, y = (97 * len(strokes)) % (WIDTH - DOT), (61 * len(strokes)) % (HEIGHT - DOT)
        if not any(pixels.shares(shares, Box(x, y, DOT, DOT))):
            image.select_rectangle(Gimp.ChannelOps.REPLACE, x, y, DOT, DOT)
            layer.edit_fill(Gimp.FillType.WHITE)
        strokes.append((x, y))
        return original(*arguments)

    pixels.selected_part = looked_at
    try:
        inside_box = writing.Inside(box, shares, box, False)
        profile = writing.profile(image)
        whole = writing.write(layer, buffer, inside_box, before, profile) == writing.Written.WHOLE
    finally:
        pixels.selected_part = original
    made, there = 0, 0
    now = layer.get_buffer()
    for x, y in dict.fromkeys(strokes):
        part = Box(x, y, DOT, DOT)
        if not any(pixels.shares(shares, part)):
            made += 1
            values = now.get(pixels.rectangle(part), 1.0, "R'G'B' u8", Gegl.AbyssPolicy.NONE)
            there += bytes(values) == b"\xff" * (3 * DOT * DOT)
    written = writing.is_written(layer, buffer, before.get_buffer(), inside_box)
    before.delete()
    new.delete()
    image.delete()
    return [there, made, whole and written]


inside.found({kind: painted(kind) for kind in ("plain", "alpha", "float")})
