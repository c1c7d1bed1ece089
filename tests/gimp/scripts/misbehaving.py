"""Edits with a service that misbehaves in several ways, without and with repair.

The findings are the mean difference inside the selection and the largest one outside.
"""

import inside
from gi.repository import Gimp


def off(preset, output, repair):
    image, layer = inside.photo()
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 200, 100, 220, 180)
    chosen = inside.selected(image)
    before = inside.view(image)
    status, message, _layers = inside.edit(
        image, [layer], prompt=f"echo\nmisbehave: {preset}", output=output, repair=repair
    )
    assert status == inside.SUCCESS, message
    after = inside.view(image)
    image.delete()
    wrong = [abs(a - b) for a, b in zip(before, after)]
    within = [max(wrong[3 * i : 3 * i + 3]) for i, value in enumerate(chosen) if value]
    beyond = [max(wrong[3 * i : 3 * i + 3]) for i, value in enumerate(chosen) if not value]
    return sum(within) / len(within), max(beyond)


inside.found(
    {
        f"{preset}, {output}": [off(preset, output, repair) for repair in (False, True)]
        for preset, output in (
            ("drifting", "new-layer"),
            ("zooming", "replace"),
            ("other size", "new-layer"),
            ("smeared", "replace"),
        )
    }
)
