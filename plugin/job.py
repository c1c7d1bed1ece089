"""The job folder: one edit on disk, the one thing that the two sides share.

    jobs/20261122-133005-7f3a/
        request.json    what is asked, written once
        source.png      the region's pixels, sRGB
        mask.png        the selection over them, gray, 255 = edit (none: edit everything)
        reference-N.png
        place.json      where the results belong in an image, if it came from one
        state.json      how far it got, written by the worker alone
        answer-N.*      what the service said, if no picture was found in it: read again on resume
        result-N.*      the picture, as received
        placed-N.png    the answer, fitted to source.png
        blend.png       how much of the answer counts towards the selection's edge, if asked
        imported        marker: the results are in the image (or in files)

The plug-in fills the folder under a temporary name and renames it when complete; from then on
only the worker writes `state.json`. A crash at any point leaves a folder that says what may be
done next. No key and no signed link is ever written here: in `answer-N` a mark stands for them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from plugin import settings
from plugin.limits import MOST_BLEND, MOST_PROMPT, MOST_VARIATIONS
from plugin.region import Region
from plugin.words import _

PREPARED = "prepared"
"""Complete and not sent: may be sent."""
SENT = "sent"
"""The request is on its way or was; with no worker about, the outcome is unknown."""
ACCEPTED = "accepted"
"""The service took it and named a task."""
RECEIVED = "received"
"""The result lies in the folder."""
FAILED = "failed"
"""Ended without a result; `kind` and `message` say why."""

_STATES = (SENT, ACCEPTED, PREPARED, RECEIVED, FAILED)


class Kind:
    """What can go wrong, in a word for programs."""

    SETUP = "setup"
    """The key, the address, a file of the job: something must be mended here."""
    UNREACHABLE = "unreachable"
    """Nothing was sent: no connection came about."""
    REFUSED = "refused"
    """The service said no, and why; nothing was made."""
    BUSY = "busy"
    """The service asked to come back later."""
    OUTCOME_UNKNOWN = "outcome unknown"
    """It was sent and no answer came: it may have been made and billed."""
    PENDING = "pending"
    """The service took it and may still finish it: it can be asked for, at no cost."""
    ANSWER = "answer"
    """It was made, and the answer can't be used or fetched."""


_FREE = (Kind.SETUP, Kind.UNREACHABLE, Kind.REFUSED, Kind.BUSY)
"""After these nothing was paid for."""

PHASES = ("preparing", "uploading", "waiting", "downloading", "placing")
"""What a worker does, one after the other."""


def phase_text(phase: str) -> str:
    """Return one of PHASES in words."""
    return {
        "preparing": _("Preparing the picture"),
        "uploading": _("Sending the picture"),
        "waiting": _("Waiting for the service"),
        "downloading": _("Fetching the result"),
        "placing": _("Fitting the result"),
    }[phase]


_PICTURE = re.compile(r"(result|placed|reference|answer)-[0-9]{1,3}\.[a-z]{3,4}")
"""What the files that a job names are called; anything else would lead out of its folder."""

_DAY = 86400.0
"""Seconds; whatever was going on longer ago has ended."""

_LATEST = 2**36
"""Seconds since 1970 that a calendar still has a date for."""


