"""Layers of every special kind: what is sent of them, and what their results are like.

The test looks for a similar upload for each `expected-N.raw`. These files contain GIMP's own view
of the layer alone over white, so they are made in another way than the uploads.
"""

import json
import os
from pathlib import Path

import inside
from gi.repository import Gimp, Gio

WIDTH, HEIGHT = 240, 160
expected = []


def photo():
    image, _layer = inside.photo()
    image.crop(WIDTH, HEIGHT, 180, 120)
    image.undo_disable()
    return image, image.get_layers()[0]


def apart(one, other):
    assert len(one) == len(other)
    return max(abs(a - b) for a, b in zip(one, other))


def over_white(image, layer, box=None):
    """Return the view of the layer alone over white, as a whole or only a box of it."""
    copy = image.duplicate()
    copy.undo_disable()
    twin = at(copy, layer)
    hidden = not layer.get_visible()
    for each in list(copy.get_layers()):
        if each != twin:
            copy.remove_layer(each)
    if hidden:
        twin.set_visible(True)
    twin.set_opacity(100)
    twin.set_mode(Gimp.LayerMode.NORMAL)
    # The worker also mixes partly transparent colours with white in encoded values.
    twin.set_composite_space(Gimp.LayerColorSpace.RGB_NON_LINEAR)
    white = Gimp.Layer.new(
        copy, "white", 1, 1, Gimp.ImageType.RGB_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    copy.insert_layer(white, None, 1)
    _ok, x, y = twin.get_offsets()
    size = layer.get_width(), layer.get_height()
    copy.resize(*size, -x, -y)
    white.resize_to_image_size()
    white.fill(Gimp.FillType.WHITE)
    data = inside.view(copy, box=box)
    copy.delete()
    return data


def at(copy, layer):
    place = layer.get_image().get_layers().index(layer)
    return copy.get_layers()[place]


def expect(data, width, height):
    name = f"expected-{len(expected)}.raw"
    with open(f"{inside.FOLDER}/{name}", "wb") as file:
        file.write(data)
    expected.append([name, width, height])


def sent(image, layer):
    """Edit the whole layer, record what must have been sent, and return the new layers."""
    expect(over_white(image, layer), layer.get_width(), layer.get_height())
    status, message, made = inside.edit(image, [layer], prompt="echo")
    assert status == inside.SUCCESS, message
    return made


def blur(layer):
    effect = Gimp.DrawableFilter.new(layer, "gegl:gaussian-blur", "blur")
    effect.get_config().set_property("std-dev-x", 6.0)
    effect.get_config().set_property("std-dev-y", 6.0)
    effect.update()
    layer.append_filter(effect)


def filtered():
    image, layer = photo()
    blur(layer)
    return image, layer


def masked():
    image, _below = photo()
    _other, source = inside.photo("chelsea.png")
    layer = Gimp.Layer.new_from_drawable(source, image)
    image.insert_layer(layer, None, 0)
    layer.resize(WIDTH, HEIGHT, -100, -60)
    inside.hide_by_mask(image, layer, (100, 20, 120, 120), 8)
    return image, layer


def filters():
    image, layer = filtered()
    before = inside.view(image)
    (made,) = sent(image, layer)
    new_layer = apart(before, inside.view(image))
    image.remove_layer(made)
    own = inside.raw(layer)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 100, 80)
    status, _message, _layers = inside.edit(image, [layer], prompt="echo", output="replace")
    replaced = [status, apart(own, inside.raw(layer)), apart(before, inside.view(image))]
    # A filter that is switched off has no effect on what is sent.
    layer.get_filters()[0].set_visible(False)
    Gimp.Selection.none(image)
    sent(image, layer)
    return {"new layer": new_layer, "replaced": replaced, "filters": len(layer.get_filters())}


def masks():
    image, layer = masked()
    (made,) = sent(image, layer)
    mask = inside.raw(layer.get_mask(), None, "Y u8")
    whole = apart(inside.raw(made, None, "A u8"), mask)
    image.remove_layer(made)
    # What the layer mask hides stays hidden with a selection, too.
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 10, 150, 140)
    before = inside.view(image)
    status, _message, (made,) = inside.edit(image, [layer], prompt="black and white")
    after = inside.view(image)
    hidden = [
        apart(before[3 * i : 3 * i + 3], after[3 * i : 3 * i + 3])
        for i, value in enumerate(mask)
        if value == 0
    ]
    image.remove_layer(made)
    # When the layer is replaced, its own pixels are edited, and its mask stays the same.
    own = inside.raw(layer)
    status, _message, _layers = inside.edit(image, [layer], prompt="echo", output="replace")
    replaced = [status, apart(own, inside.raw(layer)), inside.raw(layer.get_mask(), None, "Y u8")]
    replaced[2] = replaced[2] == mask
    layer.set_apply_mask(False)
    layer.set_show_mask(False)
    Gimp.Selection.none(image)
    (made,) = sent(image, layer)
    return {
        "whole": whole,
        "hidden": [len(hidden) > 1000, max(hidden)],
        "replaced": replaced,
        "not applied": min(inside.raw(made, None, "A u8")),
    }


def part():
    """Edit a part of a layer that has a mask and a filter, and extends beyond the canvas."""
    image, layer = inside.photo()
    image.undo_disable()
    layer.set_offsets(-90, 35)
    inside.hide_by_mask(image, layer, (120, 120, 300, 180), 30)
    blur(layer)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 150, 130, 60, 50)
    before = inside.view(image)
    status, message, (made,) = inside.edit(image, [layer], prompt="echo")
    assert status == inside.SUCCESS, message
    jobs = Path(os.environ["DIMILINKS_HOME"], "jobs").iterdir()
    job = max(jobs, key=lambda folder: folder.stat().st_mtime)
    box = json.loads((job / "request.json").read_text())["region"]["content"]
    x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
    after = inside.view(image)
    _ok, left, top = made.get_offsets()
    image.remove_layer(made)
    expect(over_white(image, layer, (x, y, width, height)), width, height)
    smaller = width < layer.get_width() / 2 and height < layer.get_height() / 2
    return [smaller, [left - x, top - y], apart(before, after)]


