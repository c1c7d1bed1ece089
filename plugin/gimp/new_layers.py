"""Place the results of an edit in the image as new layers.

If there was a selection, each layer gets a layer mask that is made from this selection.
"""

from __future__ import annotations

from gi.repository import Babl, Gimp

from plugin.errors import UserError
from plugin.gimp import location, results, weights
from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.layers import let_go, made, new_layer, offsets
from plugin.gimp.capture import Capture
from plugin.gimp.location import Changed, check_there, fitted_pictures, pixel_type, stamp
from plugin.gimp.results import Placed
from plugin.gimp.translation import _
from plugin.region import Box

_CLIPPING = {
    Gimp.LayerCompositeMode.CLIP_TO_LAYER: Gimp.LayerCompositeMode.UNION,
    Gimp.LayerCompositeMode.INTERSECTION: Gimp.LayerCompositeMode.CLIP_TO_BACKDROP,
}
"""The composite modes in which a layer clips the layers below it.

Each of them is mapped to the mode that differs from it only in not clipping these layers.
"""


class NewLayers:
    """Variations of an edit that become new layers.

    `numbers` are the numbers of the variations. `box` is the box in which the results belong, as
    returned by `location.find`. If `box` is None, `prepare` calls `location.find`.
    """

    def __init__(self, capture: Capture, numbers: list[int], box: Box | None = None) -> None:
        self.capture = capture
        self.placed: list[Placed] = []
        self._numbers = numbers
        self._box = box
        self._stamp: object = None
        self._made: list[tuple[int, Gimp.Layer]] = []

    def prepare(self) -> None:
        """Create the layers with their pixels and masks, but don't insert them.

        Raises UserError.
        """
        capture = self.capture
        check_there(capture)
        self._stamp = stamp(capture)
        box = self._box or location.find(capture)
        at = box if capture.request.visible else box.moved(*offsets(capture.layer))
        fitted = fitted_pictures(capture)
        for number in self._numbers:
            name = _layer_name(capture, number if len(fitted) > 1 else None)
            layer = new_layer(capture.image, name, (box.width, box.height))
            self._made.append((number, layer))
            layer.set_offsets(at.x, at.y)
            results.mark(layer, capture.job, number)
            pixels.load_png(capture.job.folder / fitted[number], layer.get_buffer())
            if capture.selection is not None:
                mask = made(layer.create_mask(Gimp.AddMaskType.BLACK))
                weights.write(capture, mask.get_buffer(), Babl.get_name(mask.get_format()))
                if not layer.add_mask(mask):
                    raise UserError(
                        _(
                            "The edit is ready, but GIMP could not add a layer mask to the "
                            "layer with the result."
                        )
                    )

    def put(self) -> None:
        """Insert the prepared layers into the image.

        Raises UserError. Raises Changed if the user has changed the image, so that the layers must
        be prepared again; in this case, none of the layers is in the image.
        """
        capture, image, source = self.capture, self.capture.image, self.capture.layer
        check_there(capture)
        before = pixel_type(image)
        if stamp(capture) != self._stamp:
            raise Changed
        parent, position = None, 0
        if not capture.request.visible:
            parent = source.get_parent()
            position = image.get_item_position(source)
            if capture.request.titled:
                position = results.above_earlier(image, source, position)
            for _number, layer in self._made:
                _play_the_part_of(source, layer)
        group = None
        try:
            if len(self._made) > 1 and capture.request.titled:
                group = made(Gimp.GroupLayer.new(image, _layer_name(capture)))
                # In pass-through mode, the layers in a group look as they would without the group.
                group.set_mode(Gimp.LayerMode.PASS_THROUGH)
                results.mark(group, capture.job, None)
                _insert(image, group, parent, position)
                parent, position = group, 0
            # Insert each layer below the one before, so that the first variation is on top.
            for count, (number, layer) in enumerate(self._made):
                _insert(image, layer, parent, position + count)
                self.placed.append(Placed(capture.job, number, layer))
        except UserError:
            if image.is_valid() and pixel_type(image) != before:
                self._take_out(group)
                raise Changed from None
            raise
        if pixel_type(image) != before:
            # The user has just converted the image. The inserted layers can still have the former
            # type or precision, because GIMP accepts such layers without converting them.
            self._take_out(group)
            raise Changed
        if group is not None:
            # Leave only the first variation visible. The others are hidden only now, because
            # GIMP 3.0 shows the second layer again if it is hidden before all are inserted.
            for each in self.placed[1:]:
                each.layer.set_visible(False)

    def _take_out(self, group: Gimp.Layer | None) -> None:
        """Remove the inserted layers and `group` from the image.

        This is necessary if the user converted the image while the layers were being inserted.
        """
        for each in [*self.placed, group]:
            layer = each.layer if isinstance(each, Placed) else each
            if layer is not None and layer.is_valid():
                self.capture.image.remove_layer(layer)
        self.placed = []

    def let_go(self) -> None:
        """Delete the prepared layers that were not inserted."""
        inserted = {each.layer.get_id() for each in self.placed}
        for _number, layer in self._made:
            if layer.get_id() not in inserted:
                let_go(self.capture.image, layer)
        self._made = []


def _insert(image: Gimp.Image, layer: Gimp.Layer, parent: Gimp.Layer | None, position: int) -> None:
    """Insert `layer` into the group `parent`, or outside all groups if `parent` is None.

    Raises UserError if GIMP doesn't accept the layer.
    """
    if not image.insert_layer(layer, parent, position):
        raise UserError(
            _(
                "The edit is ready, but GIMP could not add the layer with the result ({why})."
            ).format(why=Gimp.get_pdb().get_last_error() or image.get_name())
        )


def _play_the_part_of(source: Gimp.Layer, layer: Gimp.Layer) -> None:
    """Give `layer` the opacity and the modes of `source`, the layer that was edited."""
    layer.set_opacity(source.get_opacity())
    if source.get_mode() == Gimp.LayerMode.PASS_THROUGH:
        return
    layer.set_mode(source.get_mode())
    # If the layers below clip `source`, they also clip the result. But the result must not clip
    # them, because they would then disappear wherever the layer mask hides the result.
    composite = source.get_composite_mode()
    layer.set_composite_mode(_CLIPPING.get(composite, composite))
    layer.set_composite_space(source.get_composite_space())
    layer.set_blend_space(source.get_blend_space())


def _layer_name(capture: Capture, variation: int | None = None) -> str:
    name = f"{capture.place.name} {variation}" if variation else capture.place.name
    return _("{name} (sandbox)").format(name=name) if capture.place.sandbox else name
