"""Functions for the scripts in GIMP: open photographs, call the procedure, and compare pixels."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gegl, Gimp, Gio  # noqa: E402

Gegl.init(None)

FOLDER = sys.argv[1]
ARGUMENTS = sys.argv[2:]
PHOTOS = os.environ["DIMILINKS_TEST_PHOTOS"]
PLUG_IN = os.environ["GIMP3_DIRECTORY"] + "/plug-ins/dimilinks_gimp"
SUCCESS = 3
BLOCK = 256
"""The number of pixels that are compared at once."""
U16 = Gimp.Precision.U16_NON_LINEAR
U32 = Gimp.Precision.U32_NON_LINEAR
FLOAT = Gimp.Precision.FLOAT_LINEAR


OPENED = {}
"""The photographs that were opened, by name. Copying an image is faster than opening its file."""


def photo(name="coffee.png"):
    """Return an image that contains a photograph, and its layer."""
    if name not in OPENED:
        file = Gio.File.new_for_path(f"{PHOTOS}/{name}")
        OPENED[name] = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, file)
    image = OPENED[name].duplicate()
    return image, image.get_layers()[0]


def edit(image, drawables, **arguments):
    """Call dimilinks-edit, and return (status, message, layers)."""
    procedure = Gimp.get_pdb().lookup_procedure("dimilinks-edit")
    config = procedure.create_config()
    config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
    config.set_property("image", image)
    config.set_core_object_array("drawables", drawables)
    for name, value in arguments.items():
        if name == "reference_layers":
            config.set_core_object_array("reference-layers", value)
        else:
            config.set_property(name.replace("_", "-"), value)
    result = procedure.run(config)
    status = int(result.index(0))
    if status == SUCCESS:
        return status, "", result.get_core_object_array(1)
    return status, Gimp.get_pdb().get_last_error(), []


WORKED = {}
"""The folders of jobs that a worker has finished, by what was sent."""


def work(captured):
    """Bring a job to its fitted result.

    A worker is started only if none has done the same work before. Otherwise its files are copied.
    """
    folder = captured.job.folder
    sent = [folder / name for name in ("source.png", "mask.png")]
    request = json.loads((folder / "request.json").read_text("utf-8"))
    chosen = [request.get(name) for name in ("prompt", "repair", "blend", "keep_alpha", "region")]
    pictures = b"".join(path.read_bytes() for path in sent if path.exists())
    key = digest(pictures + json.dumps(chosen).encode())
    if key in WORKED:
        for name in ("result-1.png", "placed-1.png", "state.json"):
            shutil.copy(WORKED[key] / name, folder / name)
        return
    with open(f"{PLUG_IN}/worker-python.txt", encoding="utf-8") as file:
        python = file.read().strip()
    command = [python, "-m", "plugin", "resume", captured.job.id]
    subprocess.run(command, cwd=PLUG_IN, check=True, capture_output=True)
    # The job itself may be changed or removed later.
    WORKED[key] = folder.parent.parent / f"worked-{len(WORKED)}"
    shutil.copytree(folder, WORKED[key])


def raw(drawable, box=None, pixel_format=None):
    """Return the drawable's own bytes, or its pixels in another format."""
    x, y, width, height = box or (0, 0, drawable.get_width(), drawable.get_height())
    return drawable.get_buffer().get(
        Gegl.Rectangle.new(x, y, width, height), 1.0, pixel_format, Gegl.AbyssPolicy.NONE
    )


def view(image, pixel_format="R'G'B' u8", box=None):
    """Return what is visible in the image, or in a box of it. None is the format of the image."""
    seen = Gimp.Layer.new_from_visible(image, image, "seen")
    data = raw(seen, box, pixel_format)
    seen.delete()
    return data


def selected(image, pixel_format="Y u8"):
    """Return the bytes of the selection for the whole canvas."""
    return raw(image.get_selection(), (0, 0, image.get_width(), image.get_height()), pixel_format)


def compare(before, after, selection):
    """Return how many pixels differ (outside, inside) the selection.

    All arguments have the same number of pixels; the selection has one byte per pixel.
    """
    changed = differing(before, after, len(selection))
    inside = sum(1 for i in changed if selection[i])
    return len(changed) - inside, inside


def hide_by_mask(image, layer, ellipse, feather):
    """Give the layer a mask that hides a feathered ellipse, and select nothing."""
    mask = layer.create_mask(Gimp.AddMaskType.WHITE)
    layer.add_mask(mask)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, *ellipse)
    Gimp.Selection.feather(image, feather)
    Gimp.context_set_foreground(Gegl.Color.new("black"))
    mask.edit_fill(Gimp.FillType.FOREGROUND)
    Gimp.Selection.none(image)


def differing(before, after, count):
    """Return the numbers of the pixels that differ. Each argument contains `count` pixels."""
    size = len(before) // count
    assert len(before) == len(after) == size * count
    found = []
    # Most pixels are equal, so compare many of them at once first.
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        if before[first * size : last * size] != after[first * size : last * size]:
            places = ((i, slice(i * size, (i + 1) * size)) for i in range(first, last))
            found += [i for i, place in places if before[place] != after[place]]
    return found


def digest(data):
    return hashlib.sha256(data).hexdigest()


def picture_of(image):
    """Return a description of an image, from which changes can be recognised."""
    return {
        "layers": [
            [layer.get_name(), list(layer.get_offsets())[1:], digest(raw(layer))]
            for layer in all_layers(image.get_layers())
        ],
        "channels": [channel.get_name() for channel in image.get_channels()],
        "selection": digest(selected(image)),
        "chosen": [layer.get_name() for layer in image.get_selected_layers()],
        "images": len(Gimp.get_images()),
    }


def all_layers(layers):
    for layer in layers:
        yield layer
        if layer.is_group():
            yield from all_layers(layer.get_children())


def found(value):
    """Write `value` to the file that the test reads."""
    with open(f"{FOLDER}/found.json", "w", encoding="utf-8") as file:
        json.dump(value, file)
