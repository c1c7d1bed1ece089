"""Taking a job through its states: send, wait, fetch, check, fit.

Each variation is a POST of its own; they run side by side. Before a step that matters to the
user's money begins, the state that announces it is on the disk. A POST is sent again only where it
surely was not accepted; what the service has named a task for is asked for until it is there.
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
    """What begins now: preparing, uploading, waiting, downloading, placing.

    `variation` counts from 1; preparing is for all, and has none. Uploading comes again and again,
    with the bytes that went up, and so does waiting where the service tells its `progress` in
    percent. `note` is a sentence for the user, if there is more to say: a variation that waits to
    be sent again is preparing.
    """

    phase: str
    variation: int = 0
    sent: int = 0
    total: int = 0
    progress: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, str | int]:
        """The object that goes to the plug-in, without what doesn't apply."""
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
"""Is told how an edit gets on, from several threads."""

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG XL": ".jxl"}
"""Of the files of pictures whose format isn't their suffix."""

_ROOM = 200_000_000
"""Bytes that must be free for the largest result and its fitted copy."""

_PIXELS_AT_ONCE = 36_000_000
"""Of results that are fitted side by side: four of the largest that the service makes."""

_LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""What a disk says that can lock no file at all."""


class Stopped(Exception):
    """The edit was called off before this variation was sent."""


class Run:
    """One job being worked on, by this process alone."""

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
        """Whether the disk has an older state than this process."""
        self._packing = False
        self._leaving: set[int] = set()
        """The variations whose POST has begun, and whose last piece has not left."""

    def call_off(self) -> bool:
        """Send nothing more, and return whether nothing is under way; what was sent goes on.

        A POST that is not complete ends here: without its last piece it can't be accepted.
        """
        with self._lock:
            self._called_off.set()
            for number in self._leaving:
                self._state.posts[number - 1].state = PREPARED
            if self._leaving:
                # Else it stays as sent, which is the safe side.
                with contextlib.suppress(OSError):
                    self._job.save_state(self._state)
            return not self._packing and not any(
                post.state in (SENT, ACCEPTED) or post.to_be_placed for post in self._state.posts
            )

    def finish(self, sending: bool = True) -> None:
        """Take every variation as far as it may go without being sent twice.

        Without `sending` that is what was sent already; nothing new is. What went wrong is in the
        job's state afterwards. Raises Failure if another process works on the job or what went
        wrong can't be written, OSError if how far it got can't.
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
        """Tell that nobody can lock the job, so that nothing may be sent, and note it."""
        failure = Failure(
            Failure.SETUP,
            _(
                "The disk of {folder} can't lock files ({why}), so two programs could send the "
                "edit at once: nothing is sent. Set DIMILINKS_HOME to a folder on a disk of this "
                "machine for further edits; “python -m plugin resume {job}” goes on with this one "
                "once its disk can lock files."
            ).format(folder=self._job.folder, why=error.strerror, job=self._job.id),
        )
        # Nobody else can be at work on it, either.
        self._state = self._job.state
        for post in self._state.posts:
            if post.state == PREPARED:
                self._failed(post, failure)
        return failure

    def pack(self, seconds: float = 0) -> None:
        """Make the job's pictures small on the disk: while somebody waited they were written large.

        They may be read meanwhile. This first waits up to `seconds` for the results to be
        imported, not to slow that down.
        """
        self._packing = True
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            while self._job.unimported and time.monotonic() < end:
                if self._called_off.wait(patience.IMPORTED):
                    break
        for path in self._job.folder.glob("*.png"):
            # What the service delivered stays as it came; a damaged one stays, too.
            with contextlib.suppress(OSError, picture.Unreadable):
                if not path.name.startswith("result-"):
                    picture.pack(path)

    def _finish_owned(self, sending: bool) -> None:
        numbered = list(enumerate(self._state.posts, 1))
        for number, post in numbered:
            if sending and post.may_be_sent_again:
                post.state, post.kind, post.message, post.task = PREPARED, "", "", ""
            elif post.state in (SENT, ACCEPTED, FAILED) and (result := self._keeper.result(number)):
                # The worker was killed between the two, or could not use it then.
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
        # These need no service, and no key.
        for number, post in arrived:
            self._guarded(number, post, self._place)
            if post.may_be_asked_for_again:
                # It could not be used; the service may have a better one.
                _ask_again(post)
                open_.append((number, post))
        if unsent := [(number, post) for number, post in open_ if post.state == PREPARED]:
            # Before a key is asked for: with one it could not be sent, either.
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
            # There is no way to the service: nothing has begun.
            for _number, post in open_:
                self._failed(post, failure)
            return
        for variation in running:
            variation.result()

    def _edit(self) -> _Edit:
        """What the variations share, which is read where it is needed first. Raises Failure.

        Nothing of it is needed to ask for what the service has made.
        """
        with self._reading:
            if self._shared is None:
                self._shared = _Edit(self._job)
            return self._shared

    def _kept_answer(self, post: Post) -> Answer:
        """What was kept of an answer, as it is understood by now."""
        body = b""
        if post.answer:
            with contextlib.suppress(OSError):
                body = (self._job.folder / post.answer).read_bytes()
        answer = answers.read(body)
        return dataclasses.replace(answer, task=post.task or answer.task)

    def _picture_in_answer(self, post: Post) -> bytes:
        """The picture that a kept answer holds itself, for which nobody need be asked."""
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
        """Take a step of a variation, and put into its state what went wrong."""
        try:
            step(number, post, *arguments)
        except Failure as failure:
            self._failed(post, failure)
        except Stopped:
            pass
        except Exception as error:
            # A fault of ours must not leave an edit that was paid for without a word.
            if isinstance(error, OSError) and post.result and self._keeper.result(number):
                self._failed(post, self._keeper.later(number, error))
                return
            _log(error)
            self._failed(post, self._unforeseen(number, post, error))

    def _unforeseen(self, number: int, post: Post, error: Exception) -> Failure:
        """Tell of a fault of ours, and what is true of the money."""
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
            # The result itself is worth more than the note that it is coming.
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
        """Keep what arrived as it came, in place of what came before, unless that was more."""
        kind = picture.kind(data)
        former = self._keeper.result(number)
        if former and not kind and self._keeper.is_picture(former):
            # The task was asked once more, and brought a page: a later version may read the former.
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
        """Remove the job's files of that pattern except the one of that name."""
        with contextlib.suppress(OSError):
            for former in self._job.folder.glob(pattern):
                if former.name != name:
                    former.unlink()

    def _with_answer(
        self, number: int, post: Post, failure: Failure, kept: tuple[str, bytes]
    ) -> Failure:
        """Keep what the service said where no picture came of it, and say where it is."""
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
        """Send a variation, again where it surely was not accepted. Raises Failure or Stopped."""

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
                    # Another job was told so.
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
        """Let time pass before a POST. Raises Stopped as soon as the edit is called off."""
        if self._called_off.wait(seconds):
            raise Stopped

    def _asked_for(self, number: int, task: str, service: Service, is_new: bool) -> Answer:
        """Ask for a task until it has an answer. Raises Failure.

        One that `is_new` may be unknown to the service for its first seconds.
        """
        end = time.monotonic() + patience.POLLING
        known = time.monotonic() + patience.UNKNOWN if is_new else 0
        wait, usual, longest = patience.POLLS
        pause = wait
        while True:
            # Also before the first question: hardly any task is known, or done, at once.
            time.sleep(wait)
            # Without the task's name on the disk its result is lost if this process ends.
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
        """Put on the disk that this variation is about to be sent."""
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
            # Whatever it is, it is no verdict on the picture.
            _log(error)
            raise self._not_fitted(error) from error
        path = self._job.folder / f"placed-{number}.png"
        self._keeper.write(number, "placing", lambda: picture.write_layer(placed, path))
        fitted = {"placed": path.name, "kind": "", "message": "", "notes": notes}
        self._keeper.write(number, "placing", lambda: self._change(post, **fitted))

    def _not_home(self, number: int, post: Post, name: str, error: OSError) -> Failure:
        """Tell what became of a result that can't be written into the job."""
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
        """Tell what on this machine keeps a result, which is there, from being fitted."""
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
        """Note a failure; what has arrived, or waits at the service, stays what it is.

        Raises Failure where it can't be noted.
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
            # What is on the disk is the safe side; why it stays so can only be said.
            raise Failure(failure.kind, message) from error

    def _change(self, post: Post, **changes: object) -> None:
        with self._lock:
            for name, value in changes.items():
                setattr(post, name, value)
            self._is_behind = True
            self._job.save_state(self._state)
            self._is_behind = False

    def _catch_up(self) -> None:
        """Put the state on the disk if that failed before, and may work by now."""
        with self._lock, contextlib.suppress(OSError):
            if self._is_behind:
                self._job.save_state(self._state)
                self._is_behind = False


class _Edit:
    """What all variations of a job share: the request, the pictures, and what goes up.

    Raises Failure if the job can't be sent.
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
        """The pictures as that route takes them. Raises Failure if they can't be sent."""
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
        """What is sent by that route, the same for all variations.

        Raises Failure like upload, and where nothing of any result would be seen.
        """
        # Here and not earlier: what was sent and paid for before is fitted all the same.
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
        """Fit the answer that came by `route` to the source's pixels: RGB or RGBA.

        The notes are sentences for the user. Raises picture.Unreadable.
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
    """What a fault is, without its words: those of libraries quote links and keys."""
    told = error.strerror if isinstance(error, OSError) else None
    return told or type(error).__name__


def _log(error: BaseException) -> None:
    """Say on standard error where a fault came from."""
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
    """Let its task be asked for once more."""
    post.state, post.kind, post.message, post.result = ACCEPTED, "", "", ""


def _again(kind: str, wait: float) -> str:
    """The sentence for a variation that will be sent again."""
    sentence = (
        _("The service is busy. The edit is sent in {seconds} s.")
        if kind == Failure.BUSY
        else _("The service can't be reached yet. The next try is in {seconds} s.")
    )
    return sentence.format(seconds=max(1, round(wait)))


@dataclass(frozen=True)
class _Line:
    """The way to the service, the same for all variations that are open."""

    service: Service
    address: str
    """As the settings have it."""
    route: str
    pace: patience.Pace

    def check_has_task(self, post: Post) -> None:
        """Let a task be asked for only where it was made. Raises Failure."""
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
    """Give the way that the settings name, or one to a sandbox that lives as long.

    Raises Failure.
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
    # Most edits never need it.
    from plugin.worker.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield _Line(Service(sandbox.base_url, key), url, route, patience.Pace(url))
