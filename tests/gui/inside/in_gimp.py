"""Functions that open, change and read images in the running GIMP for the tests.

This runs as a batch script, in a plug-in process of its own, so GIMP's windows can be used
meanwhile.
"""

import hashlib
import time

import answering
from gi.repository import Gegl, Gimp, Gio

PRECISIONS = {
    "u8": Gimp.Precision.U8_NON_LINEAR,
    "u16": Gimp.Precision.U16_NON_LINEAR,
    "u32": Gimp.Precision.U32_LINEAR,
    "float": Gimp.Precision.FLOAT_LINEAR,
}

displays = []


def open_image(path, precision="u8", feather=0, kind="", beside=False):
    """Open a picture with an ellipse selected as the only image, and return its id.

    `feather` is in pixels. `kind` makes the image special: indexed, gray, mask, filter, alpha
    lock, group, text, floating, copied image, or copied layer. With `beside`, other images stay
    open.
    """
    if not beside:
        close_images()
    image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
    if precision != "u8":
        image.convert_precision(PRECISIONS[precision])
    width, height = image.get_width(), image.get_height()
    *_, layer = image.get_layers()
    if kind == "indexed":
        image.convert_indexed(
            Gimp.ConvertDitherType.NONE, Gimp.ConvertPaletteType.GENERATE, 64, False, False, ""
        )
    elif kind == "gray":
        image.convert_grayscale()
    elif kind == "mask":
        layer.add_mask(layer.create_mask(Gimp.AddMaskType.COPY))
        layer.set_edit_mask(True)
    elif kind == "alpha lock":
        layer.add_alpha()
        layer.set_lock_alpha(True)
    elif kind == "group":
        group = Gimp.GroupLayer.new(image, "group")
        image.insert_layer(group, None, 0)
        image.reorder_item(layer, group, 0)
        image.set_selected_layers([layer])
    elif kind == "filter":
        layer.append_filter(Gimp.DrawableFilter.new(layer, "gegl:brightness-contrast", "brighter"))
    elif kind == "copied image":
        original = image
        image = original.duplicate()
        original.delete()
    elif kind == "copied layer":
        image.insert_layer(layer.copy(), None, 0)
        image.remove_layer(layer)
    elif kind == "text":
        text = Gimp.TextLayer.new(image, "Words", Gimp.context_get_font(), 90, Gimp.Unit.pixel())
        image.insert_layer(text, None, 0)
        text.set_offsets(width * 0.3, height * 0.4)
        image.set_selected_layers([text])
    Gimp.context_set_feather(feather > 0)
    Gimp.context_set_feather_radius(feather, feather)
    image.select_ellipse(
        Gimp.ChannelOps.REPLACE, width * 0.3, height * 0.2, width * 0.4, height * 0.5
    )
    if kind == "floating":
        Gimp.edit_copy([layer])
        Gimp.edit_paste(layer, False)
    displays.append(Gimp.Display.new(image))
    Gimp.displays_flush()
    return image.get_id()


def select(image, box):
    """Select the rectangle `box`, [x, y, width, height], or nothing if it is empty."""
    image = Gimp.Image.get_by_id(image)
    if box:
        Gimp.context_set_feather(False)
        image.select_rectangle(Gimp.ChannelOps.REPLACE, *box)
    else:
        Gimp.Selection.none(image)
    Gimp.displays_flush()


def add_layer(image, box, also=False):
    """Add a layer called white at `box`, and select it alone, or with `also` in addition."""
    image = Gimp.Image.get_by_id(image)
    chosen = image.get_selected_layers()
    x, y, width, height = box
    layer = Gimp.Layer.new(
        image, "white", width, height, Gimp.ImageType.RGBA_IMAGE, 100, Gimp.LayerMode.NORMAL
    )
    layer.fill(Gimp.FillType.WHITE)
    layer.set_offsets(x, y)
    image.insert_layer(layer, None, 0)
    image.set_selected_layers([layer, *chosen] if also else [layer])
    Gimp.displays_flush()


def remove_layer(image, number):
    """Remove the layer with this number, counted from the top."""
    image = Gimp.Image.get_by_id(image)
    image.remove_layer(image.get_layers()[number])
    Gimp.displays_flush()


