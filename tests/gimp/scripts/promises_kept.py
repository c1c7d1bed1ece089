"""Edits whose results would be hidden, and edits with unusual layers, references and filters."""

import os
import sys
from pathlib import Path

import inside
from gi.repository import Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin.gimp import results
from plugin.gimp.canvas import undo

WIDTH, HEIGHT = 300, 200
JOBS = Path(os.environ["DIMILINKS_HOME"], "jobs")


def photo():
    image, layer = inside.photo()
    image.scale(WIDTH, HEIGHT)
    return image, layer


def jobs():
    return sorted(JOBS.iterdir()) if JOBS.exists() else []


def attempt(image, layer, **arguments):
    """Edit a layer, and return [status, message, number of jobs that were made]."""
    before = len(jobs())
    status, message, _made = inside.edit(image, [layer], prompt="black and white", **arguments)
    image.delete()
    return [status, message, len(jobs()) - before]


def blank(image):
    kind = Gimp.ImageType.RGBA_IMAGE
    layer = Gimp.Layer.new(image, "blank", WIDTH, HEIGHT, kind, 100, Gimp.LayerMode.NORMAL)
    image.insert_layer(layer, None, 0)
    return layer


def hide_all(layer):
    layer.add_mask(layer.create_mask(Gimp.AddMaskType.BLACK))


def hidden():
    """Try edits whose results would be invisible. None of them may be sent."""
    found = {}
    image, _layer = photo()
    found["empty layer"] = attempt(image, blank(image))
    image, _layer = photo()
    found["empty layer, four variations"] = attempt(image, blank(image), variations=4)
    image, _layer = photo()
    found["empty layer, replaced"] = attempt(image, blank(image), output="replace")
    for output in ("new-layer", "replace"):
        image, layer = photo()
        hide_all(layer)
        found[f"black mask, {output}"] = attempt(image, layer, output=output)
        image, layer = photo()
        hide_all(layer)
        image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 100, 80)
        found[f"black mask, selected, {output}"] = attempt(image, layer, output=output)
    image, layer = photo()
    layer.add_alpha()
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 0, 0, 150, 200)
    layer.edit_clear()
    layer.set_lock_alpha(True)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 20, 20, 90, 90)
    found["locked alpha"] = attempt(image, layer)
    image, layer = photo()
    layer.set_visible(False)
    found["everything visible is hidden"] = attempt(image, layer, source="visible")
    image, layer = photo()
    layer.set_opacity(0)
    found["opacity 0"] = attempt(image, layer)
    # Only the corners of the selection's bounding box are visible, and they are not selected.
    image, layer = photo()
    layer.add_alpha()
    Gimp.context_set_antialias(False)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 50, 20, 200, 160)
    Gimp.context_set_antialias(True)
    layer.edit_clear()
    layer.set_lock_alpha(True)
    found["only corners show"] = attempt(image, layer)
    return found


def seen_all_the_same():
    """Make similar edits with visible results, and return their statuses."""
    image, _layer = photo()
    empty = blank(image)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 100, 80)
    found = {"empty layer, selected": attempt(image, empty)[0]}
    image, layer = photo()
    layer.set_visible(False)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 40, 100, 80)
    found["hidden layer"] = attempt(image, layer)[0]
    return found


def in_a_hidden_group(output):
    image, layer = photo()
    group = Gimp.GroupLayer.new(image, "attic")
    image.insert_layer(group, None, 0)
    image.reorder_item(layer, group, 0)
    group.set_visible(False)
    return attempt(image, layer, output=output)[0]


def view(image):
    copy = image.duplicate()
    flat = copy.flatten()
    data = inside.raw(flat, None, "R'G'B' u8")
    copy.delete()
    return data