def check_prompt(text: str) -> str:
    """Return the prompt without the space around it.

    Raises ValueError with a sentence for the user.
    """
    prompt = text.strip()
    if not prompt:
        raise ValueError(_("The prompt is empty: say what is to change."))
    if len(prompt) > MOST_PROMPT:
        raise ValueError(
            _("The prompt is too long: at most {most:,} characters.").format(most=MOST_PROMPT)
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(_("The prompt has broken characters: type it anew.")) from error
    return prompt


@dataclass(frozen=True)
class Files:
    """Where a job without GIMP came from and goes: paths; `mask` is "" if there is none."""

    image: str
    mask: str
    out: str


@dataclass(frozen=True)
class JobRequest:
    """What is asked: `request.json`."""

    prompt: str
    model: str
    region: Region | None
    """None where it can't be read any more."""
    variations: int = 1
    references: tuple[str, ...] = ()
    """The pictures' names in the folder."""
    blend: int = 0
    """Pixels inside the selection's edge over which a result fades in."""
    repair: bool = True
    keep_alpha: bool | None = None
    """Whether results get the source's transparency; jobs of version 0.1.0 don't say."""
    created: float = 0
    """Seconds since 1970; 0 if unknown."""
    file: Files | None = None

    @staticmethod
    def from_json(saved: Any) -> JobRequest:
        """Read what `asdict` gave in any version, and what may have been changed since.

        Raises KeyError, TypeError or ValueError where that leaves no edit to speak of. Of the rest
        what can't be read is left out: nobody needs it to get at results that have arrived.
        """
        if not isinstance(saved, dict):
            raise TypeError
        prompt, variations, names = saved["prompt"], saved["variations"], saved.get("references")
        names = [] if names is None else names
        if not _is_whole(variations) or not 1 <= variations <= MOST_VARIATIONS:
            raise TypeError
        if not _is_text(prompt) or not isinstance(names, list):
            raise TypeError
        if not all(isinstance(name, str) and _PICTURE.fullmatch(name) for name in names):
            raise TypeError
        model, blend, created = saved.get("model"), saved.get("blend"), saved.get("created")
        repair, keep_alpha = saved.get("repair"), saved.get("keep_alpha")
        if not (_is_whole(created) or isinstance(created, float)) or not 0 <= created < _LATEST:
            created = 0
        region, file = None, None
        with contextlib.suppress(KeyError, TypeError, ValueError):
            region = Region.from_json(saved["region"])
        with contextlib.suppress(KeyError, TypeError):
            file = Files(**saved["file"])
        return JobRequest(
            prompt,
            model if _is_text(model) else "",
            region,
            variations,
            tuple(names),
            blend if _is_whole(blend) and 0 <= blend <= MOST_BLEND else 0,
            repair if isinstance(repair, bool) else True,
            keep_alpha if isinstance(keep_alpha, bool) else None,
            created,
            file if file and all(isinstance(path, str) for path in astuple(file)) else None,
        )


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a text that can be shown and sent: JSON has halves of characters, too."""
    return isinstance(value, str) and _shown(value) == value


def _shown(text: str) -> str:
    """What of a text can be shown: names of files may be no text at all."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


@dataclass
class Post:
    """One request to the service, that is one variation, and what became of it."""

    state: str = PREPARED
    task: str = ""
    kind: str = ""
    message: str = ""
    result: str = ""
    placed: str = ""
    notes: list[str] = field(default_factory=list)
    route: str = ""
    """How it was sent, one of settings.ROUTES; jobs from before there were two don't say."""
    service: str = ""
    """The address of the service that has the task, as the settings have it."""
    answer: str = ""
    """The file with what the service said, where no picture was found in it."""

    @property
    def to_be_placed(self) -> bool:
        return self.state == RECEIVED and not self.placed

    @property
    def may_be_sent_again(self) -> bool:
        """Whether it failed and surely cost nothing, so that the user may have it sent again."""
        paid = self.result or self.answer
        return self.state == FAILED and self.kind in _FREE and not paid

    @property
    def may_be_asked_for_again(self) -> bool:
        """Whether its task may be told another time, or its picture be a better one.

        The service forgets a task if the key is another one meanwhile, and what came in place of a
        picture may have been a network's own page.
        """
        asked = self.state == FAILED and self.kind == Kind.ANSWER
        return asked and bool(self.task) and not self.placed

    @property
    def may_be_read_again(self) -> bool:
        """Whether something arrived that could not be used, and that a later version may read."""
        return self.state == FAILED and bool(self.result or self.answer) and not self.placed

    @property
    def recoverable(self) -> bool:
        """Whether going on may bring the result of what was sent, at no cost."""
        waits = self.state == ACCEPTED and bool(self.task)
        again = self.may_be_asked_for_again or self.may_be_read_again
        return waits or self.to_be_placed or again


@dataclass
class State:
    """Where a job stands: the posts, one per variation, and what is true of them together."""

    posts: list[Post]

    @property
    def name(self) -> str:
        """The whole job's state: unfinished as long as one post is, received if any one is."""
        states = {post.state for post in self.posts}
        return next(s for s in _STATES if s in states)

    @property
    def messages(self) -> list[str]:
        """The failures' sentences, each once."""
        return list(dict.fromkeys(post.message for post in self.posts if post.message))

    @property
    def notes(self) -> list[str]:
        """What the user should hear about the results, each sentence once."""
        return list(dict.fromkeys(note for post in self.posts for note in post.notes))


@dataclass(frozen=True)
class Job:
    """A job on disk."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def request(self) -> JobRequest:
        """What was asked. Raises OSError or ValueError if the folder is damaged."""
        try:
            saved = json.loads((self.folder / "request.json").read_text("utf-8"))
            return JobRequest.from_json(saved)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                _("The job {job} is damaged: request.json is malformed.").format(job=self.id)
            ) from error

    @property
    def state(self) -> State:
        """How far it got. Raises OSError or ValueError if the folder is damaged."""
        try:
            saved = json.loads((self.folder / "state.json").read_text("utf-8"))
            return State([_checked_post(post) for post in saved["posts"] or [None]])
        except FileNotFoundError:
            return State([Post() for _ in range(self.request.variations)])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                _("The job {job} is damaged: state.json is malformed.").format(job=self.id)
            ) from error

    def save_state(self, state: State) -> None:
        """Put `state` on the disk before the step that it announces is taken. Raises OSError."""
        text = json.dumps(
            {"state": state.name, "posts": [asdict(p) for p in state.posts]}, indent=1
        )
        settings.write_private(self.folder / "state.json", text)

    @property
    def imported(self) -> bool:
        return (self.folder / "imported").exists()

    def mark_imported(self) -> None:
        """Note that the results reached the user's picture. Raises OSError."""
        (self.folder / "imported").touch(mode=0o600)

    def discard(self) -> None:
        """Remove the job and everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def age(self, now: float) -> float:
        """Seconds from its making to `now` (seconds since 1970). Raises OSError."""
        return now - (self.folder / "request.json").stat().st_mtime

    def must_stay(self, now: float) -> bool:
        """Whether it may be worked on, or holds what was paid for and is nowhere else yet.

        Raises OSError.
        """
        arrived = (*self.folder.glob("result-*"), *self.folder.glob("answer-*"))
        if not self.imported and arrived:
            return True
        try:
            unfinished = self.state.name in (PREPARED, SENT, ACCEPTED)
        except ValueError:
            return False
        return unfinished and self.age(now) < _DAY


def _checked_post(saved: Any) -> Post:
    """Return it if its parts are of the right kind. Raises TypeError."""
    post = Post(**saved)
    texts = [value for name, value in asdict(post).items() if name != "notes"]
    if not isinstance(post.notes, list) or not all(
        isinstance(text, str) for text in texts + post.notes
    ):
        raise TypeError
    post.message, post.notes = _shown(post.message), [_shown(note) for note in post.notes]
    names = [name for name in (post.result, post.placed, post.answer) if name]
    if post.state not in _STATES or not all(_PICTURE.fullmatch(name) for name in names):
        raise TypeError
    return post


def jobs_folder() -> Path:
    """Return the folder of all jobs, made if need be. Raises OSError."""
    return settings.private_folder(settings.home() / "jobs")


def all_jobs() -> list[Job]:
    """Return the complete jobs, oldest first: the history. Raises OSError."""
    folders = (f for f in jobs_folder().iterdir() if (f / "request.json").exists())
    return [Job(f) for f in sorted(folders) if not f.name.startswith(".")]


def find(job_id: str) -> Job:
    """Return the job of that id. Raises ValueError with a sentence for the user."""
    for job in all_jobs():
        if job.id == job_id:
            return job
    raise ValueError(
        _("There is no job {job}: “python -m plugin jobs” lists them.").format(job=job_id)
    )


def total_bytes() -> int:
    """Return the room that all jobs take on the disk. Raises OSError."""
    total = 0
    for file in jobs_folder().rglob("*"):
        # A worker may be replacing it.
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def prune(days: int, now: float) -> None:
    """Remove the jobs that are older than `days` (0: none), but for those that must stay.

    `now` is in seconds since 1970. Raises OSError.
    """
    if days > 0:
        _remove(days * _DAY, now)


def clear(now: float) -> None:
    """Remove all jobs but for those that must stay. Raises OSError."""
    _remove(-math.inf, now)


def _remove(age: float, now: float) -> None:
    for old in all_jobs():
        # It may be removed by another process at this very moment.
        with contextlib.suppress(FileNotFoundError):
            if old.age(now) > age and not old.must_stay(now):
                old.discard()
    for unfinished in jobs_folder().glob(".*"):
        # Its preparation was killed.
        with contextlib.suppress(FileNotFoundError):
            if now - unfinished.stat().st_mtime > _DAY:
                shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def prepare() -> Iterator[Path]:
    """Give a folder to fill; it becomes a job by `publish`, and is gone if that never came.

    Raises OSError.
    """
    name = f".{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    folder = jobs_folder() / name
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, request: JobRequest) -> Job:
    """Make the filled folder a job, at once and for good. Raises OSError."""
    for file in folder.iterdir():
        # GIMP and the libraries write by the user's umask.
        file.chmod(0o600)
    settings.write_private(folder / "request.json", json.dumps(asdict(request), indent=1))
    final = folder.with_name(folder.name.removeprefix("."))
    os.rename(folder, final)
    settings.sync_folder(final.parent)
    return Job(final)
