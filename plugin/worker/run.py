"""Taking a job through its states: send, wait, fetch, check, fit.

Each variation is a POST of its own; they run side by side. Before a step that matters to the
user's money begins, the state that announces it is on the disk.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import filelock
from PIL import Image

from plugin import settings
from plugin.job import ACCEPTED, FAILED, PREPARED, RECEIVED, SENT, Job, Post
from plugin.region import Region
from plugin.words import _
from plugin.worker import key_store, picture, placement, upload
from plugin.worker.failure import Failure
from plugin.worker.service import Service


@dataclass(frozen=True)
class Progress:
    """What begins now: preparing, uploading, waiting, downloading, placing.

    `variation` counts from 1; preparing is for all, and has none. Uploading comes again and again,
    with the bytes that went up.
    """

    phase: str
    variation: int = 0
    sent: int = 0
    total: int = 0

    def to_json(self) -> dict[str, str | int]:
        """The object that goes to the plug-in, without what doesn't apply."""
        fields: dict[str, str | int] = {"phase": self.phase}
        if self.variation:
            fields["variation"] = self.variation
        if self.total:
            fields.update(sent=self.sent, total=self.total)
        return fields


Report = Callable[[Progress], None]
"""Is told how an edit gets on, from several threads."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}

_ROOM = 200_000_000
"""Bytes that must be free for the largest result and its fitted copy."""


class Stopped(Exception):
    """The edit was called off before this variation was sent."""


class Run:
    """One job being worked on, by this process alone."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._state = job.state
        self._lock = threading.Lock()
        self._called_off = False

    def call_off(self) -> bool:
        """Send nothing more, and return whether nothing is under way; what was sent goes on."""
        with self._lock:
            self._called_off = True
            return not any(
                post.state in (SENT, ACCEPTED) or _to_be_placed(post) for post in self._state.posts
            )

    def finish(self) -> None:
        """Take every variation as far as it may go without being sent twice.

        What went wrong is in the job's state afterwards. Raises Failure if another process works
        on the job, OSError if its state can't be written any more.
        """
        owner = filelock.FileLock(self._job.folder / "lock", blocking=False)
        try:
            with owner:
                self._state = self._job.state
                self._finish_owned()
        except filelock.Timeout as error:
            raise Failure(
                Failure.SETUP,
                _("The job {job} is being worked on already.").format(job=self._job.id),
            ) from error

    def _finish_owned(self) -> None:
        for post in self._state.posts:
            if _may_be_sent_again(post):
                post.state, post.kind, post.message = PREPARED, "", ""
        numbered = list(enumerate(self._state.posts, 1))
        arrived = [(number, post) for number, post in numbered if _to_be_placed(post)]
        unsent = [(number, post) for number, post in numbered if post.state == PREPARED]
        if not arrived and not unsent:
            return
        try:
            self._report(Progress("preparing"))
            edit = _Edit(self._job)
        except Failure as failure:
            for _number, post in arrived + unsent:
                self._failed(post, failure)
            return
        # These need no service, and no key.
        for number, post in arrived:
            self._guarded(post, self._place, number, post, edit)
        if not unsent:
            return
        try:
            with _service() as service, ThreadPoolExecutor(len(unsent)) as pool:
                running = [
                    pool.submit(self._variation, number, post, edit, service)
                    for number, post in unsent
                ]
            for variation in running:
                variation.result()
        except Failure as failure:
            for _number, post in unsent:
                self._failed(post, failure)

    def _variation(self, number: int, post: Post, edit: _Edit, service: Service) -> None:
        self._guarded(post, self._receive, number, post, edit, service)
        if _to_be_placed(post):
            self._guarded(post, self._place, number, post, edit)

    def _guarded(self, post: Post, step: Callable[..., None], *arguments: object) -> None:
        """Take a step of a variation, and put into its state what went wrong."""
        try:
            step(*arguments)
        except Failure as failure:
            self._failed(post, failure)
        except Stopped:
            pass
        except Exception as error:
            # A fault of ours must not leave an edit that was paid for without a word.
            traceback.print_exc()
            kind = Failure.SETUP if post.state == PREPARED else Failure.OUTCOME_UNKNOWN
            self._failed(
                post,
                Failure(
                    kind,
                    _(
                        "Something unforeseen went wrong ({why}). What the service delivered is "
                        "kept in {folder}."
                    ).format(why=str(error) or type(error).__name__, folder=self._job.folder),
                ),
            )

    def _receive(self, number: int, post: Post, edit: _Edit, service: Service) -> None:
        def on_sent(sent: int, total: int) -> None:
            self._report(Progress("uploading", number, sent, total))
            if sent == total:
                self._report(Progress("waiting", number))

        self._announce(post)
        answer = service.edit(
            edit.prompt, edit.model, edit.region.size, edit.region.resolution, edit.upload, on_sent
        )
        # The result itself is worth more than the note that it is coming.
        with contextlib.suppress(OSError):
            self._change(post, state=ACCEPTED, task=answer.task)
        self._report(Progress("downloading", number))
        data = service.picture(answer)
        suffix = next((s for magic, s in _SUFFIXES.items() if data.startswith(magic)), ".bin")
        result = self._job.folder / f"result-{number}{suffix}"
        settings.write_private(result, data)
        self._change(post, state=RECEIVED, result=result.name)

    def _announce(self, post: Post) -> None:
        """Put on the disk that this variation is about to be sent."""
        with self._lock:
            if self._called_off:
                raise Stopped
            if shutil.disk_usage(self._job.folder).free < _ROOM:
                raise Failure(
                    Failure.SETUP,
                    _(
                        "The disk of {folder} is nearly full, and the result must find room "
                        "there: free some space, then try again. Nothing was sent."
                    ).format(folder=self._job.folder),
                )
            post.state = SENT
            try:
                self._job.save_state(self._state)
            except OSError as error:
                post.state = PREPARED
                raise Failure(
                    Failure.SETUP,
                    _("The job can't be kept in {folder} ({why}): nothing was sent.").format(
                        folder=self._job.folder, why=error.strerror
                    ),
                ) from error

    def _place(self, number: int, post: Post, edit: _Edit) -> None:
        self._report(Progress("placing", number))
        try:
            answer = picture.read_foreign((self._job.folder / post.result).read_bytes())
        except picture.Unreadable as error:
            raise Failure(
                Failure.ANSWER,
                _(
                    "The service's picture can't be used: {why}. As it came, it is kept in {path}."
                ).format(why=error, path=self._job.folder / post.result),
            ) from error
        placed, notes = edit.place(answer)
        path = self._job.folder / f"placed-{number}.png"
        picture.write_own(placed, path)
        self._change(post, placed=path.name, kind="", message="", notes=edit.upload.notes + notes)

    def _failed(self, post: Post, failure: Failure) -> None:
        """Note a failure; what has arrived, or waits at the service, stays what it is."""
        held = post.result and failure.kind != Failure.ANSWER
        waiting = post.state == ACCEPTED and post.task
        message = str(failure)
        if waiting:
            message = _("{sentence} The service calls it {task}.").format(
                sentence=message, task=post.task
            )
        state = post.state if held or waiting else FAILED
        self._change(post, state=state, kind=failure.kind, message=message)

    def _change(self, post: Post, **changes: object) -> None:
        with self._lock:
            for name, value in changes.items():
                setattr(post, name, value)
            self._job.save_state(self._state)


