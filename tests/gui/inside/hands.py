"""A plug-in with four processes that work for the tests in one GIMP at the same time.

One of them reads images, one does what a user does, and two request edits. Each is a procedure,
which GIMP starts by itself in a process of its own and which answers the tests on a socket of its
name. So one can act while another one waits for the end of an edit.
"""

import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import answering
import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
from gi.repository import Gegl, Gimp, Gio, GLib  # noqa: E402

NAMES = ("watcher", "user", "editor-1", "editor-2")
PRECISIONS = {"u16": Gimp.Precision.U16_NON_LINEAR, "float": Gimp.Precision.FLOAT_LINEAR}
LOCKS = ("content", "alpha", "position", "visibility")

photographs = {}


# Functions of the watcher


def open_image(path, precision, selection):
    """Open a photograph as a layer above its mirror image, with a part of it selected.

    Returns the ids of the image, of a copy without a display (the twin), and of the display. The
    image has no undo history.
    """
    if path not in photographs:
        photographs[path] = _photograph(path)
    image = photographs[path].duplicate()
    if precision != "u8":
        image.convert_precision(PRECISIONS[precision])
    _select(image, selection)
    twin = image.duplicate()
    # This clears the undo history.
    image.undo_disable()
    image.undo_enable()
    display = Gimp.Display.new(image)
    Gimp.displays_flush()
    return image.get_id(), twin.get_id(), display.get_id()


def _photograph(path):
    image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
    (layer,) = image.get_layers()
    layer.set_name("edited")
    below = layer.copy()
    below.set_name("below")
    image.insert_layer(below, None, 1)
    below.transform_flip_simple(Gimp.OrientationType.HORIZONTAL, True, 0)
    image.set_selected_layers([layer])
    return image


def _select(image, kind):
    width, height = image.get_width(), image.get_height()
    Gimp.context_set_defaults()
    if kind == "rectangle":
        box = (width * 0.2, height * 0.2, width * 0.45, height * 0.5)
        image.select_rectangle(Gimp.ChannelOps.REPLACE, *map(round, box))
    elif kind == "feathered ellipse":
        Gimp.context_set_feather(True)
        Gimp.context_set_feather_radius(width * 0.02, width * 0.02)
        box = (width * 0.25, height * 0.25, width * 0.5, height * 0.45)
        image.select_ellipse(Gimp.ChannelOps.REPLACE, *box)
        Gimp.context_set_feather(False)
    elif kind == "by colour":
        layer = image.get_layers()[0]
        _ok, colour = image.pick_color([layer], width / 2, height / 2, False, False, 0)
        Gimp.context_set_sample_threshold(0.12)
        image.select_color(Gimp.ChannelOps.REPLACE, layer, colour)


def duplicate(image):
    """Copy an image without a display, and return the id of the copy."""
    return Gimp.Image.get_by_id(image).duplicate().get_id()


def state(image, folder, known=None):
    """Return the state of an image, or None if the image is gone.

    Pixels are written to `folder` as raw bytes, in files named by their digests. `known` is an
    earlier state with the same pixels in each layer, which needn't be read again.
    """
    image = Gimp.Image.get_by_id(image)
    if image is None or not image.is_valid():
        return None
    same = {layer["name"]: layer for layer in known["layers"]} if known else {}
    return {
        "layers": [_layer(each, folder, same.get(each.get_name())) for each in image.get_layers()],
        "chosen": [layer.get_name() for layer in image.get_selected_layers()],
        "selection": _keep(image.get_selection(), folder, "Y u8"),
        "channels": [channel.get_name() for channel in image.get_channels()],
        "precision": image.get_precision().value_nick,
        "base": image.get_base_type().value_nick,
        "size": [image.get_width(), image.get_height()],
        "undo": image.undo_is_enabled(),
    }


def _layer(layer, folder, known):
    mask = layer.get_mask()
    locks = [name for name in LOCKS if getattr(layer, f"get_lock_{name}")()]
    return {
        "id": layer.get_id(),
        "name": layer.get_name(),
        "at": list(layer.get_offsets())[1:],
        "size": [layer.get_width(), layer.get_height()],
        "locks": locks,
        "visible": layer.get_visible(),
        "opacity": layer.get_opacity(),
        "pixels": known["pixels"] if known else _keep(layer, folder),
        "mask": _keep(mask, folder, "Y u16") if mask else None,
    }


