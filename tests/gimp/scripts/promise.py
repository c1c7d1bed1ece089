"""Edit images of every kind inside a selection, and record everything that must not change.

The cases are in the file `cases.json`. The findings for each case are added to it, with the names
of files of raw pixels.
"""

import json
import random

import inside
from gi.repository import Gegl, Gimp

WIDTH, HEIGHT = 240, 160
PRECISIONS = {
    f"{depth} {encoding}": getattr(Gimp.Precision, f"{depth.upper()}_{name}")
    for depth in ("u8", "u16", "u32", "half", "float")
    for encoding, name in (("gamma", "NON_LINEAR"), ("linear", "LINEAR"))
}


def small_photo(name="coffee.png"):
    image, _layer = inside.photo(name)
    image.crop(WIDTH, HEIGHT, 180, 120)
    image.undo_disable()
    return image, image.get_layers()[0]


def profile(case):
    gray = case["base"].startswith("gray")
    if case["profile"] == "wide gamut":
        # A gray image has no gamut. Its profile has another tone curve instead.
        return (
            Gimp.ColorProfile.new_d50_gray_lab_trc() if gray else Gimp.ColorProfile.new_rgb_adobe()
        )
    if case["profile"] == "linear":
        if gray:
            return Gimp.ColorProfile.new_d65_gray_linear()
        return Gimp.ColorProfile.new_rgb_srgb_linear()
    return None


def build(case):
    """Return the image of a case, its lower layer, and the layer to edit above it."""
    image, below = small_photo("chelsea.png")
    below.set_name("below")
    photo, source = small_photo()
    edited = Gimp.Layer.new_from_drawable(source, image)
    image.insert_layer(edited, None, 0)
    photo.delete()
    edited.set_name("edited")
    if case["base"] in ("RGBA", "gray+alpha") or case["layer"] == "alpha lock":
        edited.add_alpha()
        image.select_ellipse(Gimp.ChannelOps.REPLACE, 10, 10, 80, 90)
        Gimp.Selection.feather(image, 14)
        edited.edit_clear()
        Gimp.Selection.none(image)
    # Convert the colours first, and the precision after that. GIMP's own conversions are not tested
    # here.
    if case["base"].startswith("gray"):
        image.convert_grayscale()
    wanted = profile(case)
    if wanted is not None:
        image.convert_color_profile(wanted, Gimp.ColorRenderingIntent.RELATIVE_COLORIMETRIC, True)
    if image.get_precision() != PRECISIONS[case["precision"]]:
        image.convert_precision(PRECISIONS[case["precision"]])
    if case["base"] == "indexed":
        image.convert_indexed(
            Gimp.ConvertDitherType.NONE, Gimp.ConvertPaletteType.GENERATE, 64, False, False, ""
        )
    arrange(image, edited, case["layer"])
    select(image, case["selection"])
    image.set_selected_layers([edited])
    return image, below, edited


def arrange(image, edited, kind):
    shifts = {
        "over the left edge": (-70, 13),
        "over the top edge": (11, -50),
        "over the right edge": (70, -9),
        "over the bottom edge": (-12, 50),
    }
    if kind in shifts:
        edited.set_offsets(*shifts[kind])
    elif kind == "smaller than the selection":
        edited.resize(34, 28, -103, -66)
    elif kind == "in a nested group":
        outer = Gimp.GroupLayer.new(image, "outer")
        image.insert_layer(outer, None, 0)
        inner = Gimp.GroupLayer.new(image, "inner")
        image.insert_layer(inner, outer, 0)
        image.reorder_item(edited, inner, 0)
    elif kind in ("with a mask", "mask being edited"):
        inside.hide_by_mask(image, edited, (125, 20, 90, 110), 10)
        edited.set_edit_mask(kind == "mask being edited")
    elif kind == "alpha lock":
        edited.set_lock_alpha(True)
    elif kind == "opacity 40 %":
        edited.set_opacity(40)
    elif kind == "mode multiply":
        edited.set_mode(Gimp.LayerMode.MULTIPLY)


def select(image, kind):
    replace, add = Gimp.ChannelOps.REPLACE, Gimp.ChannelOps.ADD
    Gimp.Selection.none(image)
    if kind == "rectangle":
        image.select_rectangle(replace, 95, 55, 61, 47)
    elif kind == "feathered ellipse":
        image.select_ellipse(replace, 80, 45, 90, 75)
        Gimp.Selection.feather(image, 12)
    elif kind == "two pieces":
        image.select_rectangle(replace, 90, 60, 30, 30)
        image.select_ellipse(add, 125, 70, 40, 44)
    elif kind == "one pixel":
        image.select_rectangle(replace, 118, 81, 1, 1)
    elif kind == "hairline":
        image.select_rectangle(replace, 118, 40, 1, 90)
    elif kind == "speckles":
        speckles(image)
    elif kind == "touching edges":
        image.select_rectangle(replace, 0, 70, WIDTH, 30)
        image.select_rectangle(add, 110, 0, 24, HEIGHT)
    elif kind == "all":
        Gimp.Selection.all(image)
    elif kind == "inverted":
        image.select_rectangle(replace, 112, 72, 61, 47)
        Gimp.Selection.invert(image)


