"""Texts in the user's language: labels of the procedure, and errors of plug-in and worker."""

import inside
from gi.repository import Gimp

procedure = Gimp.get_pdb().lookup_procedure("dimilinks-edit")
image, layer = inside.photo()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 100, 200, 150)
_other, strange = inside.photo("chelsea.png")
inside.found(
    {
        "label": procedure.get_menu_label(),
        "argument": procedure.find_argument("repair").get_nick(),
        "empty prompt": inside.edit(image, [layer], prompt=" ")[1],
        "size": inside.edit(image, [layer], prompt="x", size="7")[1],
        "another image": inside.edit(image, [strange], prompt="x")[1],
        "refused": inside.edit(image, [layer], prompt="x")[1],
    }
)
