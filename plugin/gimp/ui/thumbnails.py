"""Thumbnails of layers, images and files for the windows, also with the selection shown on top.

They are made from GIMP's own thumbnails within milliseconds, whatever the size of the image.
"""

from __future__ import annotations

from pathlib import Path

from gi.repository import GdkPixbuf, Gimp, GLib

from plugin.gimp import pixels
from plugin.region import Box

_PALE = bytes(min(255, 128 + value * 3 // 10) for value in range(256))
"""The paler value of an unselected pixel, for each value of a channel."""
_SELECTED = bytes(255 if value >= 128 else 0 for value in range(256))


def fitting(width: int, height: int, side: int) -> tuple[int, int]:
    """Return (width, height), reduced if necessary so that the longer side is at most `side`."""
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def of_box(drawable: Gimp.Drawable, box: Box, side: int) -> GdkPixbuf.Pixbuf:
    """Return `box` of a drawable, at most `side` pixels wide and high.

    `box` must be inside the drawable.
    """
    return _pixbuf(*sub_thumbnail(drawable, box, fitting(box.width, box.height, side)))


def of_canvas(image: Gimp.Image, box: Box, side: int) -> GdkPixbuf.Pixbuf:
    """Return `box` of the canvas as it is visible, at most `side` pixels wide and high."""
    factor = min(1.0, side / max(box.width, box.height))
    # GIMP makes no larger thumbnails of images.
    most = 1024 / max(image.get_width(), image.get_height())
    factor = min(factor, most)
    width = max(1, round(image.get_width() * factor))
    height = max(1, round(image.get_height() * factor))
    data, across, down, bpp = image.get_thumbnail_data(width, height)
    whole = _pixbuf(data.get_data(), across, down, bpp)
    x, y = (
        min(round(start * factor), size - 1) for start, size in ((box.x, across), (box.y, down))
    )
    part = whole.new_subpixbuf(
        x,
        y,
        max(1, min(round(box.width * factor), across - x)),
        max(1, min(round(box.height * factor), down - y)),
    )
    width, height = fitting(box.width, box.height, side)
    return part.scale_simple(width, height, GdkPixbuf.InterpType.BILINEAR)


def of_drawable(drawable: Gimp.Drawable, side: int) -> GdkPixbuf.Pixbuf:
    """Return the whole drawable, at most `side` pixels wide and high."""
    return of_box(drawable, pixels.extent(drawable), side)


def of_file(path: Path | str, side: int) -> GdkPixbuf.Pixbuf | None:
    """Return a picture file, at most `side` pixels wide and high, or None if it can't be read."""
    try:
        return GdkPixbuf.Pixbuf.new_from_file_at_size(str(path), side, side)
    except GLib.Error:
        return None


def sub_thumbnail(
    drawable: Gimp.Drawable, box: Box, size: tuple[int, int]
) -> tuple[bytes, int, int, int]:
    """Return `box`, scaled to about `size`, as (bytes, width, height, bytes per pixel).

    `box` must be inside the drawable. `size` is at most 1024 on each side; with the size of the
    box, the pixels are not scaled. They are gray or R'G'B', with or without alpha, with 8 bits per
    channel.
    """
    data, width, height, bpp = drawable.get_sub_thumbnail_data(
        box.x, box.y, box.width, box.height, *size
    )
    return data.get_data(), width, height, bpp


def with_selection(
    picture: GdkPixbuf.Pixbuf, selection: Gimp.Selection, box: Box
) -> GdkPixbuf.Pixbuf:
    """Return a picture of `box` of the canvas in which unselected pixels are paler."""
    size = (picture.get_width(), picture.get_height())
    canvas = pixels.extent(selection)
    there = box.intersection(canvas)
    factor = size[0] / box.width, size[1] / box.height
    inner = (
        max(1, min(round(there.width * factor[0]), size[0])),
        max(1, min(round(there.height * factor[1]), size[1])),
    )
    data, width, height, bpp = sub_thumbnail(selection, there, inner)
    selected = data[::bpp].translate(_SELECTED)
    if there != box:
        selected = _placed(selected, (width, height), size, there, box, factor)
    elif (width, height) != size:
        return picture
    colours = b"".join(
        picture.get_pixels()[row * picture.get_rowstride() :][: size[0] * 3]
        for row in range(size[1])
    )
    return _pixbuf(pixels.joined(colours, colours.translate(_PALE), selected), *size, 3)


def _placed(
    selected: bytes,
    part: tuple[int, int],
    size: tuple[int, int],
    there: Box,
    box: Box,
    factor: tuple[float, float],
) -> bytes:
    """Return the selection of the whole `box`, one byte per pixel, from that of its part `there`.

    Outside `there`, nothing is selected. `part` and `size` are the (width, height) of the two in
    the picture, and `factor` the scales from the canvas to the picture, across and down.
    """
    left = min(round((there.x - box.x) * factor[0]), size[0] - part[0])
    top = min(round((there.y - box.y) * factor[1]), size[1] - part[1])
    rows = [bytes(size[0])] * size[1]
    for row in range(part[1]):
        line = selected[row * part[0] : (row + 1) * part[0]]
        rows[top + row] = bytes(left) + line + bytes(size[0] - left - part[0])
    return b"".join(rows)


def _pixbuf(data: bytes, width: int, height: int, bpp: int) -> GdkPixbuf.Pixbuf:
    """Make an RGB picture from the bytes of a thumbnail in gray or RGB, with or without alpha."""
    if bpp <= 2:
        gray = data[::bpp]
        colours = bytearray(3 * len(gray))
        for channel in range(3):
            colours[channel::3] = gray
        if bpp == 1:
            data, bpp = bytes(colours), 3
        else:
            with_alpha = bytearray(4 * len(gray))
            for channel in range(3):
                with_alpha[channel::4] = gray
            with_alpha[3::4] = data[1::2]
            data, bpp = bytes(with_alpha), 4
    made = GdkPixbuf.Pixbuf.new_from_bytes(
        GLib.Bytes.new(data), GdkPixbuf.Colorspace.RGB, bpp == 4, 8, width, height, width * bpp
    )
    if bpp == 4:
        # Show transparent pixels over a checkerboard, as other programs do.
        made = made.composite_color_simple(
            width, height, GdkPixbuf.InterpType.NEAREST, 255, 8, 0x999999, 0x666666
        )
        made = _without_alpha(made)
    return made


def _without_alpha(picture: GdkPixbuf.Pixbuf) -> GdkPixbuf.Pixbuf:
    width, height = picture.get_width(), picture.get_height()
    stride = picture.get_rowstride()
    flat = b"".join(
        picture.get_pixels()[row * stride :][: width * picture.get_n_channels()]
        for row in range(height)
    )
    colours = bytearray(3 * width * height)
    for channel in range(3):
        colours[channel::3] = flat[channel :: picture.get_n_channels()]
    return GdkPixbuf.Pixbuf.new_from_bytes(
        GLib.Bytes.new(bytes(colours)), GdkPixbuf.Colorspace.RGB, False, 8, width, height, width * 3
    )
