"""What the user may do while the service works: changes between the capture and the placing."""

import os
import sys

import inside
from gi.repository import Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin.gimp import capture, placing, planning

GONE = (
    "layer",
    "image",
    "locked",
    "scaled",
    "image scaled",
    "flipped",
    "rotated",
    "rotated freely",
    "symmetric, flipped",
    "twins, cropped",
    "file lost",
    "cut",
)
RESHAPED = (
    "nothing",
    "canvas larger",
    "cropped",
    "layer larger",
    "gray",
    "indexed",
    "deeper",
    "duplicated",
    "into a group",
    "floating",
    "moved in its layer",
    "wrapped around",
    "cropped hard",
    "tiles, layer larger",
    "masked and larger",
    "inverted",
)


def begin(image, layer, output="new-layer", source="layer"):
    request = planning.Request(
        *("black and white", "gpt-image-2", "auto", "auto", output, source),
        *(True, 1, [], [], 0, -1, True),
    )
    (captured,) = capture.capture(image, [layer], request)
    inside.work(captured)
    return captured


def place(captures):
    placed, missing = placing.place(captures)
    return [each.layer for each in placed], missing


def repeat(layer, across, down):
    """Fill the layer with copies of its top left corner."""
    width, height = layer.get_width() // across, layer.get_height() // down
    tile = inside.raw(layer, (0, 0, width, height), "R'G'B' u8")
    rows = [tile[3 * width * y : 3 * width * (y + 1)] * across for y in range(height)]
    buffer = layer.get_buffer()
    whole = inside.Gegl.Rectangle.new(0, 0, width * across, height * down)
    buffer.set(whole, "R'G'B' u8", b"".join(rows * down))
    buffer.flush()
    layer.update(0, 0, width * across, height * down)


def photo(name="coffee.png"):
    image, layer = inside.photo(name)
    image.scale(300, 200)
    image.convert_precision(inside.U16)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 80, 40, 120, 100)
    Gimp.Selection.feather(image, 8)
    return image, layer


def moved_and_reselected(output):
    image, layer = photo()
    before, was_selected = inside.raw(layer), inside.selected(image)
    captured = begin(image, layer, output)
    layer.set_offsets(17, -9)
    layer.set_name("renamed")
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 5, 5, 30, 30)
    now_selected = inside.selected(image)
    # GIMP passes a script's settings for selecting on to the procedures that the script calls.
    Gimp.context_set_feather(True)
    Gimp.context_set_feather_radius(20, 20)
    (result,), _missing = place([captured])
    Gimp.context_set_feather(False)
    outside, changed = inside.compare(before, inside.raw(layer), was_selected)
    found = {
        "outside": outside,
        "inside": changed,
        "selection kept": inside.selected(image) == now_selected,
        "channels": len(image.get_channels()),
        "chosen": [each.get_name() for each in image.get_selected_layers()],
    }
    if output == "new-layer":
        _ok, x, y = result.get_offsets()
        found["place"] = [x - captured.box.x, y - captured.box.y]
        box = captured.on_canvas
        mask = inside.raw(result.get_mask(), None, "Y u8")
        wanted = [
            was_selected[(box.y + row) * 300 + box.x : (box.y + row) * 300 + box.x + box.width]
            for row in range(box.height)
        ]
        found["mask kept"] = mask == b"".join(wanted)
    image.delete()
    return found


