"""Edits of a selection in a photograph, as a new layer and in its layer, at two precisions."""

import inside
from gi.repository import Gimp


def case(output, deep, feather):
    image, layer = inside.photo()
    if deep:
        image.convert_precision(inside.U16)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 150, 60, 270, 240)
    if feather:
        Gimp.Selection.feather(image, 12)
    before, picture = inside.raw(layer), inside.picture_of(image)
    selection = inside.selected(image)
    status, message, layers = inside.edit(image, [layer], prompt="black and white", output=output)
    assert status == inside.SUCCESS, message
    after = inside.picture_of(image)
    outside, changed = inside.compare(before, inside.raw(layer), selection)
    result = {
        "stack": [each.get_name() for each in image.get_layers()],
        "outside": outside,
        "inside": changed / sum(1 for value in selection if value),
        "kept": {name: picture[name] == after[name] for name in picture},
        "same object": layers == [layer],
    }
    if output == "new-layer":
        (made,) = layers
        _ok, x, y = made.get_offsets()
        box = (x, y, made.get_width(), made.get_height())
        mask = inside.raw(made.get_mask(), None, "Y float")
        wanted = inside.raw(image.get_selection(), box, "Y float")
        here = inside.raw(image.get_selection(), box, "Y u8")
        result["mask outside"] = sum(
            1 for i, value in enumerate(here) if not value and mask[4 * i : 4 * i + 4] != bytes(4)
        )
        result["mask inside"] = sum(
            1
            for i, value in enumerate(here)
            if value and mask[4 * i : 4 * i + 4] != wanted[4 * i : 4 * i + 4]
        )
        flat = image.duplicate()
        seen = flat.merge_visible_layers(Gimp.MergeType.CLIP_TO_IMAGE)
        result["seen outside"], result["seen inside"] = inside.compare(
            inside.raw(layer, None, "R'G'B' u16"), inside.raw(seen, None, "R'G'B' u16"), selection
        )
        flat.delete()
    image.delete()
    return result


inside.found(
    {
        f"{output} {deep} {feather}": case(output, deep, feather)
        for output in ("new-layer", "replace")
        for deep, feather in ((False, False), (False, True), (True, True))
    }
)
