"""Run one edit: capture it, start a worker for each layer, and place the results of all workers.

    check ──▶ Edit(…) ──start──▶ workers ──▶ placed, or `sentences` that say why not
                          └─cancel / discard

For scripts, the function `edit` takes all these steps, and waits until the results are placed. The
window uses the class `Edit` instead. An `Edit` notifies the window of every change, so that the
window need not wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gi.repository import Gegl, Gimp, GLib

from plugin import settings, storage
from plugin.errors import CallingError, Unusable, UserError, unforeseen
from plugin.gimp import capture, placing
from plugin.gimp.capture import Capture, hidden_by
from plugin.gimp.planning import Request
from plugin.gimp.process import worker_process
from plugin.gimp.process.worker_process import WorkerProcess
from plugin.gimp.results import Placed
from plugin.gimp.targets import targets
from plugin.gimp.translation import _
from plugin.job import Job, State, Status, check_prompt
from plugin.progress import Phase, Progress, Report

_POSTS_AT_ONCE = 4
"""The workers of an edit work on at most this many variations at the same time."""


def edit(
    image: Gimp.Image,
    drawables: Sequence[Gimp.Drawable],
    request: Request,
    captured: Callable[[], None] = lambda: None,
) -> tuple[list[Gimp.Layer], list[str]]:
    """Edit `drawables`, and return the result layers and the messages for the user.

    Wait until the results are placed. Call `captured` when all pixels that are sent have been
    exported. Raises UserError if no result was placed. In this case, the image is unchanged, unless
    the user changed a layer while a result was being written to this layer.
    """
    layers = check(image, drawables, request)
    loop = GLib.MainLoop()
    Gimp.progress_init(_("Editing with AI"))

    def changed() -> None:
        Gimp.progress_set_text(running.phase_text())
        if running.ended:
            loop.quit()

    try:
        running = Edit(image, layers, request, changed)
        captured()
        pulse = GLib.timeout_add(250, _pulse)
        GLib.idle_add(running.start)
        loop.run()
        GLib.source_remove(pulse)
    finally:
        Gimp.progress_end()
    if not running.placed:
        raise UserError(" ".join(running.sentences))
    return [each.layer for each in running.placed], running.sentences


def check(
    image: Gimp.Image, drawables: Sequence[Gimp.Drawable], request: Request
) -> list[Gimp.Layer]:
    """Check whether the edit is possible, and return the layers to edit.

    This happens before any pixels are exported. Raises UserError if the arguments, the layers, the
    settings or the worker prevent the edit.
    """
    try:
        check_prompt(request.prompt)
    except UserError as error:
        raise CallingError(str(error)) from error
    if request.replace and request.variations > 1:
        raise CallingError(
            _(
                "Only one variation can replace a layer. Choose “New layer”, or set the "
                "variations to 1."
            )
        )
    layers = targets(image, drawables, request)
    settings.check_service()
    worker_process.check_interpreter()
    return layers


class Edit:
    """An edit, from its capture to its placed results.

    The constructor exports the pixels that are sent. If this fails, the constructor removes the
    jobs and raises UserError. `changed` is a function that is called whenever `reports`,
    `sentences`, `placed` or `ended` have possibly changed.
    """

    def __init__(
        self,
        image: Gimp.Image,
        layers: Sequence[Gimp.Layer],
        request: Request,
        changed: Callable[[], None],
    ) -> None:
        self.image = image
        self.request = request
        worker_process.start_spare()
        Gegl.init(None)
        self.captures = _captured(image, layers, request)
        self.reports: dict[tuple[str, int | None], Progress] = {}
        """The latest report of a running worker on each variation, by (job id, number).

        The number is None if the report is about the preparation that all variations share.
        """
        self.sentences: list[str] = []
        """The messages for the user: failures, and notes about the results. No duplicates."""
        self.placed: list[Placed] = []
        self.ended = False
        """Whether all workers of the edit have ended."""
        self.detached = False
        """Whether the user has stopped waiting. Later results then stay in the job folder."""
        self.waiting_since = 0.0
        """The value of `time.monotonic()` when waiting for the service began, or 0 before that."""
        self._changed = changed
        self._waiting: list[Capture] = []
        self._running: dict[str, WorkerProcess] = {}

    def start(self) -> bool:
        """Start the workers, a few at a time.

        If the edit has ended, this continues it: the workers skip the variations that are finished
        or must not be sent again. Do nothing if the edit is still running. Return False, so that
        GLib doesn't call this method again.
        """
        if self._running or self._waiting:
            return False
        self.ended = self.detached = False
        self.sentences = []
        self.waiting_since = 0.0
        self._waiting = list(self.captures)
        self._begin()
        placing.warm_up(self.captures[0])
        return False

    def cancel(self) -> None:
        """Send nothing more, and stop waiting for the results.

        The variations that were already sent are paid for. Their workers therefore continue until
        they have the answers. The results stay in the job folders.
        """
        self.detached = True
        self._forget_waiting()
        for worker in self._running.values():
            worker.let_go()
        self._changed()

    def wait_again(self) -> None:
        """Resume waiting after `cancel`, so that the results are placed when all workers end."""
        self.detached = False
        self._changed()

    def discard(self) -> None:
        """Kill all workers immediately, and remove the jobs with all results that have arrived."""
        self.detached = True
        self._waiting.clear()
        for worker in self._running.values():
            worker.kill()
        for one in self.captures:
            one.job.discard()
        self._changed()

    def _forget_waiting(self) -> None:
        """Start no workers for the jobs that wait for one.

        Remove those of these jobs of which no variation was ever sent.
        """
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _discard_unsent(one.job)

    @property
    def jobs(self) -> list[Job]:
        return [one.job for one in self.captures]

    @property
    def is_leaving(self) -> bool:
        """Whether any running worker has not sent anything yet.

        After `cancel`, such a worker ends soon, and then the job of this worker is removed.
        """
        return any(_is_unsent(one.job) for one in self.captures if one.job.id in self._running)

    def phase(self) -> Phase:
        """Return the phase of the variation that is furthest behind."""
        phases = {report.phase for report in self.reports.values()}
        return next((phase for phase in Phase if phase in phases), Phase.PREPARING)

    def uploaded(self) -> tuple[int, int]:
        """Return how many bytes were sent, and how many there are in total.

        All variations that are now being uploaded are added up.
        """
        reports = [r for r in self.reports.values() if r.phase == Phase.UPLOADING]
        return sum(r.sent for r in reports), sum(r.total for r in reports)

    def phase_text(self) -> str:
        """Return the phase as a text for the user, or the reason why a variation must wait."""
        phase = self.phase()
        notes = [report.note for report in self.reports.values() if report.note]
        if notes:
            return notes[0]
        if phase == Phase.UPLOADING:
            sent, total = self.uploaded()
            return _("Uploading: {sent:.1f} of {total:.1f} MB").format(
                sent=sent / 1e6, total=total / 1e6
            )
        return phase.text

    def _begin(self) -> None:
        while self._waiting and len(self._running) < max(
            1, _POSTS_AT_ONCE // self.request.variations
        ):
            one = self._waiting.pop(0)
            try:
                self._running[one.job.id] = WorkerProcess(
                    one.job, self._listener(one.job), self._ender(one.job)
                )
            except UserError as error:
                self._say([str(error)])
                self._waiting.clear()
        if not self._running and not self.ended:
            self.ended = True
            self._finish()
        self._changed()

    def _listener(self, job: Job) -> Report:
        def heard(report: Progress) -> None:
            if report.variation is not None:
                self.reports.pop((job.id, None), None)
            self.reports[job.id, report.variation] = report
            if report.phase == Phase.WAITING and not self.waiting_since:
                self.waiting_since = time.monotonic()
            self._changed()

        return heard

    def _ender(self, job: Job) -> Callable[[], None]:
        def ended() -> None:
            self._running.pop(job.id, None)
            if self.detached:
                _discard_unsent(job)
            for key in [key for key in self.reports if key[0] == job.id]:
                del self.reports[key]
            self._begin()

        return ended

    def _finish(self) -> None:
        """Place the results that have arrived, and collect the messages for the user.

        If the user has stopped waiting, do nothing, so that the results stay in the job folders.
        """
        if self.detached:
            return
        delivered = []
        for one in self.captures:
            if not one.job.folder.exists():
                continue
            try:
                state = one.job.read_state()
            except (OSError, UserError) as error:
                self._say([str(error)])
                continue
            self._say(_sentences(one.job, state))
            if placing.unplaced(one):
                delivered.append(one)
        try:
            placed, missing = placing.place(delivered)
            self.placed += placed
            self._say(missing)
            layers = [one.layer for one in delivered if one.job in {each.job for each in placed}]
            self._say([hidden_by(layer, self.request) for layer in layers])
        except Exception as error:
            self._say([unforeseen(error)])

    def _say(self, sentences: list[str]) -> None:
        self.sentences = list(dict.fromkeys(filter(None, self.sentences + sentences)))


def _captured(image: Gimp.Image, layers: Sequence[Gimp.Layer], request: Request) -> list[Capture]:
    """Write a job for each layer, and return the captures.

    If this fails, remove the jobs that were already written, and raise UserError.
    """
    try:
        return capture.capture(image, layers, request)
    except Unusable:
        raise
    except OSError as error:
        raise UserError(
            _(
                "The edit can't be saved in {path} ({why}). Nothing was sent, so nothing was "
                "charged. Check that the disk has free space and can be written to, then try "
                "again."
            ).format(why=error.strerror or error, path=error.filename or storage.home())
        ) from error


def _is_unsent(job: Job) -> bool:
    """Return whether no variation of the job was ever sent, or False if the job can't be read."""
    try:
        return all(post.state == Status.PREPARED for post in job.read_state().posts)
    except (OSError, UserError):
        return False