class _Edit:
    """What all variations of a job share: the request, the pictures, and what goes up.

    Raises Failure if the job can't be sent.
    """

    def __init__(self, job: Job) -> None:
        try:
            request = job.request
            self.prompt: str = request["prompt"]
            self.model: str = request["model"]
            self.region = Region.from_json(request["region"])
            self._repair: bool = request["repair"]
            blend: int = request["blend"]
            names: list[str] = request["references"]
            keep_alpha: bool | None = request.get("keep_alpha")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(
                Failure.SETUP,
                _("The job {job} is damaged and can't be sent.").format(job=job.id),
            ) from error
        self._source, self._mask = upload.read_source(job.folder)
        # Jobs of version 0.1.0 don't say.
        self._keep_alpha = self._mask is None if keep_alpha is None else keep_alpha
        references = upload.read_references(job.folder, names)
        self.upload = upload.build(self.region, self._source, self._mask, references)
        if self._mask is not None and settings.explains_mask():
            self.prompt += f"\n\n{settings.MASK_LINE}"
        if blend > 0 and self._mask is not None:
            factor = placement.blend_factor(self._mask, blend)
            picture.write_own(factor, job.folder / "blend.png")

    def place(self, answer: Image.Image) -> tuple[Image.Image, list[str]]:
        """Fit `answer` to the source's pixels; the notes are sentences for the user."""
        placed, notes = placement.fit(answer, self.upload, self._source.size, self._repair)
        if self._keep_alpha:
            placed = placement.keep_alpha(placed, self._source)
        return placed, notes


def _to_be_placed(post: Post) -> bool:
    return post.state == RECEIVED and not post.placed


def _may_be_sent_again(post: Post) -> bool:
    """Whether it failed and surely cost nothing, so that the user may have it sent again."""
    free = (Failure.SETUP, Failure.UNREACHABLE, Failure.REFUSED, Failure.BUSY)
    return post.state == FAILED and post.kind in free and not post.task and not post.result


@contextlib.contextmanager
def _service() -> Iterator[Service]:
    """Give the service that the settings name, or a sandbox that lives as long. Raises Failure."""
    try:
        settings.check_service()
        url = settings.base_url()
        key = settings.SANDBOX if url == settings.SANDBOX else key_store.read()
    except (ValueError, OSError) as error:
        raise Failure(Failure.SETUP, str(error)) from error
    if url != settings.SANDBOX:
        yield Service(url, key)
        return
    # Most edits never need it.
    from plugin.worker.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield Service(sandbox.base_url, key)
