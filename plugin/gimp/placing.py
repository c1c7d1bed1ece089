"""Place the results of a job in the image, as new layers or in the edited layer itself.

Slow work is done on layers that are in no image, where the user can't interfere. Inserting new
layers then takes milliseconds. The changes to the image don't depend on the selection of that
moment. Everything outside the selection that was sent stays the same, bit for bit: the layer mask
of a new layer is exactly 0 there, and only the pixels inside a replaced layer are written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from gi.repository import Babl, Gimp

from plugin import lock, storage
from plugin.errors import Unusable, UserError
from plugin.gimp import location
from plugin.gimp.canvas import pixels
from plugin.gimp.canvas.layers import copy_of, let_go, new_layer
from plugin.gimp.canvas.undo import one_step
from plugin.gimp.capture import Capture, recalled
from plugin.gimp.location import Changed, check_pictures, fitted_pictures, is_whole
from plugin.gimp.new_layers import NewLayers
from plugin.gimp.process import launch
from plugin.gimp.replacing import Replacement
from plugin.gimp.results import Placed
from plugin.gimp.translation import _
from plugin.job import Job
from plugin.region import Box

_OTHERS_TAKE = 10
"""Seconds after which a result no longer waits for those of other windows."""
_TRIES = 4
"""The number of attempts to place a result whose layer the user changes at the same moment."""


def warm_up(capture: Capture) -> None:
    """Prepare the pixel conversions in another thread, as the first result would wait for them."""
    replacing = capture.request.replace
    try:
        if replacing:
            with copy_of(capture.layer) as copy:
                own_format = Babl.get_name(copy.get_format())
        else:
            layer = new_layer(capture.image, "", (1, 1))
            own_format = Babl.get_name(layer.get_format())
            let_go(capture.image, layer)
    except UserError:
        return
    blending = replacing and capture.selection is not None
    threading.Thread(target=pixels.warm_up, args=(own_format, blending), daemon=True).start()


def unplaced(capture: Capture) -> list[int]:
    """Return the numbers of the variations that are fitted but not in the image yet.

    Some variations of a job may arrive later than others.
    """
    return [number for number in fitted_pictures(capture) if number not in capture.job.imported]


def place(captures: list[Capture]) -> tuple[list[Placed], list[str]]:
    """Put the results of all captures into their image, in one undo step.

    Return the placed results, and a message for each result that can't be placed. Such a result
    stays in its job.
    """
    return _put([_result(capture) for capture in captures])


def put_back(done: Job, image: Gimp.Image, variation: int) -> tuple[list[Placed], list[str]]:
    """Put a result of an earlier job into `image` as a new layer, in one undo step.

    It is placed on the pixels that it was made from. If these are not in the image any more, it is
    placed on top, where it was on the canvas, and a message says so. Return the placed results and
    the messages. Raises UserError.
    """
    capture = recalled(done, image)
    box = None
    notes = []
    if capture.request.visible or capture.layer is not None:
        with contextlib.suppress(UserError):
            box = location.find(capture)
    if box is None:
        # This raises UserError if the fitted pictures themselves are the problem.
        capture = replace(capture, request=replace(capture.request, source="visible"))
        check_pictures(capture)
        box = _on_canvas(capture)
        notes.append(
            _(
                "The part of the picture that this edit was made from is no longer in this "
                "image. The result was placed on top, where that part was on the canvas."
            )
        )
    placed, missing = _put([NewLayers(capture, [variation], box)])
    if missing:
        raise UserError(" ".join(missing))
    return placed, notes


def _on_canvas(capture: Capture) -> Box:
    """Return the box of the edit on the canvas, or centre it if it is outside the canvas now."""
    canvas = Box(0, 0, capture.image.get_width(), capture.image.get_height())
    box = capture.on_canvas
    if not box.intersection(canvas).empty:
        return box
    left, top = (canvas.width - box.width) // 2, (canvas.height - box.height) // 2
    return box.moved(left - box.x, top - box.y)


def _put(wanted: list[NewLayers | Replacement]) -> tuple[list[Placed], list[str]]:
    """Put results into the image, in one undo step.

    Return the placed results, and a message for each result that can't be placed.
    """
    missing: list[str] = []

    def made_ready(result: NewLayers | Replacement) -> bool:
        try:
            result.prepare()
            return True
        except UserError as error:
            missing.append(f"{error} {_kept(result.capture)}")
            return False

    with contextlib.ExitStack() as used:
        for result in wanted:
            used.callback(result.let_go)
        ready = [result for result in wanted if made_ready(result)]
        if ready:
            with _in_turn(), one_step(ready[0].capture.image):
                for result in ready:
                    missing += _put_one(result, made_ready)
    placed = [each for result in wanted for each in result.placed]
    for each in placed:
        # Ignore errors of the marks, because the results are in the image already.
        with contextlib.suppress(OSError):
            each.job.mark_imported([each.variation])
    return placed, missing


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """Hold the lock for placing, after waiting for other windows that place results.

    After _OTHERS_TAKE seconds, continue without the lock. If two results were written to the same
    layer at once, they would be mixed, and be one undo step.
    """
    with contextlib.ExitStack() as turn:
        with contextlib.suppress(OSError, Unusable):
            turn.enter_context(lock.held(storage.locks_folder() / launch.PLACING, _OTHERS_TAKE))
        yield


def _put_one(
    result: NewLayers | Replacement, made_ready: Callable[[NewLayers | Replacement], bool]
) -> list[str]:
    """Put a prepared result into the image, or return a message on why this is not possible.

    Reasons that `made_ready` has reported itself are not returned.
    """
    try:
        for _try in range(_TRIES):
            try:
                result.put()
                return []
            except Changed:
                result.let_go()
                if not made_ready(result):
                    return []
        raise UserError(_("The edit is ready, but the layer that was edited keeps changing."))
    except UserError as error:
        return [f"{error} {_kept(result.capture)}"]


def _result(capture: Capture) -> NewLayers | Replacement:
    if capture.request.replace:
        return Replacement(capture)
    return NewLayers(capture, unplaced(capture))


def _kept(capture: Capture) -> str:
    folder = capture.job.folder
    # Name the result as it was received if it was not fitted, or if the fitted picture is damaged.
    names = [
        post.placed if is_whole(capture, post.placed) else post.result
        for post in capture.job.state.posts
        if post.result
    ]
    return _("The result is kept. Open it with File ▸ Open as Layers…: {paths}").format(
        paths=", ".join(str(folder / name) for name in names)
    )
