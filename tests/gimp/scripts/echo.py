"""Edits that change nothing: the view must stay, and every pixel must come back to its place."""

import struct

import inside
from gi.repository import Gegl, Gimp

PRECISIONS = [
    getattr(Gimp.Precision, f"{depth}_{encoding}")
    for depth in ("U8", "U16", "U32", "HALF", "FLOAT")
    for encoding in ("NON_LINEAR", "LINEAR", "PERCEPTUAL")
]
PROFILES = {
    "built-in": lambda gray: None,
    "wide gamut": lambda gray: (
        Gimp.ColorProfile.new_d50_gray_lab_trc() if gray else Gimp.ColorProfile.new_rgb_adobe()
    ),
    "linear": lambda gray: (
        Gimp.ColorProfile.new_d65_gray_linear() if gray else Gimp.ColorProfile.new_rgb_srgb_linear()
    ),
}


def photo(gray=False, profile=None, precision=None):
    image, _layer = inside.photo()
    image.crop(240, 160, 180, 120)
    image.undo_disable()
    if gray:
        image.convert_grayscale()
    if profile:
        image.convert_color_profile(profile, Gimp.ColorRenderingIntent.RELATIVE_COLORIMETRIC, True)
    if precision is not None and image.get_precision() != precision:
        image.convert_precision(precision)
    return image, image.get_layers()[0]


def apart(one, other):
    return max(abs(a - b) for a, b in zip(one, other))


def unchanged(output, gray, profile, precision):
    image, layer = photo(gray, PROFILES[profile](gray), precision)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 60, 40, 110, 90)
    Gimp.Selection.feather(image, 10)
    before = inside.view(image)
    status, message, _layers = inside.edit(image, [layer], prompt="echo", output=output)
    assert status == inside.SUCCESS, message
    difference = apart(before, inside.view(image))
    image.delete()
    return difference


def indexed(output):
    image, layer = photo()
    image.convert_indexed(
        Gimp.ConvertDitherType.NONE, Gimp.ConvertPaletteType.GENERATE, 64, False, False, ""
    )
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 60, 40, 110, 90)
    before = inside.raw(layer), image.get_palette().get_color_count(), inside.view(image)
    status, message, _layers = inside.edit(image, [layer], prompt="echo", output=output)
    assert status == inside.SUCCESS, message
    after = inside.raw(layer), image.get_palette().get_color_count(), inside.view(image)
    image.delete()
    return before == after


def grid(image, layer):
    """Draw lines one pixel wide, at irregular distances, so that any shift is noticed."""
    width, height = layer.get_width(), layer.get_height()
    dark = bytes((20, 60, 30))
    light = (bytes((240, 230, 210)), bytes((255, 255, 255)))
    rows = []
    for y in range(height):
        if y % 7 == 0 or y % 11 == 3:
            rows.append(dark * width)
        else:
            rows.append(
                b"".join(
                    dark if x % 5 == 1 or x % 13 == 4 else light[(x * y) % 2] for x in range(width)
                )
            )
    layer.get_buffer().set(Gegl.Rectangle.new(0, 0, width, height), "R'G'B' u8", b"".join(rows))
    layer.get_buffer().flush()
    layer.update(0, 0, width, height)


def aligned(size, offset, selection, output):
    """Edit a grid, and return how many pixels of the result differ from those of the layer."""
    image, layer = photo()
    layer.resize(300, 220, 0, 0)
    grid(image, layer)
    layer.set_offsets(*offset)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, *selection)
    before = inside.raw(layer)
    status, message, (made,) = inside.edit(
        image, [layer], prompt="echo", output=output, size=size, repair=True
    )
    assert status == inside.SUCCESS, message
    if output == "replace":
        wrong = len(inside.differing(before, inside.raw(layer), 300 * 220))
    else:
        _ok, x, y = made.get_offsets()
        there = (x - offset[0], y - offset[1], made.get_width(), made.get_height())
        wrong = len(
            inside.differing(
                inside.raw(layer, there, "R'G'B' u8"),
                inside.raw(made, None, "R'G'B' u8"),
                there[2] * there[3],
            )
        )
    image.delete()
    return wrong


def gamut_loss(linear):
    """Return a colour before and after an edit of an image in Adobe RGB.

    The argument is in linear sRGB. The returned values are those of the image, from 0 to 255.
    """
    image, layer = photo(False, Gimp.ColorProfile.new_rgb_adobe(), inside.U16)
    layer.get_buffer().set(
        Gegl.Rectangle.new(0, 0, 240, 160), "RGB float", struct.pack("<3f", *linear) * (240 * 160)
    )
    layer.get_buffer().flush()
    layer.update(0, 0, 240, 160)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 80, 60)
    before = struct.unpack("<3H", inside.raw(layer, (100, 70, 1, 1)))
    status, message, _layers = inside.edit(image, [layer], prompt="echo", output="replace")
    assert status == inside.SUCCESS, message
    after = struct.unpack("<3H", inside.raw(layer, (100, 70, 1, 1)))
    image.delete()
    return [[round(value / 257) for value in each] for each in (before, after)]


KINDS = (
    ("new-layer", False, "built-in"),
    ("replace", False, "wide gamut"),
    ("new-layer", True, "linear"),
    ("replace", True, "built-in"),
    ("new-layer", False, "linear"),
    ("new-layer", True, "wide gamut"),
)
# Sizes, offsets and selections: ratios of the service, layers that extend beyond each edge of the
# canvas, selections at the borders, and tiny ones.
GRIDS = [
    ("auto", (0, 0), (100, 80, 60, 50)),
    ("auto", (37, -21), (100, 80, 60, 50)),
    ("1:1", (-50, 13), (0, 30, 90, 70)),
    ("9:21", (150, 60), (200, 100, 31, 17)),
    ("21:9", (3, 5), (10, 10, 250, 200)),
    ("2:3", (-13, -17), (7, 9, 1, 1)),
    ("16:9", (1, 0), (250, 170, 51, 50)),
    ("1280x640", (0, 1), (100, 0, 2, 219)),
]

inside.found(
    {
        "unchanged": {
            f"{output}, gray {gray}, {profile}, {precision}": unchanged(
                output, gray, profile, precision
            )
            for output, gray, profile, precision in [
                *((*KINDS[n % len(KINDS)], each) for n, each in enumerate(PRECISIONS)),
                # Most photographs in another colour space are of this kind.
                ("new-layer", False, "wide gamut", PRECISIONS[0]),
            ]
        },
        "indexed": [indexed(output) for output in ("new-layer", "replace")],
        "grid": [
            aligned(size, offset, selection, ("new-layer", "replace")[number % 2])
            for number, (size, offset, selection) in enumerate(GRIDS)
        ],
        "green": gamut_loss((-0.3984, 1.0, -0.0429)),
        "gray": gamut_loss((0.2, 0.2, 0.2)),
    }
)