def _discard_unsent(job: Job) -> None:
    """Remove a job if none of its variations was ever sent."""
    if _is_unsent(job):
        job.discard()


def _pulse() -> bool:
    Gimp.progress_pulse()
    return True


def _sentences(job: Job, state: State) -> list[str]:
    """Return the messages for the user about a job: failures, and notes about the results."""
    sentences = state.messages + state.notes
    for post in state.posts:
        if post.message or post.placed:
            continue
        # The worker has recorded neither a result nor a failure, so it was killed, for example
        # because the computer ran out of memory.
        if post.state == Status.PREPARED:
            sentences.append(
                _(
                    "The background process stopped before anything was sent, so nothing was "
                    "charged. Try again."
                )
            )
        elif post.state == Status.RECEIVED:
            sentences.append(
                _(
                    "The result arrived and is kept in {folder}. The background process stopped "
                    "before the result could be put into the image. Choose Try Again to continue, "
                    "at no cost (edit number {job})."
                ).format(folder=job.folder, job=job.id)
            )
        elif post.state == Status.ACCEPTED and post.task:
            sentences.append(
                _(
                    "The background process stopped after the service accepted the edit. Choose "
                    "Try Again to fetch the result, at no cost (edit number {job})."
                ).format(job=job.id)
            )
        else:
            sentences.append(
                _(
                    "The background process stopped in the middle of edit number {job}. You may "
                    "have been charged, so the edit is not sent again. Check your account with the "
                    "service before you start a new edit."
                ).format(job=job.id)
            )
    return sentences