def _keep(drawable, folder, pixel_format=None):
    whole = Gegl.Rectangle.new(0, 0, drawable.get_width(), drawable.get_height())
    data = drawable.get_buffer().get(whole, 1.0, pixel_format, Gegl.AbyssPolicy.NONE)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    file = Path(folder, digest)
    if not file.exists():
        file.write_bytes(data)
    return digest


def colours(layer, folder):
    """Write a layer's R'G'B' u8 values to `folder`, and return the file's name."""
    return _keep(Gimp.Layer.get_by_id(layer), folder, "R'G'B' u8")


def glance(image):
    """Return a summary that differs after the image has changed, or None while it changes.

    To be quick, it covers only some rows of pixels.
    """
    image = Gimp.Image.get_by_id(image)
    seen = []
    for layer in image.get_layers():
        digest = _lines(layer)
        if digest is None:
            return None
        places = list(layer.get_offsets())[1:]
        locks = [getattr(layer, f"get_lock_{name}")() for name in LOCKS]
        seen.append([layer.get_name(), *places, *locks, digest])
    channels = [channel.get_name() for channel in image.get_channels()]
    # The bounds are not enough: in deep images, those of a feathered selection are the whole image.
    selection = _lines(image.get_selection())
    return [seen, selection, channels, image.get_precision().value_nick]


