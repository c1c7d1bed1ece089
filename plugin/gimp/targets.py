"""Find the layers to which an edit is applied, and reject drawables that can't be edited."""

from __future__ import annotations

from collections.abc import Sequence

from gi.repository import Gimp

from plugin.errors import CallingError, NotReplaceable, UserError
from plugin.gimp.canvas.layers import check_replaceable
from plugin.gimp.planning import Request
from plugin.gimp.translation import _


def targets(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> list[Gimp.Layer]:
    """Return the layers to edit, without duplicates.

    If a drawable is a layer mask, return the layer of this mask. If everything visible is edited,
    return only the first layer. Raises NotReplaceable if the result can't replace pixels and must
    become a new layer, CallingError if `drawables` can't be edited, and UserError if the image has
    a floating selection (pasted pixels that are not part of a layer yet).
    """
    if image.get_floating_sel() is not None:
        raise UserError(
            _(
                "The image has a floating selection. First anchor it, or turn it into a layer "
                "(Layer ▸ To New Layer)."
            )
        )
    layers: dict[int, Gimp.Layer] = {}
    for drawable in drawables:
        if isinstance(drawable, Gimp.LayerMask):
            drawable = Gimp.Layer.from_mask(drawable)
        if not isinstance(drawable, Gimp.Layer):
            raise CallingError(
                _("“{name}” is a channel. Select a layer to edit.").format(name=drawable.get_name())
            )
        if drawable.get_image().get_id() != image.get_id():
            raise CallingError(
                _("“{name}” belongs to another image. Choose a layer of the image to edit.").format(
                    name=drawable.get_name()
                )
            )
        layers[drawable.get_id()] = drawable
    if not layers:
        raise CallingError(_("There is no layer to edit. Select one."))
    chosen = list(layers.values())
    if request.visible:
        # Everything visible is sent as a single picture, even if several layers are selected.
        chosen = chosen[:1]
    if request.replace:
        if request.visible:
            raise NotReplaceable(
                _(
                    "“Everything visible” can't replace a single layer, because the other "
                    "layers would be painted into it. Put the result into a new layer, or "
                    "edit the layer alone."
                )
            )
        for layer in chosen:
            check_replaceable(layer)
    return chosen
