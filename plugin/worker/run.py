"""Run a job: send it, wait for the answers, then fetch, check and fit the results.

Each variation is sent as a POST request of its own, and the variations run in parallel. Before a
POST, which can cost money, begins, the state "sent" is written to the disk. A POST is sent again
only if the service certainly did not accept it. If an answer contains only the name of a task (the
service's own job), the service is asked for this task again and again until the result is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import filelock

from plugin import storage
from plugin.errors import Failure, Kind, NotAccepted, TaskEnded, TaskUnknown, UserError
from plugin.job import Job, Post, Status
from plugin.progress import Phase, Progress, Report
from plugin.translation import _
from plugin.worker import run_failures
from plugin.worker.keeping import Keeper
from plugin.worker.pictures import formats, png_files
from plugin.worker.service import answers, patience
from plugin.worker.service.answers import Answer
from plugin.worker.service.api import Service
from plugin.worker.service.connection import Connection, connected
from plugin.worker.service.form import Form
from plugin.worker.service.network_errors import Stumbled
from plugin.worker.shared import Shared

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG XL": ".jxl"}
"""The file suffixes of formats whose suffix is not simply the format's name."""

_ROOM = 200_000_000
"""A variation is sent only if the disk has at least this many free bytes.

The largest result and its fitted copy need fewer.
"""

_LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP)
"""Error numbers that file systems without support for file locks return."""


class Stopped(Exception):
    """The edit was called off before this variation was sent."""