def mask_shown():
    image, layer = masked()
    data = over_white(image, layer)
    layer.set_show_mask(True)
    expect(data, WIDTH, HEIGHT)
    status, message, _made = inside.edit(image, [layer], prompt="echo")
    return [status, message]


def locked_alpha(output):
    image, layer = photo()
    layer.add_alpha()
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 60, 30, 90, 90)
    Gimp.Selection.feather(image, 16)
    layer.edit_clear()
    layer.set_lock_alpha(True)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 40, 20, 150, 120)
    alpha = inside.raw(layer, None, "A u8")
    before = inside.raw(layer, None, "R'G'B' u8")
    status, message, (made,) = inside.edit(image, [layer], prompt="echo", output=output)
    assert status == inside.SUCCESS, message
    _ok, x, y = made.get_offsets()
    box = (x, y, made.get_width(), made.get_height())
    visible = [i for i, value in enumerate(inside.raw(layer, box, "A u8")) if value > 127]
    new = inside.raw(made, None, "R'G'B' u8")
    old = inside.raw(layer, box, "R'G'B' u8") if output == "new-layer" else before
    return [
        apart(inside.raw(made, None, "A u8"), inside.raw(layer, box, "A u8")),
        inside.raw(layer, None, "A u8") == alpha,
        # Partly transparent colours come back without the white on which they were sent.
        max(apart(old[3 * i : 3 * i + 3], new[3 * i : 3 * i + 3]) for i in visible),
    ]


def group():
    image, layer = photo()
    made_of = layer.copy()
    nested = Gimp.GroupLayer.new(image, "group")
    image.insert_layer(nested, None, 0)
    image.reorder_item(layer, nested, 0)
    image.insert_layer(made_of, nested, 0)
    made_of.set_mode(Gimp.LayerMode.MULTIPLY)
    nested.set_mode(Gimp.LayerMode.PASS_THROUGH)
    (made,) = sent(image, nested)
    return [
        made.get_parent() is None,
        image.get_item_position(made) + 1 == image.get_item_position(nested),
        int(made.get_mode()) == int(Gimp.LayerMode.NORMAL),
        [each.get_name() for each in nested.get_children()],
    ]


def inherited():
    image, layer = photo()
    copy = layer.copy()
    image.insert_layer(copy, None, 0)
    copy.set_opacity(40)
    copy.set_mode(Gimp.LayerMode.MULTIPLY)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 100, 80)
    (made,) = inside.edit(image, [copy], prompt="echo")[2]
    (seen,) = inside.edit(image, [copy], prompt="echo", source="visible")[2]
    return [
        [round(each.get_opacity()), int(each.get_mode()) == int(mode)]
        for each, mode in ((made, Gimp.LayerMode.MULTIPLY), (seen, Gimp.LayerMode.NORMAL))
    ]


def invisible():
    image, layer = photo()
    copy = layer.copy()
    image.insert_layer(copy, None, 0)
    copy.set_visible(False)
    (made,) = sent(image, copy)
    return [made.get_visible(), copy.get_visible()]


def empty():
    """Edit a selection on an empty layer, in which the result must be opaque."""
    image, _layer = photo()
    blank = Gimp.Layer.new(
        image, "blank", WIDTH, HEIGHT, Gimp.ImageType.RGBA_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    image.insert_layer(blank, None, 0)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 100, 80)
    status, _message, (made,) = inside.edit(image, [blank], prompt="pencil sketch")
    return [status, min(inside.raw(made, None, "A u8"))]


def without_pixels_of_their_own():
    """Edit a text layer, and in GIMP 3.2 a link layer and a vector layer.

    The result must be a new layer; replacing these layers must be refused.
    """
    image, _layer = photo()
    text = Gimp.TextLayer.new(image, "Words", Gimp.context_get_font(), 40, Gimp.Unit.pixel())
    image.insert_layer(text, None, 0)
    text.set_offsets(20, 20)
    kinds = [text]
    if hasattr(Gimp, "LinkLayer"):
        link = Gimp.LinkLayer.new(image, Gio.File.new_for_path(f"{inside.PHOTOS}/chelsea.png"))
        image.insert_layer(link, None, 0)
        path = Gimp.Path.new(image, "path")
        image.insert_path(path, None, 0)
        path.bezier_stroke_new_ellipse(100, 80, 50, 40, 0)
        vector = Gimp.VectorLayer.new(image, path)
        image.insert_layer(vector, None, 0)
        vector.refresh()
        kinds += [link, vector]
    found = []
    for each in kinds:
        own = inside.raw(each)
        status, _message, made = inside.edit(image, [each], prompt="echo")
        size = [made[0].get_width(), made[0].get_height()] == [each.get_width(), each.get_height()]
        refused = inside.edit(image, [each], prompt="echo", output="replace")
        found.append([status, size, refused[0], refused[1], inside.raw(each) == own])
    return found


inside.found(
    {
        "filters": filters(),
        "masks": masks(),
        "part": part(),
        "mask shown": mask_shown(),
        "locked alpha": [locked_alpha(output) for output in ("new-layer", "replace")],
        "group": group(),
        "inherited": inherited(),
        "invisible": invisible(),
        "empty": empty(),
        "without pixels": without_pixels_of_their_own(),
        "expected": expected,
    }
)
