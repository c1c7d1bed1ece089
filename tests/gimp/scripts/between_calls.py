"""What the user may do between two calls to GIMP while an edit is captured or placed.

Capturing and placing run in this process. One of the functions that they call is wrapped, so that
the user's action happens just before it. There is an edit for each pair of function and action.
"""

import sys

import inside
from gi.repository import Gegl, Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin import job
from plugin.errors import UserError
from plugin.gimp import capture, placing, planning, replacing, results
from plugin.gimp.canvas import landmarks, pixels
from plugin.gimp.procedures import write

WIDTH, HEIGHT = 300, 200
SELECTED = (80, 40, 120, 100)


def deselect(image, layer):
    Gimp.Selection.none(image)


def select_elsewhere(image, layer):
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 5, 5, 40, 30)


def select_more(image, layer):
    image.select_rectangle(Gimp.ChannelOps.ADD, 0, 150, 300, 50)


def lock_pixels(image, layer):
    layer.set_lock_content(True)


def lock_position(image, layer):
    layer.set_lock_position(True)


def lock_alpha(image, layer):
    layer.set_lock_alpha(True)


def move(image, layer):
    layer.set_offsets(17, -9)


def hide(image, layer):
    layer.set_visible(False)


def extend(image, layer):
    layer.resize(340, 230, 25, 15)


def cut(image, layer):
    layer.resize(150, 120, 0, 0)


def deepen(image, layer):
    image.convert_precision(inside.FLOAT)


def to_profile(image, layer):
    image.convert_color_profile(
        Gimp.ColorProfile.new_rgb_adobe(), Gimp.ColorRenderingIntent.PERCEPTUAL, False
    )


def make_indexed(image, layer):
    image.convert_indexed(
        Gimp.ConvertDitherType.FS, Gimp.ConvertPaletteType.GENERATE, 64, False, False, ""
    )


def make_gray(image, layer):
    image.convert_grayscale()


def paint(image, layer):
    """Paint a stripe across the selection, which stays the same."""
    selection = image.get_selection().save(image)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 120, 0, 30, HEIGHT)
    layer.edit_fill(Gimp.FillType.WHITE)
    image.select_item(Gimp.ChannelOps.REPLACE, selection)
    image.remove_channel(selection)


def put_above(image, layer):
    image.insert_layer(layer.copy(), None, 0)


def into_group(image, layer):
    group = Gimp.GroupLayer.new(image, "group")
    image.insert_layer(group, None, 0)
    image.reorder_item(layer, group, 0)


def into_locked_group(image, layer):
    into_group(image, layer)
    layer.get_parent().set_lock_content(True)


def delete(image, layer):
    image.remove_layer(layer)


def close(image, layer):
    image.delete()


ACTIONS = (
    *(deselect, select_elsewhere, select_more, lock_pixels, lock_position, lock_alpha, move, hide),
    *(extend, cut, deepen, make_gray, make_indexed, to_profile, paint, put_above, into_group),
    *(into_locked_group, delete, close),
)
MOMENTS = {
    "capture": (
        (landmarks, "take"),
        (pixels, "write_png"),
        (pixels, "write_mask_png"),
        (job, "publish"),
    ),
    "new-layer": ((landmarks, "find"), (pixels, "load_png"), (results, "above_earlier")),
    "replace": (
        (landmarks, "find"),
        (pixels, "lay_over"),
        (replacing, "keep_for_undo"),
        # This is called right after the pixels were written.
        (Gimp.Layer, "update"),
    ),
    "process": ((write, "run"), (Gimp.Layer, "update")),
}
"""The wrapped functions, by what the plug-in does when it calls them.

In a GIMP with windows, another process writes the result, and GIMP may kill it for the action.
"""


PREPARED = {}
"""An image with and without a selection. Copying an image is faster than preparing another one."""


def photo(is_selected=True):
    if is_selected not in PREPARED:
        image, _layer = inside.photo()
        image.scale(WIDTH, HEIGHT)
        if is_selected:
            image.select_ellipse(Gimp.ChannelOps.REPLACE, *SELECTED)
            Gimp.Selection.feather(image, 8)
        PREPARED[is_selected] = image
    image = PREPARED[is_selected].duplicate()
    return image, image.get_layers()[0]


def request(output="new-layer"):
    return planning.Request(
        *("black and white", "gpt-image-2", "auto", "auto", output, "layer"),
        # With so little context, only a part of the layer is sent.
        *(True, 1, [], [], 0, 8, True),
        titled=True,
    )


FATAL = lock_pixels, into_locked_group, delete, cut, extend
WHILE_WRITTEN = [action for action in ACTIONS if action not in (*FATAL, paint)]
"""The actions that are safe while this process writes: GIMP doesn't kill it for them.

What is painted into a tile while it is written is lost. `painted_meanwhile` paints between tiles.
"""


