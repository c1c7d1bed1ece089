"""The script of the demo, which runs inside GIMP with the arguments PICTURE OUT PROMPT FIGURES.

The script selects the cup and its saucer in PICTURE, edits them with the procedure
`dimilinks-edit` and the prompt PROMPT, and saves before.png, after.png and edited.xcf in the folder
OUT. The script writes its measurements, such as the number of changed pixels, to the file FIGURES
as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from gi.repository import Gegl, Gimp, Gio  # type: ignore[import-not-found]

# The bounds of the saucer in docs/coffee.jpg, in pixels: x, y, width, height.
SAUCER = (74, 8, 410, 384)


def call(name: str, **values: Any) -> Any:
    """Run GIMP's procedure `name` with the arguments `values`, and return its return values.

    Raises RuntimeError if GIMP has no such procedure or if the procedure fails.
    """
    procedure = Gimp.get_pdb().lookup_procedure(name)
    if procedure is None:
        raise RuntimeError(f"GIMP does not list the procedure {name}")
    config = procedure.create_config()
    for key, value in values.items():
        if isinstance(value, list):
            config.set_core_object_array(key, value)
        else:
            config.set_property(key.replace("_", "-"), value)
    result = procedure.run(config)
    if int(result.index(0)) != int(Gimp.PDBStatusType.SUCCESS):
        raise RuntimeError(Gimp.get_pdb().get_last_error())
    return result


def save_rendered(image: Any, path: str) -> None:
    """Save the image, flattened to one layer as the canvas shows it, to the file `path`."""
    flat = image.duplicate()
    flat.flatten()
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, flat, Gio.File.new_for_path(path), None)
    flat.delete()


def pixels(path: str) -> bytes:
    """Return the pixels of the picture file `path` as non-linear R'G'B', three bytes per pixel."""
    image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
    data = read(image.get_layers()[0], "R'G'B' u8")
    image.delete()
    return data


def read(drawable: Any, format_name: str) -> bytes:
    whole = Gegl.Rectangle.new(0, 0, drawable.get_width(), drawable.get_height())
    data: bytes = drawable.get_buffer().get(whole, 1.0, format_name, Gegl.AbyssPolicy.NONE)
    return data


def compare(before: bytes, after: bytes, selection: bytes) -> dict[str, int]:
    """Count all pixels and the changed pixels, both outside and inside the selection.

    `before` and `after` contain three bytes per pixel, and `selection` contains one. A pixel that
    is only partly selected counts as inside.
    """
    count = {"outside": 0, "outside_changed": 0, "inside": 0, "inside_changed": 0}
    for number, selected in enumerate(selection):
        side = "inside" if selected else "outside"
        where = slice(3 * number, 3 * number + 3)
        count[side] += 1
        count[f"{side}_changed"] += before[where] != after[where]
    return count


def main(picture: str, out: str, prompt: str, figures: str) -> None:
    Gegl.init(None)
    image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(picture))
    layer = image.get_layers()[0]
    save_rendered(image, f"{out}/before.png")
    Gimp.context_set_feather(False)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, *SAUCER)
    selection = read(image.get_selection(), "Y u8")

    started = time.monotonic()
    call("dimilinks-edit", image=image, drawables=[layer], prompt=prompt)
    seconds = time.monotonic() - started

    save_rendered(image, f"{out}/after.png")
    xcf = Gio.File.new_for_path(f"{out}/edited.xcf")
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, image, xcf, None)
    count = compare(pixels(f"{out}/before.png"), pixels(f"{out}/after.png"), selection)
    layers = [
        {"name": each.get_name(), "masked": each.get_mask() is not None}
        for each in image.get_layers()
    ]
    found = {"gimp": Gimp.version(), "seconds": seconds, "layers": layers, **count}
    with open(figures, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