def clipped(composite):
    """Make an edit that changes nothing in a layer with this composite mode.

    The layers are transparent in parts beside the selection. Return the largest difference in the
    view, and whether the result has the layer's colour spaces.
    """
    image, layer = photo()
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 80, 40, 120, 100)
    Gimp.Selection.invert(image)
    layer.add_alpha()
    layer.edit_clear()
    Gimp.Selection.none(image)
    _other, source = inside.photo("chelsea.png")
    above = Gimp.Layer.new_from_drawable(source, image)
    image.insert_layer(above, None, 0)
    above.add_alpha()
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 130, 60, 60)
    above.edit_clear()
    above.set_composite_mode(getattr(Gimp.LayerCompositeMode, composite))
    above.set_composite_space(Gimp.LayerColorSpace.RGB_PERCEPTUAL)
    above.set_blend_space(Gimp.LayerColorSpace.RGB_PERCEPTUAL)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 30, 100, 90)
    before = view(image)
    status, message, (made,) = inside.edit(image, [above], prompt="echo")
    assert status == inside.SUCCESS, message
    after = view(image)
    modes = [
        int(getattr(made, f"get_{name}")()) == int(getattr(above, f"get_{name}")())
        for name in ("composite_space", "blend_space")
    ]
    return [max(abs(a - b) for a, b in zip(before, after)), modes]


def rotated_reference():
    """Return the size of a reference in its job if EXIF data rotate the file by 90°."""
    image, layer = photo()
    path = f"{inside.FOLDER}/turned.jpg"
    status, message, _made = inside.edit(
        image, [layer], prompt="black and white", reference_files=[path]
    )
    assert status == inside.SUCCESS, message
    (reference,) = jobs()[-1].glob("reference-1.png")
    data = reference.read_bytes()
    return [int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")]


def undo_of_a_dead_process():
    """Clear up after a process that has died while undo was frozen.

    Return whether undo was frozen, whether it was enabled again, whether it was also enabled after
    the user had disabled it, and the layers that are left.
    """
    image, layer = photo()
    held = undo.without_undo(image)
    held.__enter__()
    frozen = not image.undo_is_enabled()
    before = Gimp.Layer.new(image, "Before", 9, 9, Gimp.ImageType.RGBA_IMAGE, 100, layer.get_mode())
    before.attach_parasite(Gimp.Parasite.new("dimilinks-before", 0, b"before"))
    image.insert_layer(before, None, 0)
    results.clear_up(image)
    mended = image.undo_is_enabled()
    # If the user disables undo, it stays disabled.
    image.undo_disable()
    results.clear_up(image)
    users = image.undo_is_enabled()
    return [frozen, mended, users, [each.get_name() for each in image.get_layers()]]


def undone_filter():
    """Replace a part of a layer with a mask, a lock and a filter, which must stay.

    The filter is limited to a selection, in which the view must not change.
    """
    image, layer = photo()
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 100, 60, 60)
    effect = Gimp.DrawableFilter.new(layer, "gegl:gaussian-blur", "blur")
    layer.append_filter(effect)
    layer.add_mask(layer.create_mask(Gimp.AddMaskType.SELECTION))
    mask = inside.raw(layer.get_mask())
    layer.set_apply_mask(False)
    layer.set_lock_position(True)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 20, 20, 90, 90)
    before = view(image)
    selected = inside.selected(image)
    status, message, _made = inside.edit(image, [layer], prompt="black and white", output="replace")
    assert status == inside.SUCCESS, message
    outside, changed = inside.compare(before, view(image), selected)
    return [
        outside,
        changed > 5000,
        inside.raw(layer.get_mask()) == mask,
        [each.get_name() for each in layer.get_filters()],
        layer.get_lock_position(),
    ]


inside.found(
    {
        "hidden": hidden(),
        "seen": seen_all_the_same(),
        "hidden group": [in_a_hidden_group(output) for output in ("new-layer", "replace")],
        "clipped": {
            name: clipped(name)
            for name in ("AUTO", "UNION", "CLIP_TO_BACKDROP", "CLIP_TO_LAYER", "INTERSECTION")
        },
        "rotated": rotated_reference(),
        "undo": undo_of_a_dead_process(),
        "filter": undone_filter(),
    }
)
