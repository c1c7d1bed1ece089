"""Taking a job through its states: send, wait, fetch, check, fit.

Each variation is a POST of its own; they run side by side. Before a step that matters to the
user's money begins, the state that announces it is on the disk.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import filelock
from PIL import Image

from plugin import settings
from plugin.job import ACCEPTED, FAILED, PREPARED, RECEIVED, SENT, Job, Post
from plugin.region import Region
from plugin.worker import picture, placement, upload
from plugin.worker.failure import Failure
from plugin.worker.service import Service

Report = Callable[[str], None]
"""Is told each phase of a variation as it begins: preparing, waiting, downloading, placing."""

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


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
            return not any(post.state in (SENT, ACCEPTED) for post in self._state.posts)

    def finish(self) -> None:
        """Take every variation as far as it may go without being sent twice.

        What went wrong is in the job's state afterwards. Raises Failure if another process works
        on the job, OSError if its state can't be written (nothing was sent then).
        """
        owner = filelock.FileLock(self._job.folder / "lock", blocking=False)
        try:
            with owner:
                self._state = self._job.state
                self._finish_owned()
        except filelock.Timeout as error:
            raise Failure(
                Failure.SETUP, f"The job {self._job.id} is being worked on already."
            ) from error

    def _finish_owned(self) -> None:
        for post in self._state.posts:
            if _may_be_sent_again(post):
                post.state, post.kind, post.message = PREPARED, "", ""
        unfinished = [
            p for p in self._state.posts if p.state in (PREPARED, RECEIVED) and not p.placed
        ]
        if not unfinished:
            return
        try:
            self._report("preparing")
            edit = _Edit(self._job)
            with _service() as service, ThreadPoolExecutor(len(unfinished)) as pool:
                for _ in pool.map(lambda post: self._variation(post, edit, service), unfinished):
                    pass
        except Failure as failure:
            # Nothing was sent: what could fail is now in the variations' own hands.
            for post in unfinished:
                self._failed(post, failure)

    def _variation(self, post: Post, edit: _Edit, service: Service) -> None:
        try:
            if post.state == PREPARED:
                self._receive(post, edit, service)
            self._place(post, edit)
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
                    f"Something unforeseen went wrong ({type(error).__name__}) in the job "
                    f"{self._job.id}. What the service delivered is kept in {self._job.folder}.",
                ),
            )

    def _receive(self, post: Post, edit: _Edit, service: Service) -> None:
        with self._lock:
            if self._called_off:
                raise Stopped
            post.state = SENT
            self._job.save_state(self._state)
        self._report("waiting")
        answer = service.edit(
            edit.prompt, edit.model, edit.region.size, edit.region.resolution, edit.upload
        )
        self._change(post, state=ACCEPTED, task=answer.task)
        self._report("downloading")
        data = answer.data or service.fetch(answer.link)
        number = self._state.posts.index(post) + 1
        suffix = next((s for magic, s in _SUFFIXES.items() if data.startswith(magic)), ".bin")
        result = self._job.folder / f"result-{number}{suffix}"
        settings.write_private(result, data)
        self._change(post, state=RECEIVED, result=result.name)

    def _place(self, post: Post, edit: _Edit) -> None:
        self._report("placing")
        try:
            answer = picture.read_foreign((self._job.folder / post.result).read_bytes())
        except picture.Unreadable as error:
            raise Failure(
                Failure.ANSWER,
                f"The service's picture can't be used: {error}. As it came, it is kept in "
                f"{self._job.folder / post.result}.",
            ) from error
        placed, notes = edit.place(answer)
        number = self._state.posts.index(post) + 1
        path = self._job.folder / f"placed-{number}.png"
        picture.write_own(placed, path)
        self._change(post, placed=path.name, notes=edit.upload.notes + notes)

    def _failed(self, post: Post, failure: Failure) -> None:
        self._change(post, state=FAILED, kind=failure.kind, message=str(failure))

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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(
                Failure.SETUP, f"The job {job.id} is damaged and can't be sent."
            ) from error
        self._source, self._mask = upload.read_source(job.folder)
        references = upload.read_references(job.folder, names)
        self.upload = upload.build(self.region, self._source, self._mask, references)
        if blend > 0 and self._mask is not None:
            factor = placement.blend_factor(self._mask, blend)
            picture.write_own(factor, job.folder / "blend.png")

    def place(self, answer: Image.Image) -> tuple[Image.Image, list[str]]:
        """Fit `answer` to the source's pixels; the notes are sentences for the user."""
        placed, notes = placement.fit(answer, self.upload, self._source.size, self._repair)
        if self._mask is None:
            placed = placement.keep_alpha(placed, self._source)
        return placed, notes


def _may_be_sent_again(post: Post) -> bool:
    """Whether it failed and surely cost nothing, so that the user may have it sent again."""
    return post.state == FAILED and post.kind in (
        Failure.SETUP,
        Failure.UNREACHABLE,
        Failure.REFUSED,
        Failure.BUSY,
    )


@contextlib.contextmanager
def _service() -> Iterator[Service]:
    """Give the service that the settings name, or a sandbox that lives as long. Raises Failure."""
    try:
        settings.check_service()
        url = settings.base_url()
        key = settings.api_key()
    except (ValueError, OSError) as error:
        raise Failure(Failure.SETUP, str(error)) from error
    if url != settings.SANDBOX:
        yield Service(url, key)
        return
    # Most edits never need it.
    from plugin.worker.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield Service(sandbox.base_url, settings.SANDBOX)
