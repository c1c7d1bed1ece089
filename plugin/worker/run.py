"""Take a job through its states: send it, wait for the answers, fetch, check and fit the results.

Each variation is a POST of its own, and the variations run in parallel. Before a step that can cost
money begins, the state that announces it is written to the disk. A POST is sent again only if it
was certainly not accepted. If the service has named a task, the task is polled until its result is
there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import filelock

from plugin import settings
from plugin.job import ACCEPTED, FAILED, PREPARED, RECEIVED, SENT, Job, Post
from plugin.words import _
from plugin.worker import answers, form, key_store, patience, picture, placement, upload
from plugin.worker.affine import Pixels
from plugin.worker.answers import Answer
from plugin.worker.failure import Failure, NotAccepted, TaskEnded, TaskUnknown
from plugin.worker.form import Form
from plugin.worker.keeping import Keeper
from plugin.worker.service import Service, Stumbled
from plugin.worker.upload import Upload


@dataclass(frozen=True)
class Progress:
    """A report that a phase begins or continues.

    `phase` is one of job.PHASES. `variation` counts from 1. It is 0 for the preparation, which all
    variations share.

    While a variation is uploading, it is reported repeatedly, with the number of bytes that were
    `sent` and their `total`. While it is waiting for a task, it is reported after each query, with
    the `progress` in percent if the service reports it.

    `note` is a message for the user, if there is one. A variation that waits before it is sent, or
    sent again, is reported as preparing, with a note.
    """

    phase: str
    variation: int = 0
    sent: int = 0
    total: int = 0
    progress: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, str | int]:
        """Return the report as the plug-in gets it, without the fields that don't apply."""
        fields: dict[str, str | int] = {"phase": self.phase}
        if self.variation:
            fields["variation"] = self.variation
        if self.total:
            fields.update(sent=self.sent, total=self.total)
        if self.progress is not None:
            fields["progress"] = self.progress
        if self.note:
            fields["note"] = self.note
        return fields


Report = Callable[[Progress], None]
"""A function that receives the progress of a job. It is called from several threads."""

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG XL": ".jxl"}
"""File suffixes of the formats that are not named like their suffix."""

_ROOM = 200_000_000
"""Bytes that must be free on the disk: enough for the largest result and its fitted copy."""

_PIXELS_AT_ONCE = 36_000_000
"""Largest number of pixels in results that are fitted in parallel.

It suffices for four results of the largest size that the service makes.
"""

_LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of file systems that don't support locks."""


class Stopped(Exception):
    """The edit was called off before this variation was sent."""


