"""Make thumbnails of layers, images and files for the windows, and mark the selection in them.

Thumbnails of layers and images are made from GIMP's own thumbnails. This takes only milliseconds,
whatever the size of the image.
"""

from __future__ import annotations

from pathlib import Path

from gi.repository import GdkPixbuf, Gimp, GLib

from plugin.gimp.canvas import pixels
from plugin.region import Box

_PALE = bytes(min(255, 128 + value * 3 // 10) for value in range(256))
"""For each value of a colour channel, the paler value by which unselected pixels are shown."""
_SELECTED = bytes(255 if value >= 128 else 0 for value in range(256))
"""For each value of the selection, 255 if the pixel is shown as selected, otherwise 0."""


def fitting(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (width, height) that fits into `side` × `side` pixels with the same proportions.

    A size that already fits is returned unchanged.
    """
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def of_box(drawable: Gimp.Drawable, box: Box, side: int) -> GdkPixbuf.Pixbuf:
    """Return a thumbnail of `box` of a drawable, at most `side` pixels wide and high.

    `box` must be inside the drawable.
    """
    return _pixbuf(*sub_thumbnail(drawable, box, fitting(box.width, box.height, side)))


def of_canvas(image: Gimp.Image, box: Box, side: int) -> GdkPixbuf.Pixbuf:
    """Return a thumbnail of everything visible in `box`, at most `side` pixels wide and high.

    `box` is in the coordinates of the canvas.
    """
    factor = min(1.0, side / max(box.width, box.height))
    # GIMP's thumbnails of images have at most 1024 pixels on each side.
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
    """Return a thumbnail of the whole drawable, at most `side` pixels wide and high."""
    return of_box(drawable, pixels.extent(drawable), side)


def of_file(path: Path | str, side: int) -> GdkPixbuf.Pixbuf | None:
    """Return a thumbnail of a picture file, at most `side` pixels wide and high.

    Return None if the file can't be read.
    """
    try:
        return GdkPixbuf.Pixbuf.new_from_file_at_size(str(path), side, side)
    except GLib.Error:
        return None


def sub_thumbnail(
    drawable: Gimp.Drawable, box: Box, size: tuple[int, int]
) -> tuple[bytes, int, int, int]:
    """Return the pixels of `box`, scaled to about `size`, as GIMP makes them for thumbnails.

    The returned tuple is (bytes, width, height, bytes per pixel). The pixels are gray or R'G'B',
    with or without alpha, with 8 bits per channel. `box` must be inside the drawable. `size` is at
    most 1024 on each side. If `size` is the size of `box`, the pixels are not scaled.
    """
    data, width, height, bpp = drawable.get_sub_thumbnail_data(
        box.x, box.y, box.width, box.height, *size
    )
    return data.get_data(), width, height, bpp


def with_selection(
    picture: GdkPixbuf.Pixbuf, selection: Gimp.Selection, box: Box
) -> GdkPixbuf.Pixbuf:
    """Return a copy of `picture` in which unselected pixels are paler.

    `picture` shows `box` of the canvas. `box` may extend beyond the canvas.
    """
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
    """Extend `selected`, which covers only `there`, to all of `box`. Return one byte per pixel.

    `there` is the part of `box` that is on the canvas. Outside it, nothing is selected. In the
    picture, `there` has the (width, height) `part`, and `box` has the (width, height) `size`.
    `factor` is the scale from the canvas to the picture, across and down.
    """
    left = min(round((there.x - box.x) * factor[0]), size[0] - part[0])
    top = min(round((there.y - box.y) * factor[1]), size[1] - part[1])
    rows = [bytes(size[0])] * size[1]
    for row in range(part[1]):
        line = selected[row * part[0] : (row + 1) * part[0]]
        rows[top + row] = bytes(left) + line + bytes(size[0] - left - part[0])
    return b"".join(rows)


def _pixbuf(data: bytes, width: int, height: int, bpp: int) -> GdkPixbuf.Pixbuf:
    """Make an RGB picture without alpha from the bytes that `sub_thumbnail` returns.

    If the bytes contain alpha, transparent pixels are shown over a checkerboard.
    """
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
        # Show a checkerboard behind transparent pixels, as other programs do.
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
