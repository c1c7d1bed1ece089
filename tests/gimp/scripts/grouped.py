"""Variations in a group, as the window makes them: the view outside the selection must stay."""

import sys

import inside
from gi.repository import Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin.gimp import edit, planning, results

found = {}
for name, precision, mode, opacity in (
    ("u8", Gimp.Precision.U8_NON_LINEAR, Gimp.LayerMode.NORMAL, 100),
    ("u16", Gimp.Precision.U16_NON_LINEAR, Gimp.LayerMode.MULTIPLY, 70),
    ("float", Gimp.Precision.FLOAT_LINEAR, Gimp.LayerMode.NORMAL, 100),
):
    image, layer = inside.photo()
    if name != "u8":
        image.convert_precision(precision)
    top = layer.copy()
    image.insert_layer(top, None, 0)
    top.set_mode(mode)
    top.set_opacity(opacity)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 150, 60, 270, 240)
    selection = inside.selected(image)

    before = inside.view(image, "R'G'B'A u16")
    request = planning.Request(
        *("black and white", "gpt-image-2", "auto", "auto", "new-layer", "layer"),
        *(True, 2, [], [], 0, -1, True),
        titled=True,
    )
    layers, _sentences = edit.edit(image, [top], request)
    group = layers[0].get_parent()
    outside, changed = inside.compare(before, inside.view(image, "R'G'B'A u16"), selection)
    found[name] = {
        "outside": outside,
        "changed": changed,
        "shown": [each.get_visible() for each in layers],
        "group": [group.get_name(), image.get_item_position(group)],
        "known": sorted(number for _job, number in results.in_image(image)),
    }
    results.keep(image, layers[1], [layers[0]])
    found[name]["kept"] = [each.get_name() for each in image.get_layers()][:1]
inside.found(found)