class Run:
    """Runs one job. A lock keeps other processes from working on it at the same time."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._state = job.state
        self._keeper = Keeper(
            job, lambda number, phase, note: report(Progress(phase, number, note=note))
        )
        self._lock = threading.Lock()
        self._called_off = threading.Event()
        self._shared: _Edit | None = None
        self._reading = threading.Lock()
        self._is_behind = False
        """Whether the state on the disk is older than the one in memory."""
        self._packing = False
        self._leaving: set[int] = set()
        """The variations whose POST has begun, but whose last piece has not left."""

    def call_off(self) -> bool:
        """Send nothing more, and return whether the process may end now.

        It may end if no variation is sent or accepted without having its result, no result has to
        be fitted, and no pictures are being packed. What was sent is still completed.

        A POST that has not left completely is aborted and counts as not sent. Without its last
        piece the service can't accept it.
        """
        with self._lock:
            self._called_off.set()
            for number in self._leaving:
                self._state.posts[number - 1].state = PREPARED
            if self._leaving:
                # If this fails, the state on the disk stays `sent`. This is safe, because it is
                # then never sent again.
                with contextlib.suppress(OSError):
                    self._job.save_state(self._state)
            return not self._packing and not any(
                post.state in (SENT, ACCEPTED) or post.to_be_placed for post in self._state.posts
            )

    def finish(self, sending: bool = True) -> None:
        """Take every variation as far as possible, without sending anything twice.

        If `sending` is false, send nothing, and only complete the variations that were sent before.
        Failures are recorded in the job's state.

        Raises Failure if another process works on the job, if its disk doesn't support locks, or if
        a failure can't be recorded. Raises OSError if the lock or the state can't be read, and
        ValueError if the state is damaged.
        """
        owner = filelock.FileLock(self._job.folder / "lock", mode=0o600, blocking=False)
        try:
            held = owner.acquire()
        except filelock.Timeout as error:
            raise Failure(
                Failure.SETUP,
                _("The job {job} is being worked on already: wait until that is over.").format(
                    job=self._job.id
                ),
            ) from error
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            raise self._no_lock(error) from error
        with held:
            self._state = self._job.state
            self._finish_owned(sending)

    def _no_lock(self, error: OSError) -> Failure:
        """Return the failure for a job that can't be locked, so that nothing may be sent.

        It is also recorded in the state of the variations that were not sent.
        """
        failure = Failure(
            Failure.SETUP,
            _(
                "The disk of {folder} can't lock files ({why}), so two programs could send the "
                "edit at once: nothing is sent. Set DIMILINKS_HOME to a folder on a disk of this "
                "machine for further edits; “python -m plugin resume {job}” goes on with this one "
                "once its disk can lock files."
            ).format(folder=self._job.folder, why=error.strerror, job=self._job.id),
        )
        # No other process can lock the job either, so the state may be changed without the lock.
        self._state = self._job.state
        for post in self._state.posts:
            if post.state == PREPARED:
                self._failed(post, failure)
        return failure

    def pack(self, seconds: float = 0) -> None:
        """Compress those of the job's pictures that were written uncompressed to save time.

        Other processes may read the pictures meanwhile. This method first waits up to `seconds` for
        the results to be imported, so as not to slow the import down.
        """
        self._packing = True
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            while self._job.unimported and time.monotonic() < end:
                if self._called_off.wait(patience.IMPORTED):
                    break
        for path in self._job.folder.glob("*.png"):
            # Pictures from the service stay as they came, and damaged pictures stay, too.
            with contextlib.suppress(OSError, picture.Unreadable):
                if not path.name.startswith("result-"):
                    picture.pack(path)

    def _finish_owned(self, sending: bool) -> None:
        numbered = list(enumerate(self._state.posts, 1))
        for number, post in numbered:
            if sending and post.may_be_sent_again:
                post.state, post.kind, post.message, post.task = PREPARED, "", "", ""
            elif post.state in (SENT, ACCEPTED, FAILED) and (result := self._keeper.result(number)):
                # The worker was killed after it had written the result and before it changed the
                # state, or it could not use the result then.
                post.state, post.result = RECEIVED, result
            elif post.state in (ACCEPTED, FAILED) and (found := self._picture_in_answer(post)):
                post.state = ACCEPTED
                self._guarded(number, post, self._store, found)
            elif post.may_be_asked_for_again:
                _ask_again(post)
            elif post.may_be_read_again and (
                (kept := self._kept_answer(post)).task or kept.complete
            ):
                _ask_again(post)
                post.task = kept.task
            elif post.state == SENT or (post.state == ACCEPTED and not (post.task or post.answer)):
                self._failed(post, _lost_track())
        arrived = [(number, post) for number, post in numbered if post.to_be_placed]
        wanted = (PREPARED, ACCEPTED) if sending else (ACCEPTED,)
        open_ = [(number, post) for number, post in numbered if post.state in wanted]
        if not arrived and not open_:
            return
        self._report(Progress("preparing"))
        # Fitting results that have arrived needs neither the service nor a key.
        for number, post in arrived:
            self._guarded(number, post, self._place)
            if post.may_be_asked_for_again:
                # The result could not be used. Asking the service again may bring a better one.
                _ask_again(post)
                open_.append((number, post))
        if unsent := [(number, post) for number, post in open_ if post.state == PREPARED]:
            # Check the job before the key is read. A job that can't be sent needs no key.
            try:
                self._edit()
            except Failure as failure:
                for _number, post in unsent:
                    self._failed(post, failure)
            except Exception as error:
                _log(error)
                for number, post in unsent:
                    self._failed(post, self._unforeseen(number, post, error))
            open_ = [(number, post) for number, post in open_ if post.state != FAILED]
        if not open_:
            return
        try:
            with _line() as line, ThreadPoolExecutor(len(open_)) as pool:
                running = [
                    pool.submit(self._variation, number, post, line) for number, post in open_
                ]
        except Failure as failure:
            # The settings don't allow a connection to the service, so nothing has begun.
            for _number, post in open_:
                self._failed(post, failure)
            return
        for variation in running:
            variation.result()

    def _edit(self) -> _Edit:
        """Return what the variations share. It is read when it is first needed.

        Nothing of it is needed to ask the service for a result. Raises Failure.
        """
        with self._reading:
            if self._shared is None:
                self._shared = _Edit(self._job)
            return self._shared

    def _kept_answer(self, post: Post) -> Answer:
        """Read the kept answer of a post again, and return it with the name of its task.

        This version may understand more of it than the one that kept it.
        """
        body = b""
        if post.answer:
            with contextlib.suppress(OSError):
                body = (self._job.folder / post.answer).read_bytes()
        answer = answers.read(body)
        return dataclasses.replace(answer, task=post.task or answer.task)

    def _picture_in_answer(self, post: Post) -> bytes:
        """Return the bytes of the picture that the kept answer itself contains, or b""."""
        for link in self._kept_answer(post).links:
            with contextlib.suppress(Failure):
                data = answers.decoded(link)
                if data and picture.kind(data):
                    return data
        return b""

    def _variation(self, number: int, post: Post, line: _Line) -> None:
        self._guarded(number, post, self._receive, line)
        if post.to_be_placed and not post.kind:
            self._guarded(number, post, self._place)

    def _guarded(
        self, number: int, post: Post, step: Callable[..., None], *arguments: object
    ) -> None:
        """Run a step of a variation, and record its failure in the state."""
        try:
            step(number, post, *arguments)
        except Failure as failure:
            self._failed(post, failure)
        except Stopped:
            pass
        except Exception as error:
            # After a bug, too, the user must learn what became of an edit that was paid for.
            if isinstance(error, OSError) and post.result and self._keeper.result(number):
                self._failed(post, self._keeper.later(number, error))
                return
            _log(error)
            self._failed(post, self._unforeseen(number, post, error))

    def _unforeseen(self, number: int, post: Post, error: Exception) -> Failure:
        """Return the failure for an unexpected error. It says whether the edit may be billed."""
        why = _kind(error)
        if post.state == PREPARED:
            sentence = _(
                "Something unforeseen went wrong ({why}). Nothing was sent: try again, and "
                "report it if it stays so."
            )
            return Failure(Failure.SETUP, sentence.format(why=why))
        if self._keeper.result(number):
            sentence = _(
                "Something unforeseen went wrong ({why}). What the service delivered is kept in "
                "{folder}; “python -m plugin resume {job}” looks at it again, at no cost."
            )
            kind = Failure.PENDING if post.result else Failure.OUTCOME_UNKNOWN
        else:
            sentence = _(
                "Something unforeseen went wrong ({why}) after the edit was sent. It may have been "
                "made and billed: look at your account, then decide."
            )
            kind = Failure.OUTCOME_UNKNOWN
        return Failure(kind, sentence.format(why=why, folder=self._job.folder, job=self._job.id))

    def _receive(self, number: int, post: Post, line: _Line) -> None:
        is_new = post.state == PREPARED
        if is_new:
            try:
                answer = self._send(number, post, self._edit().form(line.route), line)
            except Failure as failure:
                if not failure.heard:
                    raise
                kept = line.service.kept(failure.heard)
                raise self._with_answer(number, post, failure, kept) from failure
            # If this fails, continue: the result matters more than the note that it will come.
            with contextlib.suppress(OSError):
                self._change(post, state=ACCEPTED, task=answer.task, service=line.address)
        else:
            line.check_has_task(post)
            answer = Answer(post.task) if post.task else self._kept_answer(post)
            self._report(Progress("waiting", number))
        if answer.task and not answer.complete:
            try:
                answer = self._asked_for(number, answer.task, line.service, is_new)
            except TaskEnded:
                answer = self._kept_answer(post)
                if not answer.complete:
                    raise
        self._report(Progress("downloading", number))
        try:
            data = line.service.picture(answer)
        except Failure as failure:
            if failure.kind == Failure.REFUSED or not answer.body:
                raise
            raise self._with_answer(
                number, post, failure, line.service.kept(answer.body)
            ) from failure
        self._store(number, post, data)

    def _store(self, number: int, post: Post, data: bytes) -> None:
        """Write the result as it was received, and record that.

        It replaces what was received before, unless only that is a picture.
        """
        kind = picture.kind(data)
        former = self._keeper.result(number)
        if former and not kind and self._keeper.is_picture(former):
            # The task was asked for again and brought a page instead of a picture. A later version
            # may be able to read the former picture.
            name = former
        else:
            name = f"result-{number}{_SUFFIXES.get(kind, f'.{kind.lower()}') if kind else '.bin'}"
            try:
                self._keeper.write_result(number, name, data)
            except OSError as error:
                raise self._not_home(number, post, name, error) from error
            self._remove_others(f"result-{number}.*", name)
        received = {"state": RECEIVED, "result": name, "kind": "", "message": ""}
        if kind:
            received["answer"] = ""
        self._keeper.write(number, "downloading", lambda: self._change(post, **received))
        if not post.answer:
            self._remove_others(f"answer-{number}.*", "")

    def _remove_others(self, pattern: str, name: str) -> None:
        """Remove the job's files that match `pattern`, except the one called `name`."""
        with contextlib.suppress(OSError):
            for former in self._job.folder.glob(pattern):
                if former.name != name:
                    former.unlink()

    def _with_answer(
        self, number: int, post: Post, failure: Failure, kept: tuple[str, bytes]
    ) -> Failure:
        """Keep an answer without a picture, and return `failure` with a message that says where.

        `kept` is the suffix for the file and its contents. If they can't be written, `failure` is
        returned unchanged.
        """
        suffix, body = kept
        path = self._job.folder / f"answer-{number}{suffix}"
        try:
            self._keeper.write(number, "downloading", lambda: settings.write_private(path, body))
        except OSError:
            return failure
        post.answer = path.name
        return Failure(
            failure.kind,
            _(
                "{sentence} The answer is kept in {path}: “python -m plugin resume {job}” reads "
                "it again, at no cost."
            ).format(sentence=failure, path=path, job=self._job.id),
        )

    def _send(self, number: int, post: Post, sent_form: Form, line: _Line) -> Answer:
        """Send a variation, again if it was certainly not accepted, and return its answer.

        Raises Failure, or Stopped if the edit is called off before.
        """

        def on_sent(sent: int, total: int) -> None:
            self._report(Progress("uploading", number, sent, total))
            if sent == total:
                self._report(Progress("waiting", number))

        def on_piece(last: bool) -> None:
            with self._lock:
                if number in self._leaving and self._called_off.is_set():
                    raise Stopped
                if last:
                    self._leaving.discard(number)

        tries = patience.Tries(line.pace)
        while True:
            while wait := line.pace.turn():
                if wait > patience.STAGGER:
                    # The service was busy for another variation or another job.
                    note = _again(Failure.BUSY, wait)
                    self._report(Progress("preparing", number, note=note))
                self._sleep(wait)
            began = time.monotonic()
            self._announce(number, post, line.route)
            try:
                return line.service.send(sent_form, on_sent, on_piece)
            except NotAccepted as failure:
                if self._was_cut_off(number):
                    raise Stopped from failure
                wait = tries.wait(failure, began)
                self._change(post, state=PREPARED)
                self._report(Progress("preparing", number, note=_again(failure.kind, wait)))
            except Failure as failure:
                if self._was_cut_off(number):
                    raise Stopped from failure
                raise
            finally:
                with self._lock:
                    self._leaving.discard(number)
            self._sleep(wait)

    def _was_cut_off(self, number: int) -> bool:
        with self._lock:
            return number in self._leaving and self._called_off.is_set()

    def _sleep(self, seconds: float) -> None:
        """Wait before a POST. Raises Stopped as soon as the edit is called off."""
        if self._called_off.wait(seconds):
            raise Stopped

    def _asked_for(self, number: int, task: str, service: Service, is_new: bool) -> Answer:
        """Poll a task until it has an answer, and return the answer.

        A task that `is_new` may be unknown to the service in its first seconds. Raises Failure.
        """
        end = time.monotonic() + patience.POLLING
        known = time.monotonic() + patience.UNKNOWN if is_new else 0
        wait, usual, longest = patience.POLLS
        pause = wait
        while True:
            # Wait before the first query, too: a new task is often unknown at first, and hardly
            # ever done.
            time.sleep(wait)
            # If the task's name is not on the disk, its result is lost when this process ends.
            self._catch_up()
            trouble = ""
            try:
                told = service.task(task)
            except TaskUnknown:
                if time.monotonic() > known:
                    raise
                wait = pause
            except Stumbled as stumble:
                trouble = str(stumble)
                wait = min(max(2 * pause, stumble.wait), longest)
                pause = min(2 * pause, longest)
            else:
                if told.answer:
                    return told.answer
                self._report(Progress("waiting", number, progress=told.progress))
                wait = pause = min(1.1 * pause, usual)
            if time.monotonic() + wait > end:
                raise self._not_ready(trouble)

    def _not_ready(self, trouble: str) -> Failure:
        sentence = (
            _(
                "The service has taken the edit, but can't be asked for the result ({why}). "
                "“python -m plugin resume {job}” asks again, at no cost."
            ).format(why=trouble, job=self._job.id)
            if trouble
            else _(
                "The service has taken the edit, and is not ready after {minutes} minutes. "
                "“python -m plugin resume {job}” asks again, at no cost."
            ).format(minutes=round(patience.POLLING / 60), job=self._job.id)
        )
        return Failure(Failure.PENDING, sentence)

    def _announce(self, number: int, post: Post, route: str) -> None:
        """Record on the disk that a variation is about to be sent.

        Raises Stopped if the edit was called off. Raises Failure if the disk has too little space
        for a result, or the state can't be written.
        """
        with self._lock:
            if self._called_off.is_set():
                raise Stopped
            try:
                free = shutil.disk_usage(self._job.folder).free
            except OSError as error:
                raise self._not_kept(error) from error
            if free < _ROOM:
                raise Failure(
                    Failure.SETUP,
                    _(
                        "The disk of {folder} is nearly full, and the result must find room "
                        "there: free some space, then try again. Nothing was sent."
                    ).format(folder=self._job.folder),
                )
            post.state, post.route = SENT, route
            try:
                self._job.save_state(self._state)
            except OSError as error:
                post.state = PREPARED
                raise self._not_kept(error) from error
            self._leaving.add(number)

    def _not_kept(self, error: OSError) -> Failure:
        return Failure(
            Failure.SETUP,
            _(
                "The job can't be kept in {folder} ({why}): nothing was sent. Make the folder "
                "writable, then try again."
            ).format(folder=self._job.folder, why=_kind(error)),
        )

    def _place(self, number: int, post: Post) -> None:
        self._report(Progress("placing", number))
        self._keeper.bring_home(number, post.result)
        result = self._job.folder / post.result
        try:
            placed, notes = self._edit().place(result.read_bytes(), post.route)
        except Failure as failure:
            raise Failure(
                failure.kind,
                _("{sentence} The result is there, as it came: {path}.").format(
                    sentence=failure, path=result
                ),
            ) from failure
        except picture.Unreadable as error:
            raise Failure(
                Failure.ANSWER,
                _(
                    "The service's picture can't be used: {why}. As it came, it is kept in {path}; "
                    "“python -m plugin resume {job}” looks at it again, at no cost."
                ).format(why=error, path=result, job=self._job.id),
            ) from error
        except Exception as error:
            # Any other error is a failure of this machine and does not mean that the picture is
            # unusable.
            _log(error)
            raise self._not_fitted(error) from error
        path = self._job.folder / f"placed-{number}.png"
        self._keeper.write(number, "placing", lambda: picture.write_layer(placed, path))
        fitted = {"placed": path.name, "kind": "", "message": "", "notes": notes}
        self._keeper.write(number, "placing", lambda: self._change(post, **fitted))

    def _not_home(self, number: int, post: Post, name: str, error: OSError) -> Failure:
        """Return the failure for a result that can't be written into the job.

        If the result could be written elsewhere, the post is changed to received.
        """
        elsewhere = self._keeper.elsewhere(name)
        if elsewhere:
            with self._lock:
                post.state, post.result = RECEIVED, name
        if elsewhere or post.task:
            return self._keeper.later(number, error)
        return Failure(
            Failure.ANSWER,
            _(
                "The result arrived, but it could not be kept, neither in {folder} ({why}) nor "
                "anywhere else. It may have been billed: look at your account, then decide."
            ).format(folder=self._job.folder, why=_kind(error)),
        )

    def _not_fitted(self, error: Exception) -> Failure:
        """Return the failure for a result that this machine can't fit."""
        sentence = (
            _(
                "The result is there, but this machine had not enough memory to fit it. Close "
                "other programs, then “python -m plugin resume {job}” goes on, at no cost."
            )
            if picture.is_out_of_memory(error)
            else _(
                "The result is there, but it could not be fitted ({why}): a part of this "
                "installation may be missing or was exchanged meanwhile. Install it again if need "
                "be, then “python -m plugin resume {job}” goes on, at no cost."
            )
        )
        return Failure(Failure.SETUP, sentence.format(job=self._job.id, why=_kind(error)))

    def _failed(self, post: Post, failure: Failure) -> None:
        """Record a failure in the state of a post.

        The post stays received if its result may still be used, and accepted if its task may still
        be asked for. Otherwise it becomes failed. Raises Failure if this can't be written.
        """
        held = post.result and failure.kind != Failure.ANSWER
        waiting = post.state == ACCEPTED and post.task and not isinstance(failure, TaskEnded)
        message = str(failure)
        if post.state == ACCEPTED and post.task:
            message = _("{sentence} The service calls it {task}.").format(
                sentence=message, task=post.task
            )
        state = post.state if held or waiting else FAILED
        try:
            self._change(post, state=state, kind=failure.kind, message=message)
        except OSError as error:
            # The former state on the disk is safe. The reason can only be reported, not recorded.
            raise Failure(failure.kind, message) from error

    def _change(self, post: Post, **changes: object) -> None:
        with self._lock:
            for name, value in changes.items():
                setattr(post, name, value)
            self._is_behind = True
            self._job.save_state(self._state)
            self._is_behind = False

    def _catch_up(self) -> None:
        """Write the state to the disk if the last attempt failed. Ignore another failure."""
        with self._lock, contextlib.suppress(OSError):
            if self._is_behind:
                self._job.save_state(self._state)
                self._is_behind = False