def interrupted(module, name, action):
    """Wrap a function of a module or class, so that `action` happens once, before its next call.

    Return a function that removes the wrapper.
    """
    original = getattr(module, name)

    def wrapped(*arguments, **named):
        setattr(module, name, original)
        action()
        return original(*arguments, **named)

    setattr(module, name, wrapped)
    return lambda: setattr(module, name, original)


def left_behind(image):
    """Return what an edit has left in the image, although it must not leave anything."""
    if not image.is_valid():
        return []
    left = [each.get_name() for each in image.get_channels()]
    if not image.undo_is_enabled():
        left.append("no undo")
    return left


def state(image, layer):
    """Return what an edit must not change: the selection, and the layer's properties."""
    if not (image.is_valid() and layer.is_valid()):
        return None
    locks = layer.get_lock_content(), layer.get_lock_position(), layer.get_lock_alpha()
    return inside.digest(inside.selected(image)), locks, layer.get_visible(), layer.get_offsets()


def written_meanwhile(action):
    """Have `action` happen while the pixels are written: just before the first flush to GIMP.

    Return a function that removes the wrappers.
    """
    restore = []

    def next_flush():
        restore.append(interrupted(Gegl.Buffer, "flush", action))

    restore.append(interrupted(replacing, "keep_for_undo", next_flush))
    return lambda: [each() for each in restore]


def expected(action, is_selected=True):
    """Return the `state` and the layer's bytes after `action`, in an image without an edit."""
    image, layer = photo(is_selected)
    action(image, layer)
    there = image.is_valid() and layer.is_valid()
    found = state(image, layer), inside.raw(layer) if there else b""
    if image.is_valid():
        image.delete()
    return found


def captured_meanwhile(module, name, action):
    """Capture an edit with an action in between, and return what is wrong, or "".

    What is sent must be what was there before the action.
    """
    image, layer = photo()
    restore = interrupted(module, name, lambda: action(image, layer))
    try:
        (made,) = capture.capture(image, [layer], request())
    except UserError as error:
        return str(error)
    finally:
        restore()
        if image.is_valid():
            image.delete()
    return "" if sent(made) == alone else "sent something else"


def placed_meanwhile(output, module, name, action):
    is_selected = output != "replace all"
    image, layer = photo(is_selected)
    selected = inside.selected(image) if is_selected else bytes([255]) * (WIDTH * HEIGHT)
    has_windows = output == "process"
    replacing._has_windows = lambda: has_windows
    output = "new-layer" if output == "new-layer" else "replace"
    (made,) = capture.capture(image, [layer], request(output))
    inside.work(made)

    def act():
        action(image, layer)

    restore = written_meanwhile(act) if name == "written" else interrupted(module, name, act)
    images = len(Gimp.get_images())
    placed, missing = placing.place([made])
    restore()
    wanted, bytes_then = expected(action, is_selected)
    found = {
        "placed": len(placed),
        "missing": missing,
        "imported": bool(made.job.find_imported()),
        "left": left_behind(image),
        "images": len(Gimp.get_images()) - images + (not image.is_valid()),
        "state": state(image, layer) == wanted,
        "outside": 0,
        "inside": 0,
    }
    if state(image, layer) is not None:
        now = inside.raw(layer)
        if len(bytes_then) == len(now) and (layer.get_width(), layer.get_height()) == (
            WIDTH,
            HEIGHT,
        ):
            found["outside"], found["inside"] = inside.compare(bytes_then, now, selected)
        elif not placed or output == "new-layer":
            found["outside"] = int(now != bytes_then)
    if placed and output == "new-layer":
        (result,) = [each.layer for each in placed]
        box = made.on_canvas
        mask = inside.raw(result.get_mask(), None, "Y u8")
        rows = [
            selected[y * WIDTH + box.x : y * WIDTH + box.x + box.width]
            for y in range(box.y, box.y + box.height)
        ]
        found["mask"] = mask == b"".join(rows)
    if image.is_valid():
        image.delete()
    return found


def sent_alone():
    """Return the source and the mask of an edit during which the user does nothing."""
    image, layer = photo()
    (made,) = capture.capture(image, [layer], request())
    image.delete()
    return sent(made)


def sent(made):
    return [(made.job.folder / name).read_bytes() for name in ("source.png", "mask.png")]


alone = sent_alone()
inside.found(
    {
        "captured": {
            f"{name}, {action.__name__}": captured_meanwhile(module, name, action)
            for module, name in MOMENTS["capture"]
            for action in ACTIONS
        },
        "placed": {
            f"{output}, {name}, {action.__name__}": placed_meanwhile(output, module, name, action)
            for output in ("new-layer", "replace", "process")
            for module, name in MOMENTS[output]
            for action in ACTIONS
        }
        | {
            f"{output}, written, {action.__name__}": placed_meanwhile(
                output, None, "written", action
            )
            for output in ("replace", "replace all")
            for action in WHILE_WRITTEN
        },
    }
)
