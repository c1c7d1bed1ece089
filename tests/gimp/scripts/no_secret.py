"""Three edits, and the image saved as a file. The test's service may refuse one of the edits."""

import inside
from gi.repository import Gimp, Gio

PROMPT, REFERENCE = inside.ARGUMENTS

image, layer = inside.photo()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 100, 100, 120, 90)
told = []
for output in ("new-layer", "replace", "new-layer"):
    status, message, layers = inside.edit(
        image, [layer], prompt=PROMPT, output=output, reference_files=[REFERENCE]
    )
    told.append([status, message, len(layers)])
saved = Gio.File.new_for_path(f"{inside.FOLDER}/edited.xcf")
Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, image, saved, None)
inside.found(told)