class _Edit:
    """What all variations of a job share: the request, the pictures and the upload.

    Raises Failure if the job folder is damaged.
    """

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        damaged = Failure(
            Failure.SETUP,
            _("The job {job} is damaged and can't be sent: start the edit anew.").format(
                job=job.id
            ),
        )
        try:
            self._request = job.request
        except (OSError, ValueError) as error:
            raise damaged from error
        if self._request.region is None or not self._request.model:
            raise damaged
        self._region = self._request.region
        self._prompt = self._request.prompt
        self._source, self._mask = upload.read_source(job.folder)
        keep_alpha = self._request.keep_alpha
        self._keep_alpha = self._mask is None if keep_alpha is None else keep_alpha
        self._references = upload.read_references(job.folder, self._request.references)
        self._uploads: dict[str, Upload] = {}
        self._forms: dict[str, Form] = {}
        self._room = picture.Room(_PIXELS_AT_ONCE)
        if self._mask is not None and settings.explains_mask():
            self._prompt += f"\n\n{settings.MASK_LINE}"
        factor = None
        if self._request.blend and self._mask is not None:
            factor = placement.blend_factor(self._mask, self._request.blend)
            picture.write_own(factor, job.folder / "blend.png")
        kept = self._source if self._keep_alpha else None
        self._hidden = placement.what_hides(self._mask, factor, kept)

    def upload(self, route: str) -> Upload:
        """Return the encoded pictures for `route`. Raises Failure if they can't be sent."""
        route = route or settings.EDITS
        with self._lock:
            if route not in self._uploads:
                self._uploads[route] = upload.build(
                    self._region,
                    self._source,
                    self._mask,
                    self._references,
                    form.pictures_bytes(route),
                )
            return self._uploads[route]

    def form(self, route: str) -> Form:
        """Return the body of the request for `route`, which is the same for all variations.

        Raises Failure if the pictures can't be sent, or if no result would be visible.
        """
        # This is not checked earlier, because results that were paid for are fitted in any case.
        if self._hidden:
            raise Failure(Failure.SETUP, self._hidden)
        uploaded = self.upload(route)
        with self._lock:
            if route not in self._forms:
                self._forms[route] = form.build(
                    route,
                    self._prompt,
                    self._request.model,
                    self._region.size,
                    self._region.resolution,
                    uploaded,
                )
            return self._forms[route]

    def place(self, data: bytes, route: str) -> tuple[Pixels, list[str]]:
        """Fit the result in `data`, which came by `route`, to the source.

        Return its pixels, RGB or RGBA (height, width, 3 or 4), and notes for the user. Raises
        picture.Unreadable if `data` is no usable picture, and Failure.
        """
        sent = self.upload(route)
        with self._room.taken(picture.pixels(data)):
            answer, delivered = picture.read_result(data, self._source.size)
            placed, notes = placement.fit(
                answer, sent, self._source, self._mask, self._request.repair, delivered
            )
            if self._keep_alpha:
                placed = placement.keep_alpha(placed, self._source)
        return placed, sent.notes + notes


