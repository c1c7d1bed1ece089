"""Find the layers that contain results, choose among them, and show the image without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gi.repository import Gimp

from plugin.errors import UserError
from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.layers import new_layer, offsets
from plugin.gimp.canvas.undo import chosen_kept, one_step, thaw_abandoned, without_undo
from plugin.gimp.capture import Capture
from plugin.gimp.translation import _
from plugin.job import Job, Variation

_NOTE = "dimilinks-result"
"""The name of the parasite (data that GIMP attaches to a layer) that marks a result layer.

The parasite contains the id of the job and the number of the variation.
"""
_BEFORE = "dimilinks-before"
"""The name of the parasite that marks a temporary layer with original pixels.

Such a layer lies over a replaced layer while the user compares the result with these pixels.
"""


@dataclass(frozen=True)
class Placed:
    """A result in the image: the variation of a job, and the layer that contains this variation."""

    job: Job
    variation: int
    layer: Gimp.Layer


def mark(layer: Gimp.Layer, job: Job, variation: int | None) -> None:
    """Mark a result layer, so that windows recognise the layer even in a reopened image.

    `variation` is the number of the variation. It is None if `layer` is the group that contains all
    variations.
    """
    data = f"{job.id} {variation or 0}".encode()
    layer.attach_parasite(Gimp.Parasite.new(_NOTE, Gimp.PARASITE_PERSISTENT, data))


def _is_ours(group: Gimp.Layer | None) -> bool:
    """Return whether the plug-in has made `group`, to contain the variations of an edit."""
    return group is not None and group.get_parasite(_NOTE) is not None


def clear_up(image: Gimp.Image) -> None:
    """Repair an image after a process of the plug-in has died during a comparison.

    Enable undo again, and remove the layers that `lay_sources_over` has left in the image.
    """
    thaw_abandoned(image)
    if left := [each for each in _all_layers(image) if each.get_parasite(_BEFORE) is not None]:
        with without_undo(image), chosen_kept(image):
            for layer in left:
                image.remove_layer(layer)


def _all_layers(image: Gimp.Image) -> Iterator[Gimp.Layer]:
    waiting = list(image.get_layers())
    while waiting:
        layer = waiting.pop()
        yield layer
        if layer.is_group():
            waiting += layer.get_children()


def in_image(image: Gimp.Image) -> dict[Variation, Gimp.Layer]:
    """Return the layers of `image` that contain results, by variation."""
    found: dict[Variation, Gimp.Layer] = {}
    for layer in _all_layers(image):
        note = layer.get_parasite(_NOTE)
        if note is not None and not layer.is_group():
            job, _space, number = bytes(note.get_data()).decode("ascii", "replace").partition(" ")
            # Check the number, because the image can come from a file that anybody has written.
            if number.isdecimal() and len(number) < 4:
                found[Variation(job, int(number))] = layer
    return found


def above_earlier(image: Gimp.Image, source: Gimp.Layer, position: int) -> int:
    """Return the position for a new result of `source`, the layer at `position`.

    This position is above the earlier results that lie directly on `source`, because these would
    otherwise hide the new result.
    """
    parent = source.get_parent()
    siblings = image.get_layers() if parent is None else parent.get_children()
    while position > 0 and siblings[position - 1].get_parasite(_NOTE) is not None:
        position -= 1
    return position


def show_alone(image: Gimp.Image, shown: Gimp.Layer, others: list[Gimp.Layer]) -> None:
    """Show one variation and hide the others, in one undo step."""
    with one_step(image):
        for layer in others:
            layer.set_visible(False)
        shown.set_visible(True)


def keep(image: Gimp.Image, kept: Gimp.Layer, others: list[Gimp.Layer]) -> None:
    """Keep the layer of one variation and remove the others, in one undo step.

    If the group of the variations contains no other layer after that, the kept layer takes the
    position of the group. Raises UserError.
    """
    with one_step(image):
        group = kept.get_parent()
        remove(image, others)
        kept.set_visible(True)
        if _is_ours(group) and len(group.get_children()) == 1:
            image.reorder_item(kept, group.get_parent(), image.get_item_position(group))
            image.remove_layer(group)


def remove(image: Gimp.Image, layers: list[Gimp.Layer]) -> None:
    """Remove layers in one undo step. Also remove each group of variations that becomes empty.

    Raises UserError.
    """
    with one_step(image):
        for layer in layers:
            group = layer.get_parent()
            if not image.remove_layer(layer):
                raise UserError(
                    _(
                        "GIMP can't remove the layer “{name}” ({why}). Delete it in the "
                        "Layers dialog."
                    ).format(name=layer.get_name(), why=Gimp.get_pdb().get_last_error())
                )
            if _is_ours(group) and not group.get_children():
                image.remove_layer(group)


def hide(image: Gimp.Image, layers: list[Gimp.Layer]) -> Callable[[], None]:
    """Hide layers temporarily, without undo steps. Return a function that shows them again."""
    shown = [layer for layer in layers if layer.get_visible()]

    def set_all(visible: bool) -> None:
        with without_undo(image):
            for layer in shown:
                if layer.is_valid():
                    layer.set_visible(visible)

    set_all(False)
    return lambda: set_all(True)


def lay_sources_over(captures: list[Capture]) -> Callable[[], None]:
    """Temporarily show the original pixels of replaced layers, without undo steps.

    The pixels are shown in new layers, one directly above each replaced layer. Return a function
    that removes the new layers. Raises UserError.
    """
    image = captures[0].image
    laid: list[Gimp.Layer] = []

    def take_away() -> None:
        with without_undo(image), chosen_kept(image):
            for layer in laid:
                if layer.is_valid():
                    image.remove_layer(layer)

    with without_undo(image), chosen_kept(image):
        for capture in captures:
            if not capture.layer.is_valid():
                continue
            box = capture.box.moved(*offsets(capture.layer))
            layer = new_layer(image, _("Before"), (box.width, box.height))
            layer.set_opacity(capture.layer.get_opacity())
            layer.set_mode(capture.layer.get_mode())
            layer.set_offsets(box.x, box.y)
            layer.attach_parasite(Gimp.Parasite.new(_BEFORE, 0, b"before"))
            pixels.load_png(capture.job.folder / "source.png", layer.get_buffer())
            above = image.get_item_position(capture.layer)
            image.insert_layer(layer, capture.layer.get_parent(), above)
            layer.update(0, 0, box.width, box.height)
            laid.append(layer)
    return take_away
