"""One run of `dimilinks-edit`: capture, let the worker work, place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gi.repository import Gegl, Gimp, GLib

from plugin import settings
from plugin.gimp import capture, placing, worker_process
from plugin.gimp.capture import Capture, Request
from plugin.gimp.messages import CallingError, EditError, _
from plugin.gimp.worker_process import WorkerProcess
from plugin.job import PREPARED, RECEIVED, check_prompt

_POSTS_AT_ONCE = 4


def edit(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> tuple[list[Gimp.Layer], list[str]]:
    """Edit and return the result layers, and what the user should hear about them.

    Raises EditError if nothing came of it; the image is as it was then.
    """
    Gegl.init(None)
    try:
        layers = check(image, drawables, request)
        Gimp.progress_init(_("Editing with AI"))
        captures = _captured(image, layers, request)
        sentences = _work(captures, request.variations) + _sentences(captures)
        delivered = [c for c in captures if any(post.placed for post in c.job.state.posts)]
        layers, missing = placing.place(delivered)
        sentences += missing
        if not layers:
            raise EditError(" ".join(sentences))
        return layers, sentences
    except OSError as error:
        raise EditError(
            _("The edit can't be kept on the disk ({why}): {path}").format(
                why=error.strerror or error, path=error.filename or settings.home()
            )
        ) from error
    finally:
        Gimp.progress_end()


def check(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> list[Gimp.Layer]:
    """Return the layers to edit, having looked for every reason not to begin.

    Nothing is exported yet. Raises EditError.
    """
    try:
        check_prompt(request.prompt)
    except ValueError as error:
        raise CallingError(str(error)) from error
    if request.replace and request.variations > 1:
        raise CallingError(
            _("Several variations can't replace one layer: choose new layers, or one variation.")
        )
    layers = capture.targets(image, drawables, request)
    try:
        settings.check_service()
    except ValueError as error:
        raise EditError(str(error)) from error
    worker_process.interpreter()
    return layers


def _captured(image: Gimp.Image, layers: list[Gimp.Layer], request: Request) -> list[Capture]:
    """Export every layer, or leave no job behind. Raises EditError and OSError."""
    captures: list[Capture] = []
    try:
        for layer in layers:
            captures.append(capture.capture(image, layer, request))
    except BaseException:
        for done in captures:
            done.job.discard()
        raise
    return captures


def _work(captures: list[Capture], variations: int) -> list[str]:
    """Run a worker for each capture, a few at a time; return why any could not start."""
    loop = GLib.MainLoop()
    waiting = list(captures)
    running = 0
    failed: list[str] = []

    def begin() -> None:
        nonlocal running
        while waiting and running < max(1, _POSTS_AT_ONCE // variations):
            try:
                WorkerProcess(waiting.pop(0).job, _show_phase, ended)
            except EditError as error:
                failed.append(str(error))
                waiting.clear()
                break
            running += 1
        if not running:
            loop.quit()

    def ended() -> None:
        nonlocal running
        running -= 1
        begin()

    pulse = GLib.timeout_add(250, _pulse)
    GLib.idle_add(_once(begin))
    loop.run()
    GLib.source_remove(pulse)
    return failed


def _once(function: Callable[[], None]) -> Callable[[], bool]:
    def call() -> bool:
        function()
        return False

    return call


def _pulse() -> bool:
    Gimp.progress_pulse()
    return True


def _show_phase(progress: dict[str, Any]) -> None:
    words = {
        "preparing": _("Preparing the picture"),
        "uploading": _("Sending the picture"),
        "waiting": _("Waiting for the service"),
        "downloading": _("Fetching the result"),
        "placing": _("Fitting the result"),
    }
    if progress["phase"] in words:
        Gimp.progress_set_text(words[progress["phase"]])


def _sentences(captures: list[Capture]) -> list[str]:
    """What went wrong or is worth knowing, each once."""
    sentences = []
    for one in captures:
        state = one.job.state
        sentences += state.messages + state.notes
        for post in state.posts:
            if post.message or post.placed:
                continue
            # The worker ended without a word: it was killed, or the machine ran out of memory.
            if post.state == PREPARED:
                sentences.append(_("The worker stopped before anything was sent. Try again."))
            elif post.state == RECEIVED:
                sentences.append(
                    _(
                        "The result arrived, but the worker stopped before it was fitted. It is "
                        "kept in {folder}; “python -m plugin resume {job}” goes on."
                    ).format(folder=one.job.folder, job=one.job.id)
                )
            else:
                sentences.append(
                    _(
                        "The worker stopped while the edit was under way. It may have been made "
                        "and billed, so it is not sent again by itself; its job is {job}."
                    ).format(job=one.job.id)
                )
    return list(dict.fromkeys(sentences))