def _kind(error: BaseException) -> str:
    """Return what kind of error it is, without its message.

    Messages of libraries may quote links and keys.
    """
    told = error.strerror if isinstance(error, OSError) else None
    return told or type(error).__name__


def _log(error: BaseException) -> None:
    """Write to standard error where an error came from."""
    cause: BaseException | None = error
    while cause:
        where = "".join(traceback.format_tb(cause.__traceback__))
        print(f"{_kind(cause)}\n{where}", file=sys.stderr, end="")
        cause = cause.__cause__ or cause.__context__


def _lost_track() -> Failure:
    return Failure(
        Failure.OUTCOME_UNKNOWN,
        _(
            "It was sent before, and no answer came: it may have been made and billed, so it "
            "is not sent again. Look at your account, then start a new edit if need be."
        ),
    )


def _ask_again(post: Post) -> None:
    """Change a post to accepted, so that its task is asked for once more."""
    post.state, post.kind, post.message, post.result = ACCEPTED, "", "", ""


def _again(kind: str, wait: float) -> str:
    """Return the message for a variation that will be sent, or sent again, in `wait` seconds."""
    sentence = (
        _("The service is busy. The edit is sent in {seconds} s.")
        if kind == Failure.BUSY
        else _("The service can't be reached yet. The next try is in {seconds} s.")
    )
    return sentence.format(seconds=max(1, round(wait)))