def speckles(image):
    """Select scattered pixels of a part, some of them faintly, as a selection by colour does."""
    values = bytearray(WIDTH * HEIGHT)
    any_of = random.Random(5)
    for y in range(40, 130):
        for x in range(85, 170):
            values[y * WIDTH + x] = any_of.choice((0, 0, 0, 1, 90, 255))
    channel = Gimp.Channel.new(image, "", WIDTH, HEIGHT, 50, Gegl.Color.new("black"))
    image.insert_channel(channel, None, 0)
    buffer = channel.get_buffer()
    buffer.set(Gegl.Rectangle.new(0, 0, WIDTH, HEIGHT), "Y u8", bytes(values))
    buffer.flush()
    channel.update(0, 0, WIDTH, HEIGHT)
    image.select_item(Gimp.ChannelOps.REPLACE, channel)
    image.remove_channel(channel)


def write(name, data):
    with open(f"{inside.FOLDER}/{name}", "wb") as file:
        file.write(data)
    return name


def mask_bytes(drawable):
    """Return the bytes in the drawable's own format, so that any value above 0 is noticed."""
    return inside.raw(drawable)


def structure(image, but=()):
    """Return what an edit must not change, apart from pixels. The layers in `but` are left out."""
    known = [layer for layer in inside.all_layers(image.get_layers()) if layer not in but]
    return {
        "stack": [
            [
                layer.get_name(),
                layer.get_parent() and layer.get_parent().get_name(),
                list(layer.get_offsets())[1:],
                layer.get_opacity(),
                int(layer.get_mode()),
                layer.get_lock_alpha(),
                layer.get_edit_mask(),
            ]
            for layer in known
        ],
        "masks": [inside.digest(inside.raw(m)) for m in (each.get_mask() for each in known) if m],
        "selection": inside.digest(inside.selected(image, "Y float")),
        "channels": len(image.get_channels()),
        "chosen": [layer.get_name() for layer in image.get_selected_layers()],
        "palette": image.get_palette().get_color_count()
        if image.get_base_type() == Gimp.ImageBaseType.INDEXED
        else 0,
        "precision": int(image.get_precision()),
    }


def edit(number, case):
    image, below, edited = build(case)
    layers = {"below": below, "edited": edited}
    before = structure(image)
    seen = inside.view(image, None)
    pixels = {name: inside.raw(layer) for name, layer in layers.items()}
    drawables = [edited.get_mask() if case["layer"] == "mask being edited" else edited]
    status, message, made = inside.edit(
        image,
        drawables,
        prompt="pencil sketch",
        output=case["output"],
        source=case["source"],
    )
    replaced = case["output"] == "replace"
    after = structure(image, () if replaced else made)
    right = {f"{part} kept": before[part] == after[part] for part in before}
    if status == inside.SUCCESS and replaced:
        right["the same layer"] = made == [edited]
    elif status == inside.SUCCESS:
        (new,) = made
        if case["source"] == "visible":
            right["on top"] = image.get_layers()[0] == new
        else:
            right["right above"] = (
                new.get_parent() == edited.get_parent()
                and image.get_item_position(new) + 1 == image.get_item_position(edited)
            )
    record = {
        **case,
        "message": message,
        "right": right,
        "canvas": [WIDTH, HEIGHT],
        "selected": write(f"{number}-selected", inside.selected(image)),
        "seen": write(f"{number}-seen", seen),
        "sees": write(f"{number}-sees", inside.view(image, None)),
        "layers": [
            {
                "name": name,
                "size": [layer.get_width(), layer.get_height()],
                "at": list(layer.get_offsets())[1:],
                "before": write(f"{number}-{name}-before", pixels[name]),
                "after": write(f"{number}-{name}-after", inside.raw(layer)),
            }
            for name, layer in layers.items()
        ],
        "made": [
            {
                "size": [layer.get_width(), layer.get_height()],
                "at": list(layer.get_offsets())[1:],
                "mask": write(f"{number}-mask", mask_bytes(layer.get_mask()))
                if layer.get_mask() and not replaced
                else "",
            }
            for layer in made
        ],
    }
    image.delete()
    return record


with open(f"{inside.FOLDER}/cases.json", encoding="utf-8") as file:
    chosen = json.load(file)
inside.found([edit(number, case) for number, case in enumerate(chosen)])