def come_and_go(image, times):
    """Add a copy of the lowest layer on top and remove it again, `times` times."""
    image = Gimp.Image.get_by_id(image)
    for number in range(times):
        layer = image.get_layers()[-1].copy()
        image.insert_layer(layer, None, 0)
        image.set_selected_layers([layer])
        Gimp.displays_flush()
        time.sleep(number % 20 / 50)
        image.remove_layer(layer)
        Gimp.displays_flush()


def close_images():
    """Close all images, also those without a display."""
    while displays:
        displays.pop().delete()
    for image in Gimp.get_images():
        image.delete()


def images():
    """Return the ids of all open images, with or without a display."""
    return [image.get_id() for image in Gimp.get_images()]


def state(image):
    """Return everything that an undo must restore, with digests of pixels in their own format."""
    image = Gimp.Image.get_by_id(image)
    return {
        "layers": [_layer(layer) for layer in image.get_layers()],
        "selected": [layer.get_id() for layer in image.get_selected_layers()],
        "selection": _digest(image.get_selection()),
        "channels": [channel.get_name() for channel in image.get_channels()],
        "precision": image.get_precision().value_nick,
    }


def outline(image):
    """Return name, visibility and children of the layers, which may disappear meanwhile."""
    return _outline(Gimp.Image.get_by_id(image).get_layers())


def _outline(layers):
    return [
        {
            "name": layer.get_name(),
            "visible": layer.get_visible(),
            "children": _outline(layer.get_children()) if layer.is_group() else [],
        }
        for layer in layers
        if layer.is_valid()
    ]


def _layer(layer):
    mask = layer.get_mask()
    _ok, x, y = layer.get_offsets()
    return {
        "id": layer.get_id(),
        "name": layer.get_name(),
        "box": [x, y, layer.get_width(), layer.get_height()],
        "children": [_layer(child) for child in layer.get_children()] if layer.is_group() else [],
        "locked": layer.get_lock_alpha(),
        "opacity": layer.get_opacity(),
        "visible": layer.get_visible(),
        "pixels": _digest(layer),
        "mask": _digest(mask) if mask else None,
    }


def _digest(drawable):
    return hashlib.sha256(_bytes(drawable)).hexdigest()


def _bytes(drawable, pixel_format=None):
    """Return a drawable's pixels, by default in its own format."""
    whole = Gegl.Rectangle.new(0, 0, drawable.get_width(), drawable.get_height())
    return drawable.get_buffer().get(whole, 1.0, pixel_format, Gegl.AbyssPolicy.NONE)


def write_view(image, path):
    """Write what is visible as raw R'G'B'A u16 values."""
    image = Gimp.Image.get_by_id(image)
    seen = Gimp.Layer.new_from_visible(image, image, "seen")
    with open(path, "wb") as file:
        file.write(_bytes(seen, "R'G'B'A u16"))
    seen.delete()


def write_selection(image, path):
    """Write the selection as raw bytes, in which 255 is fully selected."""
    image = Gimp.Image.get_by_id(image)
    with open(path, "wb") as file:
        file.write(_bytes(image.get_selection(), "Y u8"))


def edit(image, **values):
    """Edit the selected layers without a dialog, and return the status and the last error."""
    image = Gimp.Image.get_by_id(image)
    procedure = Gimp.get_pdb().lookup_procedure("dimilinks-edit")
    config = procedure.create_config()
    config.set_property("image", image)
    config.set_core_object_array("drawables", image.get_selected_layers())
    for name, value in values.items():
        config.set_property(name, value)
    status = procedure.run(config).index(0)
    Gimp.displays_flush()
    return [status.value_nick, Gimp.get_pdb().get_last_error()]


def save(image, path):
    """Save an image as XCF."""
    image = Gimp.Image.get_by_id(image)
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, image, Gio.File.new_for_path(path), None)


def serve(path):
    """Answer the tests until they need no more answers."""
    Gegl.init(None)
    functions = (
        *(open_image, close_images, images, select, add_layer, remove_layer, come_and_go),
        *(state, outline, write_view, write_selection, edit, save),
    )
    answering.serve(path, {function.__name__: function for function in functions})
    close_images()