@dataclass(frozen=True)
class _Line:
    """The service and how it is used, for all variations that need it."""

    service: Service
    address: str
    """The address of the service as it is in the settings, or "sandbox"."""
    route: str
    pace: patience.Pace

    def check_has_task(self, post: Post) -> None:
        """Raise Failure if the task of `post` was made by another service.

        The two documented addresses belong to the same service.
        """
        own = post.service in ("", self.address)
        if own or {post.service, self.address} <= {*settings.DOCUMENTED_BASE_URLS}:
            return
        raise Failure(
            Failure.SETUP,
            _(
                "The edit was sent to {service}, and only there can its result be fetched: set "
                "this address again, then resume it."
            ).format(service=post.service),
        )


@contextlib.contextmanager
def _line() -> Iterator[_Line]:
    """Yield the service of the settings, within a `with` block.

    For the address "sandbox", a sandbox runs until the end of the block. Raises Failure if the
    settings or the key can't be used.
    """
    try:
        settings.check_service()
        url, route = settings.base_url(), settings.route()
        key = settings.SANDBOX if url == settings.SANDBOX else key_store.read()
    except (ValueError, OSError) as error:
        raise Failure(Failure.SETUP, str(error)) from error
    if url != settings.SANDBOX:
        yield _Line(Service(url, key), url, route, patience.Pace(url))
        return
    # Imported here, because most edits don't need it.
    from plugin.worker.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield _Line(Service(sandbox.base_url, key), url, route, patience.Pace(url))
