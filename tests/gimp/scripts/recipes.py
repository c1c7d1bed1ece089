"""Follow the recipes of docs/guide.md, and write the pictures before and after each step.

The pictures are `NAME-0.png` before the first edit, `NAME-1.png` after it, and so on. What is found
are the selected ellipse of each step, and how many pixels changed outside and inside of it.
"""

import inside
from gi.repository import Gimp, Gio

found = {}


def save(image, name):
    file = Gio.File.new_for_path(f"{inside.FOLDER}/{name}.png")
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, image, file, None)


def recipe(name, photograph, steps):
    """Make the edits of a recipe one after the other, each on the result of the one before.

    A step is (ellipse, prompt, further arguments of the procedure).
    """
    image, layer = inside.photo(photograph)
    save(image, f"{name}-0")
    made = []
    for number, (ellipse, prompt, arguments) in enumerate(steps, 1):
        image.select_ellipse(Gimp.ChannelOps.REPLACE, *ellipse)
        selection = inside.selected(image)
        before = inside.view(image, "R'G'B'A u8")
        status, message, layers = inside.edit(image, [layer], prompt=prompt, **arguments)
        assert status == inside.SUCCESS, message
        outside, changed = inside.compare(before, inside.view(image, "R'G'B'A u8"), selection)
        Gimp.Selection.none(image)
        save(image, f"{name}-{number}")
        made.append({"ellipse": ellipse, "outside": outside, "changed": changed})
        layer = layers[0]
    found[name] = made


MUTED = f"{inside.PHOTOS}/chelsea.png"
recipe("remove", "astronaut.png", [((120, 335, 100, 95), "remove the round patch", {})])
recipe(
    "again",
    "coffee.png",
    [
        ((168, 12, 245, 235), "turn it into a pencil sketch", {}),
        ((200, 92, 165, 95), "make it warmer", {"source": "visible"}),
    ],
)
recipe(
    "reference",
    "coffee.png",
    [((75, 15, 405, 370), "use the palette of the second picture", {"reference_files": [MUTED]})],
)
inside.found(found)
