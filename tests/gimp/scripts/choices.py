"""The other arguments: variations, references, several layers, visible, blend, no selection."""

import inside
from gi.repository import Gimp

found = {}

image, layer = inside.photo()
other, reference = inside.photo("chelsea.png")
image.select_rectangle(Gimp.ChannelOps.REPLACE, 200, 100, 200, 150)

status, message, layers = inside.edit(image, [layer], prompt="warmer", variations=3)
found["variations"] = [message, [each.get_name() for each in image.get_layers()], len(layers)]
found["variations differ in place"] = len({tuple(each.get_offsets()) for each in layers})
for each in layers:
    image.remove_layer(each)

images = len(Gimp.get_images())
status, message, layers = inside.edit(
    image,
    [layer],
    prompt="blend the styles",
    reference_layers=[reference],
    reference_files=[f"{inside.PHOTOS}/rocket.jpg"],
)
found["references"] = [message, len(layers), len(Gimp.get_images()) - images]
for each in layers:
    image.remove_layer(each)

copy = layer.copy()
image.insert_layer(copy, None, 0)
group = Gimp.GroupLayer.new(image, "group")
image.insert_layer(group, None, 0)
image.reorder_item(copy, group, 0)
status, message, layers = inside.edit(image, [layer, copy], prompt="colder")
found["several layers"] = [
    message,
    [[each.get_name(), each.get_parent() is not None] for each in layers],
    image.get_item_position(layers[1]) < image.get_item_position(copy),
]
for each in layers:
    image.remove_layer(each)

status, message, layers = inside.edit(image, [layer], prompt="echo", source="visible")
found["visible"] = [
    message,
    len(layers),
    image.get_item_position(layers[0]),
    layers[0].get_parent() is None,
    [each.get_name() for each in image.get_layers()],
]
for each in layers:
    image.remove_layer(each)

# The result fades in from the selection's edge, and only inside the selection.
status, message, (made,) = inside.edit(image, [layer], prompt="warmer", blend=20)
_ok, x, y = made.get_offsets()
row = inside.raw(made.get_mask(), (0, 175 - y, made.get_width(), 1), "Y u8")
found["blend"] = [row[199 - x], list(row[200 - x : 225 - x]), row[300 - x], row[400 - x]]
image.remove_layer(made)
before = inside.raw(layer)
status, message, _layers = inside.edit(
    image, [layer], prompt="black and white", blend=20, output="replace"
)
after = inside.raw(layer)


def change(column):
    at = (175 * layer.get_width() + column) * 3
    return sum(abs(a - b) for a, b in zip(before[at : at + 3], after[at : at + 3]))


found["blended replace"] = [change(199), change(201), change(300), change(400)]

# The result of a whole layer has no layer mask, and the same size and alpha as the layer.
image.undo_disable()
Gimp.Selection.none(image)
image.remove_layer(group)
image.select_ellipse(Gimp.ChannelOps.REPLACE, 50, 50, 500, 300)
Gimp.Selection.feather(image, 60)
layer.add_alpha()
Gimp.Selection.invert(image)
layer.edit_clear()
Gimp.Selection.none(image)
alpha = inside.raw(layer, None, "A u8")
status, message, (made,) = inside.edit(image, [layer], prompt="black and white")
found["whole layer"] = [
    message,
    made.get_mask() is None,
    [made.get_width(), made.get_height(), *list(made.get_offsets())[1:]],
    inside.raw(made, None, "A u8") == alpha,
]
image.remove_layer(made)
image.select_rectangle(Gimp.ChannelOps.REPLACE, 0, 0, 10, 10)
status, message, _layers = inside.edit(
    image, [layer], prompt="black and white", use_selection=False, output="replace"
)
colours = inside.raw(layer, (250, 150, 50, 50), "R'G'B' u8")
found["whole replace"] = [
    message,
    inside.raw(layer, None, "A u8") == alpha,
    max(abs(colours[i] - colours[i + 1]) for i in range(0, len(colours), 3)),
    sum(1 for value in inside.selected(image) if value),
    [channel.get_name() for channel in image.get_channels()],
    layer.get_lock_alpha(),
]
inside.found(found)
