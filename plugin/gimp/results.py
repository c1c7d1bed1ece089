"""Find results in an image again, choose among them, and compare them with the image before."""

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
"""The name of the parasite with the job and the variation of a result's layer."""
_BEFORE = "dimilinks-before"
"""The name of the parasite of a layer that shows for a moment what was there before."""


@dataclass(frozen=True)
class Placed:
    """A result in the image, as a variation of a job and its layer."""

    job: Job
    variation: int
    layer: Gimp.Layer


def mark(layer: Gimp.Layer, job: Job, variation: int | None) -> None:
    """Mark a layer as a result, so that windows recognise it even in a reopened image.

    `variation` is None for the group of all variations.
    """
    data = f"{job.id} {variation or 0}".encode()
    layer.attach_parasite(Gimp.Parasite.new(_NOTE, Gimp.PARASITE_PERSISTENT, data))


def _is_ours(group: Gimp.Layer | None) -> bool:
    """Return whether the layer is a group that was made for variations."""
    return group is not None and group.get_parasite(_NOTE) is not None


def clear_up(image: Gimp.Image) -> None:
    """Repair an image after a process of the plug-in has died during a comparison."""
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
    """Return the layers of `image` that are results."""
    found: dict[Variation, Gimp.Layer] = {}
    for layer in _all_layers(image):
        note = layer.get_parasite(_NOTE)
        if note is not None and not layer.is_group():
            job, _space, number = bytes(note.get_data()).decode("ascii", "replace").partition(" ")
            # The file may come from anybody, so check what it contains.
            if number.isdecimal() and len(number) < 4:
                found[Variation(job, int(number))] = layer
    return found


def above_earlier(image: Gimp.Image, source: Gimp.Layer, position: int) -> int:
    """Return the position above the earlier results that are directly above `source`.

    A new result below them would be hidden by them.
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
    """Keep one variation in the place of its group and remove the others, in one undo step.

    Raises UserError.
    """
    with one_step(image):
        group = kept.get_parent()
        remove(image, others)
        kept.set_visible(True)
        if _is_ours(group) and len(group.get_children()) == 1:
            image.reorder_item(kept, group.get_parent(), image.get_item_position(group))
            image.remove_layer(group)


def remove(image: Gimp.Image, layers: list[Gimp.Layer]) -> None:
    """Remove layers in one undo step, and each group of variations that becomes empty.

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

    Return a function that hides them again. Raises UserError.
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