class Run:
    """Runs one job. A file lock keeps other processes from working on the job at the same time."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._state = job.read_state()
        self._keeper = Keeper(job, report)
        self._lock = threading.Lock()
        self._called_off = threading.Event()
        self._shared: Shared | None = None
        self._reading = threading.Lock()
        self._is_behind = False
        """Whether the state on the disk is older than the state in memory."""
        self._packing = False
        self._leaving: set[int] = set()
        """The numbers of the variations whose POST has begun, but whose last piece isn't sent."""

    def call_off(self) -> bool:
        """Stop sending, and return whether the process can end now.

        The process can end if no variation waits for its result, no result has to be fitted, and no
        pictures are being compressed. Variations that were sent completely are still completed.

        A POST whose last piece has not been sent is aborted and counts as not sent, because the
        service can't accept it without the last piece.
        """
        with self._lock:
            self._called_off.set()
            for number in self._leaving:
                self._state.posts[number - 1].state = Status.PREPARED
            if self._leaving:
                # If writing fails, the state on the disk stays `sent`. This is safe, because a
                # variation in this state is never sent again.
                with contextlib.suppress(OSError):
                    self._job.save_state(self._state)
            return not self._packing and not any(
                post.awaits_answer or post.to_be_placed for post in self._state.posts
            )

    def finish(self, sending: bool = True) -> None:
        """Take every variation as far as possible, up to its fitted result.

        No variation is sent twice. If `sending` is false, only complete the variations that were
        sent before. The failure of a variation is recorded in the job's state.

        Raises Failure if another process works on the job, if the disk with the job folder doesn't
        support file locks, or if a failure can't be recorded. Raises OSError if the lock or the
        state can't be read, and UserError if the state is damaged.
        """
        owner = filelock.FileLock(self._job.folder / "lock", mode=0o600, blocking=False)
        try:
            held = owner.acquire()
        except filelock.Timeout as error:
            raise Failure(
                Kind.SETUP,
                _(
                    "Edit number {job} is being worked on already. Wait until it is finished."
                ).format(job=self._job.id),
            ) from error
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            raise self._no_lock(error) from error
        with held:
            self._state = self._job.read_state()
            self._finish_owned(sending)

    def _no_lock(self, error: OSError) -> Failure:
        """Return the Failure for a job that can't be locked and is therefore not sent.

        The failure is also recorded in the state of each variation that has not been sent.
        """
        # No other process can lock the job either, so no other process changes the state now.
        self._state = self._job.read_state()
        is_unsent = all(post.may_be_sent for post in self._state.posts)
        failure = run_failures.no_lock(self._job, error, is_unsent)
        for post in self._state.posts:
            if post.state == Status.PREPARED:
                self._failed(post, failure)
        return failure

    def pack(self, seconds: float = 0) -> None:
        """Compress the pictures of the job that were written uncompressed to save time.

        First wait until the plug-in has imported the results, at most `seconds`, because
        compressing would slow the import down. Other processes can read the pictures at any time.
        """
        self._packing = True
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError, UserError):
            while self._job.find_unimported() and time.monotonic() < end:
                if self._called_off.wait(patience.IMPORTED):
                    break
        for path in self._job.folder.glob("*.png"):
            # Skip pictures from the service, which are kept unchanged, and damaged pictures.
            with contextlib.suppress(OSError, formats.Unreadable):
                if not path.name.startswith("result-"):
                    png_files.pack(path)

    def _finish_owned(self, sending: bool) -> None:
        numbered = list(enumerate(self._state.posts, 1))
        for number, post in numbered:
            if sending and post.may_be_sent_again:
                post.state, post.kind, post.message, post.task = Status.PREPARED, "", "", ""
            elif post.state in (Status.SENT, Status.ACCEPTED, Status.FAILED) and (
                result := self._keeper.result(number)
            ):
                # There is a result, because an earlier worker was killed after it had written the
                # result and before it changed the state, or because it could not use the result.
                post.state, post.result = Status.RECEIVED, result
            elif post.state in (Status.ACCEPTED, Status.FAILED) and (
                found := self._picture_in_answer(post)
            ):
                post.state = Status.ACCEPTED
                self._guarded(number, post, self._store, found)
            elif post.may_be_asked_for_again:
                _ask_again(post)
            elif post.may_be_read_again and (
                (kept := self._kept_answer(post)).task or kept.complete
            ):
                _ask_again(post)
                post.task = kept.task
            elif post.state == Status.SENT or (
                post.state == Status.ACCEPTED and not (post.task or post.answer)
            ):
                self._failed(post, run_failures.lost_track())
        arrived = [(number, post) for number, post in numbered if post.to_be_placed]
        wanted = (Status.PREPARED, Status.ACCEPTED) if sending else (Status.ACCEPTED,)
        open_ = [(number, post) for number, post in numbered if post.state in wanted]
        if not arrived and not open_:
            return
        self._report(Progress(Phase.PREPARING))
        # Fit results that have arrived before the key is read, because fitting needs no key.
        for number, post in arrived:
            self._guarded(number, post, self._fit)
            if post.may_be_asked_for_again:
                # The result could not be used. Ask for the task again, because the service will
                # possibly send a usable result now.
                _ask_again(post)
                open_.append((number, post))
        if unsent := [(number, post) for number, post in open_ if post.state == Status.PREPARED]:
            # Check the job before the key is read, because a job that can't be sent needs no key.
            try:
                self._what_is_shared()
            except Failure as failure:
                for _number, post in unsent:
                    self._failed(post, failure)
            except Exception as error:
                run_failures.log(error)
                for number, post in unsent:
                    self._unforeseen(number, post, error)
            open_ = [(number, post) for number, post in open_ if post.state != Status.FAILED]
        if not open_:
            return
        try:
            with connected() as connection, ThreadPoolExecutor(len(open_)) as pool:
                running = [
                    pool.submit(self._variation, number, post, connection) for number, post in open_
                ]
        except Failure as failure:
            # `connected` raised this: the settings or the key can't be used. Nothing was sent.
            for _number, post in open_:
                self._failed(post, failure)
            return
        for variation in running:
            variation.result()

    def _what_is_shared(self) -> Shared:
        """Return the request and pictures that all variations share.

        They are read at the first call only, because asking the service for a result doesn't need
        them. Raises Failure if the job folder is damaged.
        """
        with self._reading:
            if self._shared is None:
                self._shared = Shared(self._job)
            return self._shared

    def _kept_answer(self, post: Post) -> Answer:
        """Read the answer that is kept in the job folder for a post, and add the task's name.

        The answer is read once more because the version of this program that kept it possibly
        understood less of it than this version does.
        """
        body = b""
        if post.answer:
            with contextlib.suppress(OSError):
                body = (self._job.folder / post.answer).read_bytes()
        answer = answers.read(body)
        return dataclasses.replace(answer, task=post.task or answer.task)

    def _picture_in_answer(self, post: Post) -> bytes:
        """Return the bytes of a picture that the kept answer itself contains, or b"" if none."""
        for link in self._kept_answer(post).links:
            with contextlib.suppress(Failure):
                data = answers.decoded(link)
                if data and formats.file_type(data):
                    return data
        return b""

    def _variation(self, number: int, post: Post, connection: Connection) -> None:
        self._guarded(number, post, self._receive, connection)
        if post.to_be_placed and not post.kind:
            self._guarded(number, post, self._fit)

    def _guarded(
        self, number: int, post: Post, step: Callable[..., None], *arguments: object
    ) -> None:
        """Call `step` for a variation. If it raises an exception, record this in the state."""
        try:
            step(number, post, *arguments)
        except Failure as failure:
            self._failed(post, failure)
        except Stopped:
            pass
        except Exception as error:
            # Catch every exception, because even after a bug in this program the user must learn
            # what became of an edit that was paid for.
            if isinstance(error, OSError) and post.result and self._keeper.result(number):
                self._failed(post, self._keeper.later(number, error))
                return
            run_failures.log(error)
            self._unforeseen(number, post, error)

    def _unforeseen(self, number: int, post: Post, error: Exception) -> None:
        is_kept = bool(self._keeper.result(number))
        self._failed(post, run_failures.unforeseen(self._job, post, error, is_kept))

    def _receive(self, number: int, post: Post, connection: Connection) -> None:
        is_new = post.state == Status.PREPARED
        if is_new:
            try:
                answer = self._send(
                    number, post, self._what_is_shared().form(connection.route), connection
                )
            except Failure as failure:
                if not failure.heard:
                    raise
                kept = connection.service.kept(failure.heard)
                raise self._with_answer(number, post, failure, kept) from failure
            # If the state can't be written, go on, because fetching the result is more important.
            with contextlib.suppress(OSError):
                self._change(
                    post, state=Status.ACCEPTED, task=answer.task, service=connection.address
                )
        else:
            connection.check_has_task(post)
            answer = Answer(post.task) if post.task else self._kept_answer(post)
            self._report(Progress(Phase.WAITING, number))
        if answer.task and not answer.complete:
            try:
                answer = self._asked_for(number, answer.task, connection.service, is_new)
            except TaskEnded:
                answer = self._kept_answer(post)
                if not answer.complete:
                    raise
        self._report(Progress(Phase.DOWNLOADING, number))
        try:
            data = connection.service.picture(answer)
        except Failure as failure:
            if failure.kind == Kind.REFUSED or not answer.body:
                raise
            raise self._with_answer(
                number, post, failure, connection.service.kept(answer.body)
            ) from failure
        self._store(number, post, data)

    def _store(self, number: int, post: Post, data: bytes) -> None:
        """Write the received bytes unchanged to a result file, and record the file in the state.

        An earlier result of the variation is replaced, unless it is a picture and `data` is not.
        """
        kind = formats.file_type(data)
        former = self._keeper.result(number)
        if former and not kind and self._keeper.is_picture(former):
            # This version could not read the earlier picture, so the service was asked for the task
            # again, but sent no picture this time. Keep the earlier picture, because it can be
            # intact, so that a later version can read it.
            name = former
        else:
            name = f"result-{number}{_SUFFIXES.get(kind, f'.{kind.lower()}') if kind else '.bin'}"
            try:
                self._keeper.write_result(number, name, data)
            except OSError as error:
                raise self._not_home(number, post, name, error) from error
            self._remove_others(f"result-{number}.*", name)
        received = {"state": Status.RECEIVED, "result": name, "kind": "", "message": ""}
        if kind:
            received["answer"] = ""
        self._keeper.write(number, Phase.DOWNLOADING, lambda: self._change(post, **received))
        if not post.answer:
            self._remove_others(f"answer-{number}.*", "")

    def _remove_others(self, pattern: str, name: str) -> None:
        """Remove all files in the job folder that match `pattern`, except the file `name`."""
        with contextlib.suppress(OSError):
            for former in self._job.folder.glob(pattern):
                if former.name != name:
                    former.unlink()

    def _with_answer(
        self, number: int, post: Post, failure: Failure, kept: tuple[str, bytes]
    ) -> Failure:
        """Write an answer without a usable picture to the job folder.

        `kept` contains the suffix for the file and its contents. Return `failure` with the path of
        the file added to its message, or unchanged if the file can't be written.
        """
        suffix, body = kept
        path = self._job.folder / f"answer-{number}{suffix}"
        try:
            self._keeper.write(number, Phase.DOWNLOADING, lambda: storage.write_private(path, body))
        except OSError:
            return failure
        post.answer = path.name
        return Failure(
            failure.kind,
            _(
                "{sentence} What the service sent is kept in {path}. Choose Try Again to read it "
                "once more, at no cost (edit number {job})."
            ).format(sentence=failure, path=path, job=self._job.id),
        )

    def _send(self, number: int, post: Post, sent_form: Form, connection: Connection) -> Answer:
        """Send a variation and return the answer. Repeat the POST if it was certainly not accepted.

        Raises Stopped if the edit is called off before the POST is complete, and Failure if the
        POST fails for good.
        """

        def on_sent(sent: int, total: int) -> None:
            self._report(Progress(Phase.UPLOADING, number, sent, total))
            if sent == total:
                self._report(Progress(Phase.WAITING, number))

        def on_piece(last: bool) -> None:
            with self._lock:
                if number in self._leaving and self._called_off.is_set():
                    raise Stopped
                if last:
                    self._leaving.discard(number)

        tries = patience.Tries(connection.pace)
        while True:
            while wait := connection.pace.turn():
                if wait > patience.STAGGER:
                    # The service recently answered another variation or job that it is busy.
                    note = run_failures.again(Kind.BUSY, wait)
                    self._report(Progress(Phase.PREPARING, number, note=note))
                self._sleep(wait)
            began = time.monotonic()
            self._announce(number, post, connection.route)
            try:
                return connection.service.send(sent_form, on_sent, on_piece)
            except NotAccepted as failure:
                if self._was_cut_off(number):
                    raise Stopped from failure
                wait = tries.wait(failure, began)
                self._change(post, state=Status.PREPARED)
                self._report(
                    Progress(Phase.PREPARING, number, note=run_failures.again(failure.kind, wait))
                )
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
        """Wait for `seconds` before a POST. Raises Stopped as soon as the edit is called off."""
        if self._called_off.wait(seconds):
            raise Stopped

    def _asked_for(self, number: int, task: str, service: Service, is_new: bool) -> Answer:
        """Ask the service for a task again and again until it is done, and return its answer.

        `is_new` says that the edit was just sent. In this case, the service's message that there is
        no such task is ignored in the first seconds. Raises Failure if the task ended without a
        result or takes too long.
        """
        end = time.monotonic() + patience.POLLING
        known = time.monotonic() + patience.UNKNOWN if is_new else 0
        wait, usual, longest = patience.POLLS
        pause = wait
        while True:
            # Wait before the first request, too, because a new task is often unknown to the service
            # at first, and hardly ever done.
            time.sleep(wait)
            # Try again to write the task's name to the disk if that failed before. Otherwise the
            # result would be lost if this process ended now.
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
                self._report(Progress(Phase.WAITING, number, percent=told.progress))
                wait = pause = min(1.1 * pause, usual)
            if time.monotonic() + wait > end:
                raise run_failures.not_ready(self._job, trouble)

    def _announce(self, number: int, post: Post, route: str) -> None:
        """Write the state "sent" of a variation to the disk, before the variation is sent.

        Raises Stopped if the edit was called off. Raises Failure if the disk has too little space
        for a result, or if the state can't be written.
        """
        with self._lock:
            if self._called_off.is_set():
                raise Stopped
            try:
                free = shutil.disk_usage(self._job.folder).free
            except OSError as error:
                raise run_failures.not_kept(self._job, error) from error
            if free < _ROOM:
                raise Failure(
                    Kind.SETUP,
                    _(
                        "The disk with {folder} is nearly full, so there is no room for the "
                        "result. Nothing was sent, so nothing was charged. Free some space, then "
                        "try again."
                    ).format(folder=self._job.folder),
                )
            post.state, post.route = Status.SENT, route
            try:
                self._job.save_state(self._state)
            except OSError as error:
                post.state = Status.PREPARED
                raise run_failures.not_kept(self._job, error) from error
            self._leaving.add(number)

    def _fit(self, number: int, post: Post) -> None:
        self._report(Progress(Phase.FITTING, number))
        self._keeper.bring_home(number, post.result)
        result = self._job.folder / post.result
        try:
            placed, notes = self._what_is_shared().fit(result.read_bytes(), post.route)
        except Failure as failure:
            raise Failure(
                failure.kind,
                _(
                    "{sentence} The result has arrived and is kept unchanged in {path}. File "
                    "▸ Open as Layers… opens it."
                ).format(sentence=failure, path=result),
            ) from failure
        except formats.Unreadable as error:
            raise Failure(
                Kind.ANSWER,
                _(
                    "The picture from the service can't be used: {why}. It is kept unchanged in "
                    "{path}. Choose Try Again to read it once more, at no cost (edit number {job})."
                ).format(why=error, path=result, job=self._job.id),
            ) from error
        except Exception as error:
            # Any other exception is a problem of this machine, such as too little memory, so the
            # picture itself is probably usable later.
            run_failures.log(error)
            raise run_failures.not_fitted(self._job, error) from error
        path = self._job.folder / f"placed-{number}.png"
        self._keeper.write(number, Phase.FITTING, lambda: png_files.write_layer(placed, path))
        fitted = {"placed": path.name, "kind": "", "message": "", "notes": notes}
        self._keeper.write(number, Phase.FITTING, lambda: self._change(post, **fitted))

    def _not_home(self, number: int, post: Post, name: str, error: OSError) -> Failure:
        """Return the Failure for a result that can't be written to the job folder.

        If there is a copy of the result in the spare folder, change the post to received.
        """
        elsewhere = self._keeper.elsewhere(name)
        if elsewhere:
            with self._lock:
                post.state, post.result = Status.RECEIVED, name
        if elsewhere or post.task:
            return self._keeper.later(number, error)
        return Failure(
            Kind.ANSWER,
            _(
                "The result arrived, but it could not be saved, neither in {folder} nor anywhere "
                "else: {why}. You may have been charged, so the edit is not sent again. Check your "
                "account with the service before you start a new edit."
            ).format(folder=self._job.folder, why=run_failures.described(error)),
        )

    def _failed(self, post: Post, failure: Failure) -> None:
        """Record a failure in a post, and write the state to the disk.

        A post whose result can possibly still be used stays received. A post whose task can still
        be asked for stays accepted. Any other post becomes failed. Raises Failure if the state
        can't be written.
        """
        held = post.result and failure.kind != Kind.ANSWER
        waiting = post.state == Status.ACCEPTED and post.task and not isinstance(failure, TaskEnded)
        message = str(failure)
        if post.state == Status.ACCEPTED and post.task:
            message = _(
                "{sentence} If you contact the service about this edit, give the task number "
                "{task}."
            ).format(sentence=message, task=post.task)
        state = post.state if held or waiting else Status.FAILED
        try:
            self._change(post, state=state, kind=failure.kind, message=message)
        except OSError as error:
            # The former state stays on the disk, which is safe: it leads to no second POST. The
            # message can't be recorded, so report it to the caller.
            raise Failure(failure.kind, message) from error

    def _change(self, post: Post, **changes: object) -> None:
        with self._lock:
            for name, value in changes.items():
                setattr(post, name, value)
            self._is_behind = True
            self._job.save_state(self._state)
            self._is_behind = False

    def _catch_up(self) -> None:
        """Write the state to the disk if the last attempt failed. Ignore a further OSError."""
        with self._lock, contextlib.suppress(OSError):
            if self._is_behind:
                self._job.save_state(self._state)
                self._is_behind = False


def _ask_again(post: Post) -> None:
    """Change a post to accepted, so that the service is asked for its task or answer again."""
    post.state, post.kind, post.message, post.result = Status.ACCEPTED, "", "", ""
