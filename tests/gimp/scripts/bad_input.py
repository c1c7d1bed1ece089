"""Invalid calls: each must fail with a message, and leave the image as it is.

With an argument, there is one valid call instead, which fails for a reason that the test sets up.
"""

import sys

import inside
from gi.repository import Gimp

sys.path.insert(0, inside.PLUG_IN)
from plugin.gimp.procedures import edit

image, layer = inside.photo()
image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 100, 200, 150)

small = Gimp.Layer.new(
    image, "beside", 50, 50, Gimp.ImageType.RGBA_IMAGE, 100, Gimp.LayerMode.NORMAL
)
image.insert_layer(small, None, 0)
group = Gimp.GroupLayer.new(image, "group")
image.insert_layer(group, None, 0)
locked = layer.copy()
locked.set_name("locked")
image.insert_layer(locked, None, 0)
locked.set_lock_content(True)
text = Gimp.TextLayer.new(image, "words", Gimp.context_get_font(), 20, Gimp.Unit.pixel())
image.insert_layer(text, None, 0)
hidden = layer.copy()
hidden.set_name("hidden")
image.insert_layer(hidden, None, 0)
hidden.add_mask(hidden.create_mask(Gimp.AddMaskType.BLACK))
clear = Gimp.Layer.new(
    image, "clear", 600, 400, Gimp.ImageType.RGBA_IMAGE, 100, Gimp.LayerMode.NORMAL
)
image.insert_layer(clear, None, 0)
clear.set_lock_alpha(True)
channel = Gimp.Channel.new(image, "channel", 60, 40, 50, inside.Gegl.Color.new("red"))
image.insert_channel(channel, None, 0)
image.set_selected_layers([layer])
_other, strange = inside.photo("chelsea.png")

floating, pasted_on = inside.photo("chelsea.png")
floating.select_rectangle(Gimp.ChannelOps.REPLACE, 9, 9, 99, 99)
Gimp.edit_copy([pasted_on])
Gimp.edit_paste(pasted_on, False)

CASES = {
    "empty prompt": ([layer], {"prompt": ""}),
    "blank prompt": ([layer], {"prompt": " \n "}),
    "unseen prompt": ([layer], {"prompt": "\u200b\ufe0f"}),
    "no layer": ([], {"prompt": "x"}),
    "a channel": ([channel], {"prompt": "x"}),
    "a layer of another image": ([strange], {"prompt": "x", "output": "replace"}),
    "too many references": ([layer], {"prompt": "x", "reference_layers": [strange] * 8}),
    "selection misses the layer": ([small], {"prompt": "x"}),
    "impossible size": ([layer], {"prompt": "x", "size": "100x7"}),
    "replace by several": ([layer], {"prompt": "x", "output": "replace", "variations": 2}),
    "replace by visible": ([layer], {"prompt": "x", "output": "replace", "source": "visible"}),
    "replace a group": ([group], {"prompt": "x", "output": "replace"}),
    "replace locked": ([locked], {"prompt": "x", "output": "replace"}),
    "replace text": ([text], {"prompt": "x", "output": "replace"}),
    "a floating selection": (floating.get_layers()[:1], {"prompt": "x"}),
    "visible under a floating selection": ([pasted_on], {"prompt": "x", "source": "visible"}),
    "all hidden by the mask": ([hidden], {"prompt": "x"}),
    "all transparent and locked": ([clear], {"prompt": "x", "output": "replace"}),
    "missing reference": ([layer], {"prompt": "x", "reference_files": ["/nowhere/at all.png"]}),
}
if inside.ARGUMENTS:
    CASES = {"plain": ([layer], {"prompt": "x"})}

found = {}
for name, (drawables, arguments) in CASES.items():
    edited = floating if "floating" in name else image
    before = inside.picture_of(edited)
    status, message, layers = inside.edit(edited, drawables, **arguments)
    found[name] = [status, message, layers, inside.picture_of(edited) == before]
if not inside.ARGUMENTS:
    # GIMP 3.0 calls the procedure like this right after the only selected layer was deleted.
    known = Gimp.get_pdb().lookup_procedure("dimilinks-edit")
    interactive = Gimp.RunMode.INTERACTIVE
    said = edit._run(known, interactive, None, [], known.create_config(), None)
    found["no image"] = [int(said.index(0)), said.index(1), [], True]
inside.found(found)