def gone(what):
    """Place a result after a change that leaves no place for it.

    It must stay in its job, and the image must stay as it is.
    """
    image, layer = photo("retina.jpg" if what.startswith("symmetric") else "coffee.png")
    if what.startswith("twins"):
        repeat(layer, 2, 1)
    output = "new-layer" if what in ("layer", "image", "scaled", "image scaled") else "replace"
    captured = begin(image, layer, output)
    if what == "layer":
        image.remove_layer(layer)
    elif what == "image":
        image.delete()
    elif what == "locked":
        layer.set_lock_content(True)
    elif what == "scaled":
        layer.scale(200, 150, False)
    elif what == "image scaled":
        image.scale(150, 100)
    elif what == "flipped":
        image.flip(Gimp.OrientationType.HORIZONTAL)
    elif what == "symmetric, flipped":
        Gimp.Selection.none(image)
        layer.transform_flip_simple(Gimp.OrientationType.VERTICAL, True, 0)
    elif what == "rotated freely":
        Gimp.Selection.none(image)
        Gimp.context_set_transform_resize(Gimp.TransformResize.CLIP)
        layer.transform_rotate(0.6, True, 0, 0)
    elif what == "twins, cropped":
        image.crop(300, 170, 0, 20)
    elif what == "file lost":
        (captured.job.folder / "placed-1.png").unlink()
    elif what == "rotated":
        image.rotate(Gimp.RotationType.DEGREES180)
    elif what == "cut":
        layer.resize(150, 200, 0, 0)
    there = image.is_valid() and inside.picture_of(image)
    layers, sentences = place([captured])
    assert len(sentences) == 1, what
    (sentence,) = sentences
    untouched = there == (image.is_valid() and inside.picture_of(image))
    name = "result-1.png" if what == "file lost" else "placed-1.png"
    kept = str(captured.job.folder / name)
    return layers, sentence, kept, bool(captured.job.find_imported()), untouched


def reshaped(what, output, source, deep):
    """Place a result after a change to the image or layer: it must lie on the exported pixels."""
    image, layer = inside.photo()
    image.scale(300, 200)
    if deep:
        image.convert_precision(deep)
    if what.startswith("tiles"):
        repeat(layer, 2, 2)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 110, 70, 60, 50)
    captured = begin(image, layer, output, source)
    # The current position of the canvas's former origin.
    dx, dy = 0, 0
    if what == "canvas larger":
        dx, dy = 30, 20
        image.resize(360, 260, dx, dy)
    elif what == "cropped":
        dx, dy = -40, -30
        image.crop(220, 150, 40, 30)
    elif what == "cropped hard":
        dx, dy = -60, -65
        image.crop(220, 90, 60, 65)
    elif what in ("layer larger", "tiles, layer larger"):
        layer.resize(340, 230, 25, 15)
    elif what == "masked and larger":
        layer.add_mask(layer.create_mask(Gimp.AddMaskType.COPY))
        layer.resize(340, 230, 25, 15)
    elif what == "moved in its layer":
        dx, dy = 40, 20
        layer.set_offsets(dx, dy)
        layer.resize_to_image_size()
    elif what == "wrapped around":
        dx, dy = 40, 20
        Gimp.Selection.none(image)
        background = inside.Gegl.Color.new("black")
        layer.offset(True, Gimp.OffsetType.WRAP_AROUND, background, dx, dy)
    elif what == "inverted":
        layer.invert(False)
    elif what == "gray":
        image.convert_grayscale()
    elif what == "indexed":
        image.convert_indexed(
            Gimp.ConvertDitherType.NONE, Gimp.ConvertPaletteType.GENERATE, 64, False, False, ""
        )
    elif what == "deeper":
        image.convert_precision(inside.FLOAT)
    elif what == "duplicated":
        image.insert_layer(layer.copy(), None, 0)
    elif what == "into a group":
        group = Gimp.GroupLayer.new(image, "group")
        image.insert_layer(group, None, 0)
        image.reorder_item(layer, group, 0)
    elif what == "floating":
        Gimp.edit_copy([layer])
        Gimp.edit_paste(layer, False)
    others = inside.picture_of(image)
    before = inside.raw(layer)
    layers, missing = place([captured])
    if not layers:
        return {"missing": missing}
    (result,) = layers
    _ok, lx, ly = layer.get_offsets()
    changed = [
        (i % layer.get_width() + lx - dx, i // layer.get_width() + ly - dy)
        for i in inside.differing(before, inside.raw(layer), layer.get_width() * layer.get_height())
    ]
    found = {
        "missing": missing,
        "changed": changed and [min(x for x, y in changed), min(y for x, y in changed)],
        "changed to": changed and [max(x for x, y in changed), max(y for x, y in changed)],
        "selection": others["selection"] == inside.picture_of(image)["selection"],
        "chosen": others["chosen"] == inside.picture_of(image)["chosen"],
        "parent": result.get_parent() == layer.get_parent() or source == "visible",
    }
    if output == "new-layer":
        _ok, x, y = result.get_offsets()
        found["place"] = [x - dx - captured.on_canvas.x, y - dy - captured.on_canvas.y]
    image.delete()
    return found


def two_layers_one_step():
    """Place the edits of two layers, each with the part of the selection at its own place."""
    image, layer = photo()
    second = layer.copy()
    image.insert_layer(second, None, 0)
    second.set_offsets(15, -10)
    captures = [begin(image, each) for each in (layer, second)]
    layers, _missing = place(captures)
    masks = []
    for each in layers:
        _ok, x, y = each.get_offsets()
        box = (x, y, each.get_width(), each.get_height())
        mask = inside.raw(each.get_mask(), None, "Y u8")
        masks.append(mask == inside.raw(image.get_selection(), box, "Y u8"))
    names = [each.get_name() for each in image.get_layers()]
    return masks, names, [list(each.get_offsets())[1:] for each in layers]


def selection_extended(precision):
    image, layer = inside.photo()
    image.scale(300, 200)
    image.convert_precision(precision)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 80, 40, 120, 100)
    before, was_selected = inside.raw(layer), inside.selected(image)
    captured = begin(image, layer, "replace")
    image.select_rectangle(Gimp.ChannelOps.ADD, 0, 150, 300, 50)
    now_selected = inside.selected(image)
    place([captured])
    outside, changed = inside.compare(before, inside.raw(layer), was_selected)
    return outside, changed > 5000, inside.selected(image) == now_selected


