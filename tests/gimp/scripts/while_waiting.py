"""What a user may do while the service thinks: the two halves of an edit with changes between."""

import os
import subprocess
import sys

import inside
from gi.repository import Gimp

PLUG_IN = os.environ["GIMP3_DIRECTORY"] + "/plug-ins/dimilinks_gimp"
sys.path.insert(0, PLUG_IN)
from plugin.gimp import capture, placing  # noqa: E402


def begin(image, layer, output="new-layer", source="layer"):
    request = capture.Request(
        "black and white", "gpt-image-2", "auto", "auto", output, source, True, 1, [], [], 0, True
    )
    captured = capture.capture(image, layer, request)
    with open(f"{PLUG_IN}/worker-python.txt", encoding="utf-8") as file:
        python = file.read().strip()
    subprocess.run(
        [python, "-m", "plugin", "resume", captured.job.id],
        cwd=PLUG_IN,
        check=True,
        capture_output=True,
    )
    return captured


def photo():
    image, layer = inside.photo()
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
    (result,), _missing = placing.place([captured], output == "replace")
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
    image, layer = photo()
    captured = begin(image, layer, "replace" if what in ("resized", "locked") else "new-layer")
    before = inside.raw(layer)
    if what == "layer":
        image.remove_layer(layer)
    elif what == "image":
        image.delete()
    elif what == "resized":
        layer.resize(320, 220, 10, 10)
        before = inside.raw(layer)
    else:
        layer.set_lock_content(True)
    layers, (sentence,) = placing.place([captured], what in ("resized", "locked"))
    untouched = what in ("layer", "image") or before == inside.raw(layer)
    return layers, sentence, str(captured.job.folder), captured.job.imported, untouched


def resized_below_a_new_layer():
    image, layer = photo()
    captured = begin(image, layer)
    layer.resize(320, 220, 10, 10)
    (result,), _missing = placing.place([captured], False)
    return list(result.get_offsets())[1:] == [captured.on_canvas.x, captured.on_canvas.y]


def selection_extended(precision):
    image, layer = inside.photo()
    image.scale(300, 200)
    image.convert_precision(precision)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 80, 40, 120, 100)
    before, was_selected = inside.raw(layer), inside.selected(image)
    captured = begin(image, layer, "replace")
    image.select_rectangle(Gimp.ChannelOps.ADD, 0, 150, 300, 50)
    now_selected = inside.selected(image)
    placing.place([captured], True)
    outside, changed = inside.compare(before, inside.raw(layer), was_selected)
    return outside, changed > 5000, inside.selected(image) == now_selected


def one_of_two_gone():
    image, layer = photo()
    second = layer.copy()
    image.insert_layer(second, None, 0)
    captures = [begin(image, layer), begin(image, second)]
    image.remove_layer(second)
    layers, missing = placing.place(captures, False)
    return len(layers), len(missing), [each.job.imported for each in captures]


def a_chosen_channel_stays():
    image, layer = photo()
    channel = Gimp.Channel.new(image, "mine", 300, 200, 50, inside.Gegl.Color.new("red"))
    image.insert_channel(channel, None, 0)
    image.set_selected_channels([channel])
    placing.place([begin(image, layer)], False)
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
        "gone": {what: gone(what) for what in ("layer", "image", "resized", "locked")},
        "resized": resized_below_a_new_layer(),
        "extended": [selection_extended(each) for each in (inside.U16, inside.FLOAT, inside.U32)],
        "one of two": one_of_two_gone(),
        "channel": a_chosen_channel_stays(),
        "second layer missed": nothing_left_of_a_failed_capture(),
    }
)
