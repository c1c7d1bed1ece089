"""An edit for each fault that the test's service causes, and the image before and after it."""

import os

import inside
from gi.repository import Gimp


def edited(output):
    image, layer = inside.photo()
    image.scale(300, 200)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 80, 40, 120, 100)
    before, pixels = inside.picture_of(image), inside.raw(layer)
    status, message, layers = inside.edit(image, [layer], prompt="sepia", output=output)
    after = inside.picture_of(image)
    outside, changed = inside.compare(pixels, inside.raw(layer), inside.selected(image))
    found = {
        "status": status,
        "message": message,
        "layers": len(layers),
        "untouched": before == after,
        "outside": outside,
        "inside": changed,
        "jobs": sorted(os.listdir(os.environ["DIMILINKS_HOME"] + "/jobs")),
    }
    image.delete()
    return found


inside.found([edited(output) for output in inside.ARGUMENTS])
