"""Place the results of a job in the image, as new layers or in the edited layer itself.

The slow work is done first, on layers that are in no image yet, so that the user can't change these
layers meanwhile. Inserting new layers then takes only milliseconds. What counts is the selection
with which the edit began, not the selection at the moment of placing. Every pixel outside the
former selection stays the same, bit for bit: the layer mask of a new layer is exactly 0 there, and
in a replaced layer, only the selected pixels are written.
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
"""A window waits at most this many seconds while other windows place their results."""
_TRIES = 4
"""How often to try to place a result, if the user changes the layer or image during each try."""


def warm_up(capture: Capture) -> None:
    """Prepare the conversions of pixel formats in a thread, so that placing a result is faster."""
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

    If only some variations of a job have arrived, these are placed at first. The others are placed
    when they arrive later, for example after the user has pressed *Try Again*.
    """
    imported = capture.job.find_imported()
    return [number for number in fitted_pictures(capture) if number not in imported]


def place(captures: list[Capture]) -> tuple[list[Placed], list[str]]:
    """Put the results of the captures into their image, in one undo step.

    All captures have the same image. Return the placed results, and a message for each capture
    whose results can't be placed. The files of such results stay in the job folder.
    """
    return _put([_result(capture) for capture in captures])


def put_back(done: Job, image: Gimp.Image, variation: int) -> tuple[list[Placed], list[str]]:
    """Put a result of an earlier job into `image` as a new layer, in one undo step.

    The result is placed on the pixels that it was made from. If these pixels are no longer in the
    image, the result becomes the top layer, at its former position on the canvas, and a message
    says so. Return the placed results and the messages. Raises UserError.
    """
    capture = recalled(done, image)
    box = None
    notes = []
    if capture.request.visible or capture.layer is not None:
        with contextlib.suppress(UserError):
            box = location.find(capture)
    if box is None:
        # If a fitted picture is missing or damaged, `check_pictures` raises UserError. Otherwise
        # only the pixels were not found, and the result can be placed on top.
        capture = replace(capture, request=replace(capture.request, source="visible"))
        try:
            check_pictures(capture)
        except UserError as error:
            raise UserError(_with_kept(error, capture)) from error
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
    """Return the former box of the edit on the canvas.

    If this box is now completely outside the canvas, return a box of the same size in the centre.
    """
    canvas = Box(0, 0, capture.image.get_width(), capture.image.get_height())
    box = capture.on_canvas
    if not box.intersection(canvas).empty:
        return box
    left, top = (canvas.width - box.width) // 2, (canvas.height - box.height) // 2
    return box.moved(left - box.x, top - box.y)


def _put(wanted: list[NewLayers | Replacement]) -> tuple[list[Placed], list[str]]:
    """Prepare the wanted results, and put them into the image in one undo step.

    Return the placed results, and a message for each member of `wanted` that can't be placed.
    """
    missing: list[str] = []

    def made_ready(result: NewLayers | Replacement) -> bool:
        try:
            result.prepare()
            return True
        except UserError as error:
            missing.append(_with_kept(error, result.capture))
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
        # Ignore errors when the variation is marked in the job folder, because its result is in the
        # image already.
        with contextlib.suppress(OSError):
            each.job.mark_imported([each.variation])
    return placed, missing


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """Hold the lock for placing in the `with` block, so that only one window places results.

    If two windows wrote results to the same layer at once, the results would be mixed, and would
    become one undo step. If other windows hold the lock for _OTHERS_TAKE seconds, or if locks can't
    be used, continue without the lock.
    """
    with contextlib.ExitStack() as turn:
        with contextlib.suppress(OSError, Unusable):
            turn.enter_context(lock.held(storage.locks_folder() / launch.PLACING, _OTHERS_TAKE))
        yield


def _put_one(
    result: NewLayers | Replacement, made_ready: Callable[[NewLayers | Replacement], bool]
) -> list[str]:
    """Put a prepared result into the image, and return [], or [message] if this is not possible.

    If the image or layer has changed, call `made_ready` to prepare the result again. If that fails,
    return [], because `made_ready` reports the reason itself.
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
        raise UserError(
            _("The edit is ready, but it can't be placed while the layer is being changed.")
        )
    except UserError as error:
        return [_with_kept(error, result.capture)]


def _result(capture: Capture) -> NewLayers | Replacement:
    if capture.request.replace:
        return Replacement(capture)
    return NewLayers(capture, unplaced(capture))


def _with_kept(error: UserError, capture: Capture) -> str:
    """Return the message of `error`, and say where the results are that can't be placed."""
    folder = capture.job.folder
    # Name the fitted picture of each variation. If this picture is missing or damaged, name the
    # file of the result as received.
    names = [
        post.placed if is_whole(capture, post.placed) else post.result
        for post in capture.job.read_state().posts
        if post.result
    ]
    names = [name for name in names if (folder / name).exists()]
    if not names:
        return str(error)
    kept = _("The result is kept. Open it with File ▸ Open as Layers…: {paths}").format(
        paths=", ".join(str(folder / name) for name in names)
    )
    return f"{error} {kept}"