def _lines(drawable):
    """Return a digest of some rows of pixels, or None while the drawable changes."""
    width, height = drawable.get_width(), drawable.get_height()
    digest = hashlib.blake2b()
    for line in range(0, height, max(1, height // 60)):
        row = Gegl.Rectangle.new(0, line, width, 1)
        buffer = drawable.get_buffer()
        if buffer is None:
            return None
        digest.update(buffer.get(row, 1.0, None, Gegl.AbyssPolicy.NONE))
    return digest.hexdigest()


def images():
    """Return the ids of all open images, without the photographs that are kept to be copied."""
    kept = {image.get_id() for image in photographs.values()}
    return [image.get_id() for image in Gimp.get_images() if image.get_id() not in kept]


def close_images(displays):
    """Close these displays, and all images except the photographs that are kept to be copied."""
    for display in map(Gimp.Display.get_by_id, displays):
        if display is not None and display.is_valid():
            display.delete()
    for image in map(Gimp.Image.get_by_id, images()):
        if image is not None and image.is_valid():
            image.delete()


# Functions of the editors


def edit(image, prompt, **values):
    """Edit the layer called edited, and return the status and the error message of the call."""
    image = Gimp.Image.get_by_id(image)
    procedure = Gimp.get_pdb().lookup_procedure("dimilinks-edit")
    config = procedure.create_config()
    config.set_property("image", image)
    config.set_core_object_array("drawables", [_named(image, "edited")])
    config.set_property("prompt", prompt)
    for name, value in values.items():
        config.set_property(name, value)
    status = procedure.run(config).index(0)
    message = "" if status == Gimp.PDBStatusType.SUCCESS else Gimp.get_pdb().get_last_error()
    # Without this, GIMP's menu doesn't offer to undo the edit.
    Gimp.displays_flush()
    return status.value_nick, message


# Functions of the user


def act(image, deed, values):
    """Do one of DEEDS, by default to the layer called edited, and return whether it worked.

    Equal values have the same effect on equal images.
    """
    image = Gimp.Image.get_by_id(image)
    if image is None or not image.is_valid():
        return False
    Gimp.context_set_defaults()
    Gimp.context_set_foreground(Gegl.Color.new("lime"))
    done = DEEDS[deed](image, **values)
    Gimp.displays_flush()
    return bool(done)


def _named(image, name):
    return next((layer for layer in image.get_layers() if layer.get_name() == name), None)


def _rectangle(image, box):
    width, height = image.get_width(), image.get_height()
    x, y, across, down = box
    box = (width * x, height * y, width * across, height * down)
    return image.select_rectangle(Gimp.ChannelOps.REPLACE, *map(round, box))


def _ellipse(image, box):
    width, height = image.get_width(), image.get_height()
    x, y, across, down = box
    box = (width * x, height * y, width * across, height * down)
    return image.select_ellipse(Gimp.ChannelOps.ADD, *box)


def _on_layer(deed):
    def act(image, name="edited", **values):
        layer = _named(image, name)
        return layer is not None and deed(image, layer, **values)

    return act


def _stroke(image, layer, box):
    """Draw a pencil line, which GIMP clips to the selection."""
    width, height = image.get_width(), image.get_height()
    x, y, across, down = box
    Gimp.context_set_brush_size(max(4, width / 100))
    return Gimp.pencil(layer, [width * x, height * y, width * (x + across), height * (y + down)])


def _fill(image, layer, box):
    """Select a rectangle and fill it, unless the layer is locked."""
    selected = _rectangle(image, box)
    layer.edit_fill(Gimp.FillType.FOREGROUND)
    return selected


def _lock(image, layer, what):
    return getattr(layer, f"set_lock_{what}")(True)


def _move(image, layer, by):
    _ok, x, y = layer.get_offsets()
    return layer.set_offsets(x + by[0], y + by[1])


def _convert(image, to):
    if to == "gray":
        if image.get_base_type() == Gimp.ImageBaseType.GRAY:
            return False
        return image.convert_grayscale()
    if image.get_precision() == PRECISIONS[to]:
        return False
    return image.convert_precision(PRECISIONS[to])


def _add(image, number):
    layer = Gimp.Layer.new(
        image, f"user's {number}", 90, 60, _own_type(image), 100, Gimp.LayerMode.NORMAL
    )
    layer.fill(Gimp.FillType.FOREGROUND)
    return image.insert_layer(layer, None, 0)


def _own_type(image):
    gray = image.get_base_type() == Gimp.ImageBaseType.GRAY
    return Gimp.ImageType.GRAYA_IMAGE if gray else Gimp.ImageType.RGBA_IMAGE


def _copy(image, layer, number):
    copy = layer.copy()
    copy.set_name(f"user's {number}")
    return image.insert_layer(copy, None, 0)


DEEDS = {
    "select": _rectangle,
    "select more": _ellipse,
    "select all": lambda image: Gimp.Selection.all(image),
    "select none": lambda image: Gimp.Selection.none(image),
    "invert": lambda image: Gimp.Selection.invert(image),
    "delete": _on_layer(lambda image, layer: image.remove_layer(layer)),
    "lock": _on_layer(_lock),
    "move": _on_layer(_move),
    "stroke": _on_layer(_stroke),
    "fill": _on_layer(_fill),
    "convert": _convert,
    "add layer": _add,
    "copy layer": _on_layer(_copy),
    "choose": _on_layer(lambda image, layer: image.set_selected_layers([layer])),
}


def view(image):
    """Show the image in another display, and return the display's id."""
    display = Gimp.Display.new(Gimp.Image.get_by_id(image))
    Gimp.displays_flush()
    return display.get_id()


def chosen(image):
    """Return whether any layer of the image is selected."""
    return bool(Gimp.Image.get_by_id(image).get_selected_layers())


def close(displays):
    """Close displays. An image is closed with its last display."""
    for display in map(Gimp.Display.get_by_id, displays):
        display.delete()


def _end_with_gimp(gimp):
    """End this process when GIMP has ended, which it doesn't notice while it waits for tests."""
    while os.getppid() == gimp:
        time.sleep(0.5)
    os._exit(1)


class Hands(Gimp.PlugIn):
    def do_set_i18n(self, _name):
        return False

    def do_query_procedures(self):
        return [f"tests-{name}" for name in NAMES]

    def do_create_procedure(self, name):
        return Gimp.Procedure.new(self, name, Gimp.PDBProcType.PERSISTENT, self._run, None)

    def _run(self, procedure, config, _data):
        threading.Thread(target=_end_with_gimp, args=(os.getppid(),), daemon=True).start()
        procedure.persistent_ready()
        Gegl.init(None)
        functions = (open_image, duplicate, state, colours, glance, images, close_images)
        answering.serve(
            f"{os.environ['TESTS_HANDS']}/{procedure.get_name().removeprefix('tests-')}",
            {
                function.__name__: function
                for function in (*functions, edit, act, view, chosen, close)
            },
        )
        return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, GLib.Error())


def main():
    Gimp.main(Hands.__gtype__, sys.argv)
