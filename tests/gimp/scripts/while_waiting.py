"""What a user may do while the service thinks: the two halves of an edit with changes between."""

import os
import subprocess
import sys

import inside
from gi.repository import Gimp

PLUG_IN = os.environ["GIMP3_DIRECTORY"] + "/plug-ins/dimilinks_gimp"
sys.path.insert(0, PLUG_IN)
from plugin.gimp import capture, placing  # noqa: E402
from plugin.gimp.messages import EditError  # noqa: E402


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
    (result,) = placing.place([captured], output == "replace")
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
    captured = begin(image, layer)
    if what == "layer":
        image.remove_layer(layer)
    else:
        image.delete()
    try:
        placing.place([captured], False)
    except EditError as error:
        return str(error), str(captured.job.folder), captured.job.imported
    return None


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
        "layer gone": gone("layer"),
        "image gone": gone("image"),
        "second layer missed": nothing_left_of_a_failed_capture(),
    }
)