def moved_off_the_canvas():
    """Replace a part of a layer that was moved partly off the canvas, where it has pixels, too."""
    image, layer = photo()
    before, was_selected = inside.raw(layer), inside.selected(image)
    captured = begin(image, layer, "replace")
    layer.set_offsets(-120, 0)
    place([captured])
    outside, changed = inside.compare(before, inside.raw(layer), was_selected)
    return outside, changed > 5000


def one_of_two_gone():
    image, layer = photo()
    second = layer.copy()
    image.insert_layer(second, None, 0)
    captures = [begin(image, layer), begin(image, second)]
    image.remove_layer(second)
    layers, missing = place(captures)
    return len(layers), len(missing), [bool(each.job.find_imported()) for each in captures]


def a_chosen_channel_stays():
    image, layer = photo()
    channel = Gimp.Channel.new(image, "mine", 300, 200, 50, inside.Gegl.Color.new("red"))
    image.insert_channel(channel, None, 0)
    image.set_selected_channels([channel])
    place([begin(image, layer)])
    return [each.get_name() for each in image.get_selected_channels()]


def nothing_left_of_a_failed_capture():
    image, layer = inside.photo()
    beside = Gimp.Layer.new(
        image, "beside", 9, 9, Gimp.ImageType.RGB_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    image.insert_layer(beside, None, 0)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 100, 99, 99)
    jobs = os.environ["DIMILINKS_HOME"] + "/jobs"
    before = os.listdir(jobs)
    status, message, _layers = inside.edit(image, [layer, beside], prompt="x")
    return status, message, os.listdir(jobs) == before


inside.found(
    {
        "new-layer": moved_and_reselected("new-layer"),
        "replace": moved_and_reselected("replace"),
        "gone": {what: gone(what) for what in GONE},
        "reshaped": {
            f"{what}, {output}, {source}, {deep}": reshaped(what, output, source, deep)
            for what in RESHAPED
            for output, source in (
                ("new-layer", "layer"),
                ("replace", "layer"),
                ("new-layer", "visible"),
            )
            for deep in (inside.U16 if what in ("cropped", "canvas larger") else None,)
        },
        "two layers": two_layers_one_step(),
        "extended": [selection_extended(each) for each in (inside.U16, inside.FLOAT, inside.U32)],
        "off canvas": moved_off_the_canvas(),
        "one of two": one_of_two_gone(),
        "channel": a_chosen_channel_stays(),
        "second layer missed": nothing_left_of_a_failed_capture(),
    }
)
