"""The job folder: an edit on the disk, through which the plug-in and the worker communicate.

    jobs/20261122-133005-7f3a/
        request.json    what was asked, written once
        source.png      the pixels of the region, in sRGB
        mask.png        the selection in the region, gray, 255 = edit (absent: edit everything)
        reference-N.png
        place.json      where the results belong in an image, if the edit was made in GIMP
        state.json      how far the edit got, written by the worker only
        answer-N.*      an answer in which no picture was found; it is read again on resume
        result-N.*      the picture, as received
        placed-N.png    the result, fitted to source.png
        blend.png       the weight of the result near the selection's edge, if there is a blend
        original        a copy of the picture file that is edited, until all results are written
        imported-N      marker: variation N is in the image (or in a file)
        maker           the name of a lock in the folder `locks`, held by the job's creator
        lock            held by the worker that works on the job

The plug-in, or the command line, fills the folder under a hidden name and renames it when it is
complete. After that, only the worker writes `state.json`. A crash at any point leaves a folder that
says what may be done next. No key and no signed link is ever written here; in `answer-N`, a mark
replaces them.

A process holds the lock of a job while it removes the folder. It leaves alone what this version
doesn't understand. What was paid for is never removed because of its age: see `Job.must_stay`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

from plugin import lock, settings
from plugin.limits import MOST_BLEND, MOST_PROMPT, MOST_VARIATIONS
from plugin.region import Region
from plugin.words import _

PREPARED = "prepared"
"""The job is complete and was not sent. It may be sent."""
SENT = "sent"
"""The request is being sent, or was sent. If no worker holds the job, the outcome is unknown."""
ACCEPTED = "accepted"
"""The service accepted the request and named a task."""
RECEIVED = "received"
"""The result is in the folder."""
FAILED = "failed"
"""The request ended without a result. `kind` and `message` say why."""

_STATES = (SENT, ACCEPTED, PREPARED, RECEIVED, FAILED)


class Kind:
    """The kinds of failure, as constants for programs."""

    SETUP = "setup"
    """Something must be fixed on this machine: the key, the address, a file of the job."""
    UNREACHABLE = "unreachable"
    """The service could not be reached, so no complete request was sent."""
    REFUSED = "refused"
    """The service refused the edit and said why. Nothing was made."""
    BUSY = "busy"
    """The service is busy and asked to try again later."""
    OUTCOME_UNKNOWN = "outcome unknown"
    """The edit was sent and no usable answer came. It may have been made and billed."""
    PENDING = "pending"
    """The service accepted the edit, or the result is kept. Resuming the job costs nothing."""
    ANSWER = "answer"
    """The edit was made, but the answer can't be used or fetched."""


_FREE = (Kind.SETUP, Kind.UNREACHABLE, Kind.REFUSED, Kind.BUSY)
"""The kinds of failure after which nothing was paid for."""

PHASES = ("preparing", "uploading", "waiting", "downloading", "placing")
"""The phases of a worker's work, in order."""


def phase_text(phase: str) -> str:
    """Return the text for `phase`, one of PHASES, in the user's language."""
    return {
        "preparing": _("Preparing the picture"),
        "uploading": _("Sending the picture"),
        "waiting": _("Waiting for the service"),
        "downloading": _("Fetching the result"),
        "placing": _("Fitting the result"),
    }[phase]


_PICTURE = re.compile(r"(result|placed|reference|answer)-[0-9]{1,3}\.[a-z]{3,4}")
"""The names of files that a job may refer to. Any other name could lead out of its folder."""

_DAY = 86400.0
"""A day in seconds."""

_HIDDEN = re.compile(r"\.[0-9]{8}-[0-9]{6}-[0-9a-f]+")
"""The names of folders that are being filled or removed. Other hidden folders are not ours."""
_MAKER = "maker"
_IMPORTED = "imported"
_RESULT = re.compile(r"result-([0-9]{1,3})\.")

_UNSEEN = "\u115f\u1160\u2800\u3164\uffa0"
"""Characters that count as letters or symbols in Unicode, but are invisible."""

_LATEST = 2**36
"""Upper limit for a time, in seconds since 1970. Later times may have no date in the calendar."""


def check_prompt(text: str) -> str:
    """Return the prompt without leading and trailing whitespace.

    Raises ValueError with a message for the user if it is empty, invisible, too long or not valid
    Unicode.
    """
    prompt = text.strip()
    if not prompt:
        raise ValueError(_("The prompt is empty: say what is to change."))
    if not any(_is_seen(character) for character in prompt):
        raise ValueError(_("The prompt has only invisible characters: say what is to change."))
    if len(prompt) > MOST_PROMPT:
        raise ValueError(
            _("The prompt is too long: at most {most:,} characters.").format(most=MOST_PROMPT)
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(_("The prompt has broken characters: type it anew.")) from error
    return prompt


def _is_seen(character: str) -> bool:
    """Return whether a character is visible by itself, unlike spaces and combining marks."""
    category = unicodedata.category(character)
    unseen = category[0] in "ZM" or category in ("Cc", "Cf") or character in _UNSEEN
    return not unseen


@dataclass(frozen=True)
class Files:
    """The paths of a job made on the command line.

    `image` is the picture file that is edited, `mask` the file of its mask ("" if there is none),
    and `out` the folder for the results.
    """

    image: str
    mask: str
    out: str


@dataclass(frozen=True)
class JobRequest:
    """What is asked of the service: the contents of `request.json`."""

    prompt: str
    model: str
    region: Region | None
    """None if the saved region can't be read."""
    variations: int = 1
    references: tuple[str, ...] = ()
    """The file names of the references in the job folder."""
    blend: int = 0
    """Width of the strip inside the selection's edge in which a result fades in, in pixels."""
    repair: bool = True
    keep_alpha: bool | None = None
    """Whether results get the transparency of the source.

    None in jobs of version 0.1.0, which don't have this value. Their results get the transparency
    if there is no mask.
    """
    created: float = 0
    """Time of creation in seconds since 1970, or 0 if it is unknown."""
    file: Files | None = None
    """None for a job made in GIMP."""

    @staticmethod
    def from_json(saved: Any) -> JobRequest:
        """Return the request that `dataclasses.asdict` turned into `saved`.

        `saved` may come from any version, and may have been changed since. Raises KeyError or
        TypeError if the prompt, the number of variations or the names of the references are
        invalid. Other values that can't be read are replaced by defaults: they are not needed to
        get at results that have arrived.
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
            file = Files(*(saved["file"][each.name] for each in fields(Files)))
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
    """Return whether `value` is a string that can be shown and sent.

    Strings in JSON may contain null characters and halves of surrogate pairs, which can't.
    """
    return isinstance(value, str) and _shown(value) == value


def _shown(text: str) -> str:
    """Return `text` with "?" in place of what can't be shown.

    It may contain the name of a file, which need not be valid text.
    """
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


@dataclass
class Post:
    """The state of one variation, which is one POST to the service."""

    state: str = PREPARED
    task: str = ""
    kind: str = ""
    message: str = ""
    result: str = ""
    placed: str = ""
    notes: list[str] = field(default_factory=list)
    route: str = ""
    """The route by which it was sent, one of settings.ROUTES.

    It is "" in jobs from the time when there was only one route.
    """
    service: str = ""
    """The address of the service that has the task, as it is in the settings."""
    answer: str = ""
    """The name of the file that holds the answer, if no picture was found in it."""
    others: dict[str, Any] = field(default_factory=dict)
    """Fields that a newer version has saved, which are kept unchanged."""

    @property
    def to_be_placed(self) -> bool:
        return self.state == RECEIVED and not self.placed

    @property
    def may_be_sent_again(self) -> bool:
        """Whether it failed and certainly cost nothing, so that it may be sent again on request."""
        paid = self.result or self.answer
        return self.state == FAILED and self.kind in _FREE and not paid

    @property
    def may_be_forgotten(self) -> bool:
        """Whether it has ended, and no result that was paid for can be lost with it.

        An answer that can't be used yet was paid for, so it is not forgotten. An edit with an
        unknown outcome may be forgotten: the user was informed, and there is no way to fetch its
        result.
        """
        over = self.state == FAILED and self.kind in (*_FREE, Kind.OUTCOME_UNKNOWN)
        return over and not self.answer

    @property
    def may_be_asked_for_again(self) -> bool:
        """Whether it failed, but another request for its task may bring a usable picture.

        The service does not find a task if the key has changed meanwhile. What came in place of a
        picture may have been a page inserted by the network.
        """
        asked = self.state == FAILED and self.kind == Kind.ANSWER
        return asked and bool(self.task) and not self.placed

    @property
    def may_be_read_again(self) -> bool:
        """Whether something arrived that could not be used, but that a later version may read."""
        return self.state == FAILED and bool(self.result or self.answer) and not self.placed

    @property
    def recoverable(self) -> bool:
        """Whether resuming the job may bring the result of what was sent, at no cost."""
        waits = self.state == ACCEPTED and bool(self.task)
        again = self.may_be_asked_for_again or self.may_be_read_again
        return waits or self.to_be_placed or again


@dataclass
class State:
    """The state of a job: its posts, one per variation, and what follows from them."""

    posts: list[Post]
    others: dict[str, Any] = field(default_factory=dict)
    """Fields that a newer version has saved, which are kept unchanged."""

    @property
    def name(self) -> str:
        """The state of the whole job.

        It is unfinished as long as one post is: sent, accepted or prepared, in this order of
        precedence. After that it is received if at least one post is, and failed otherwise.
        """
        states = {post.state for post in self.posts}
        return next(s for s in _STATES if s in states)

    @property
    def messages(self) -> list[str]:
        """The messages of the failures, without duplicates."""
        return list(dict.fromkeys(post.message for post in self.posts if post.message))

    @property
    def notes(self) -> list[str]:
        """The notes for the user about the results, without duplicates."""
        return list(dict.fromkeys(note for post in self.posts for note in post.notes))


@dataclass(frozen=True)
class Job:
    """A job on the disk. Its properties read the files of the folder."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def request(self) -> JobRequest:
        """The contents of `request.json`.

        Raises OSError, and ValueError with a message for the user if the file is malformed.
        """
        try:
            saved = json.loads(settings.read_private(self.folder / "request.json"))
            return JobRequest.from_json(saved)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(_damaged(self, "request.json")) from error

    @property
    def state(self) -> State:
        """The contents of `state.json`. Without this file, all variations are prepared.

        Raises OSError, and ValueError with a message for the user if the file is malformed.
        """
        try:
            saved = json.loads(settings.read_private(self.folder / "state.json"))
            posts = [_checked_post(post) for post in saved.pop("posts") or [None]]
            return State(posts, {name: saved[name] for name in saved.keys() - {"state"}})
        except FileNotFoundError:
            return State([Post() for _ in range(self.request.variations)])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(_damaged(self, "state.json")) from error

    def save_state(self, state: State) -> None:
        """Write `state` to the disk. Call this before the step that the state announces.

        Raises OSError.
        """
        posts = [asdict(post) for post in state.posts]
        for post in posts:
            post.update(post.pop("others"))
        text = json.dumps({"state": state.name, "posts": posts, **state.others}, indent=1)
        settings.write_private(self.folder / "state.json", text)

    @property
    def imported(self) -> frozenset[int]:
        """The numbers of the variations that are in the user's image or file.

        Raises OSError, and ValueError if the job is damaged.
        """
        numbers = [
            int(marker.name.removeprefix(f"{_IMPORTED}-"))
            for marker in self.folder.glob(f"{_IMPORTED}-*")
            if marker.name.removeprefix(f"{_IMPORTED}-").isdecimal()
        ]
        if (self.folder / _IMPORTED).exists():
            # An older version wrote one marker for all variations that were fitted by then.
            numbers += self._fitted()
        return frozenset(numbers)

    @property
    def unimported(self) -> frozenset[int]:
        """The numbers of the variations that have arrived, but are not in the user's image or file.

        Raises OSError, and ValueError if the job is damaged.
        """
        arrived = {
            number
            for number, post in enumerate(self.state.posts, 1)
            if post.state == RECEIVED or post.result or post.placed
        }
        found = (_RESULT.match(file.name) for file in self.folder.glob("result-*"))
        arrived.update(int(name[1]) for name in found if name)
        return frozenset(arrived) - self.imported

    def mark_imported(self, numbers: Iterable[int]) -> None:
        """Mark these variations as being in the user's image or file.

        Variations that were marked before stay marked. Raises OSError.
        """
        # Each variation has its own file, because several processes may mark some at the same time.
        for number in numbers:
            (self.folder / f"{_IMPORTED}-{number}").touch(mode=0o600)
        settings.sync_folder(self.folder)

    def _fitted(self) -> list[int]:
        return [number for number, post in enumerate(self.state.posts, 1) if post.placed]

    def discard(self) -> None:
        """Remove the job and everything in it, even results that are not used yet.

        This is for a job that the user wants to discard.
        """
        try:
            folder = _put_away(self.folder)
        except OSError:
            # On Windows, another process has one of its files open.
            folder = self.folder
        shutil.rmtree(folder, ignore_errors=True)

    def age(self, now: float) -> float:
        """Return the seconds from the last change of one of its files to `now`.

        `now` is in seconds since 1970. The age is negative if the clock was set back since. Raises
        OSError, and ValueError if the job is damaged.
        """
        files = (file for file in self.folder.iterdir() if file.name != "lock")
        return now - max(self.request.created, *(file.lstat().st_mtime for file in files))

    def must_stay(self, now: float) -> bool:
        """Return whether the job must not be removed automatically.

        A job must stay in these cases:

        - This version can't read it.
        - It was sent and has not ended, however long ago that was. The next window, or `resume`,
          asks for the result of its task, or records that the outcome is unknown.
        - It has results that are not imported, or answers that can't be used. A newer version may
          be able to read these answers.
        - It was not sent, and its last change was less than a day ago or its creator still runs.

        The user can discard such a job. This method does not check whether a worker holds the lock
        of the job and is about to change it. Raises OSError.
        """
        try:
            age, imported, unimported = self.age(now), self.imported, self.unimported
            posts = self.state.posts
        except ValueError:
            return True
        open_ = [post for number, post in enumerate(posts, 1) if number not in imported]
        to_be_sent = [post for post in open_ if post.state == PREPARED]
        if unimported or not all(post in to_be_sent or post.may_be_forgotten for post in open_):
            return True
        return bool(to_be_sent) and (age < _DAY or self.maker_lives())

    def maker_lives(self) -> bool:
        """Return whether the process that created the job still runs, and may show it in a window.

        Raises OSError.
        """
        return _maker_lives(self.folder)


def _damaged(job: Job, name: str) -> str:
    return _(
        "The job {job} is damaged ({file} is malformed). Results that arrived are in {folder}: "
        "remove it once you need nothing of it."
    ).format(job=job.id, file=name, folder=job.folder)


def _checked_post(saved: Any) -> Post:
    """Return the post in `saved`, a part of `state.json`.

    Raises AttributeError, KeyError or TypeError if `saved` is malformed.
    """
    known = {each.name for each in fields(Post)} - {"others"}
    others = {name: value for name, value in saved.items() if name not in known}
    # A state is required: with the default, a post without one would count as not sent.
    post = Post(saved["state"], **{name: saved[name] for name in saved.keys() & known - {"state"}})
    post.others = others
    texts = [value for name, value in asdict(post).items() if name not in ("notes", "others")]
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
    """Return the folder of all jobs, which is created if necessary. Raises OSError."""
    return settings.private_folder(settings.home() / "jobs")


def all_jobs() -> list[Job]:
    """Return all complete jobs, oldest first. They are the history of edits. Raises OSError."""
    folders = (f for f in jobs_folder().iterdir() if (f / "request.json").exists())
    return [Job(f) for f in sorted(folders) if not f.name.startswith(".")]


def find(job_id: str) -> Job:
    """Return the job with that id.

    Raises OSError, and ValueError with a message for the user if there is no such job.
    """
    for job in all_jobs():
        if job.id == job_id:
            return job
    raise ValueError(
        _("There is no job {job}: “python -m plugin jobs” lists them.").format(job=job_id)
    )


def total_bytes() -> int:
    """Return the size of all jobs on the disk, in bytes. Raises OSError."""
    total = 0
    for file in jobs_folder().rglob("*"):
        # A worker may be replacing the file.
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def prune(days: int, now: float) -> None:
    """Remove the jobs without a change for more than `days` days, except those that must stay.

    With 0 `days`, no job is removed. A job whose creator still runs stays, too, because a window
    may show it. Folders that killed processes left half filled or half removed are removed in any
    case. `now` is in seconds since 1970. Raises OSError.
    """
    _remove_left(now)
    for old in all_jobs() if days > 0 else []:
        # The job may be damaged, or another process may be removing it.
        with contextlib.suppress(OSError, ValueError):
            if old.age(now) > days * _DAY and not old.maker_lives():
                _remove(old, now)


def clear(now: float) -> None:
    """Remove all jobs, except those that must stay. Raises OSError.

    `now` is in seconds since 1970.
    """
    _remove_left(now)
    for old in all_jobs():
        with contextlib.suppress(OSError):
            _remove(old, now)


def _remove(old: Job, now: float) -> None:
    """Remove a job, unless it must stay or a worker holds it. Raises OSError."""
    if old.folder.is_symlink() or old.must_stay(now):
        return
    with contextlib.ExitStack() as holding:
        ours = holding.enter_context(lock.held(old.folder / "lock"))
        # A worker may have changed the job until this process got the lock.
        if not ours or old.must_stay(now):
            return
        if os.name == "nt":
            # Windows does not rename a folder that contains an open file. The lock is closed for
            # that reason; a worker that takes it now keeps the folder from being renamed.
            holding.close()
        shutil.rmtree(_put_away(old.folder), ignore_errors=True)


def _remove_left(now: float) -> None:
    """Remove the folders that killed processes left half filled or half removed. Raises OSError."""
    for left in jobs_folder().glob(".*"):
        if not _HIDDEN.fullmatch(left.name) or left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if (left / _MAKER).exists():
                over = not _maker_lives(left)
            else:
                # Older versions did not write this file.
                over = now - left.stat().st_mtime > _DAY
            if over:
                shutil.rmtree(left, ignore_errors=True)


def _put_away(folder: Path) -> Path:
    """Give a job folder a hidden name, so that it is no job any more, and return its new path.

    Raises OSError.
    """
    hidden = folder.with_name(_hidden_name())
    end = time.monotonic() + 1
    while True:
        try:
            return folder.rename(hidden)
        except PermissionError:
            # On Windows, a worker that was killed may not have ended yet.
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _hidden_name() -> str:
    return f".{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


_held: tuple[Path, int] | None = None
"""The lock that this process holds until it ends, and its file descriptor."""
_holding = threading.Lock()


def _maker() -> str:
    """Return the name of the lock that shows that this process runs. Raises OSError.

    The lock is taken at the first call, and again if its file or the data folder has changed.
    """
    global _held
    with _holding:
        folder = settings.locks_folder()
        if _held is None or _held[0].parent != folder or not _held[0].exists():
            for left in folder.glob(f"{_MAKER}-*"):
                # Most of these locks are from processes that have ended.
                with contextlib.suppress(OSError):
                    lock.remove(left)
            descriptor = None
            while descriptor is None:
                path = folder / f"{_MAKER}-{secrets.token_hex(6)}"
                descriptor = lock.take(path)
            if _held is not None:
                os.close(_held[1])
            _held = path, descriptor
        return _held[0].name


def _maker_lives(folder: Path) -> bool:
    """Return whether the process that created `folder` still runs. Raises OSError."""
    try:
        name = settings.read_private(folder / _MAKER)
    except (FileNotFoundError, ValueError):
        return False
    return bool(re.fullmatch(rf"{_MAKER}-[0-9a-f]+", name)) and lock.is_held(
        settings.locks_folder() / name
    )


@contextlib.contextmanager
def prepare() -> Iterator[Path]:
    """Yield a new hidden folder to fill, within a `with` block.

    `publish` makes it a job. Otherwise it is removed at the end of the block. Raises OSError.
    """
    folder = jobs_folder() / _hidden_name()
    folder.mkdir(mode=0o700)
    try:
        (folder / _MAKER).write_text(_maker(), "utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, request: JobRequest) -> Job:
    """Turn the filled folder into a job by renaming it. Raises OSError.

    The new name is flushed to the disk.
    """
    for file in folder.iterdir():
        # GIMP and the libraries create files with the permissions of the user's umask.
        file.chmod(0o600)
    settings.write_private(folder / "request.json", json.dumps(asdict(request), indent=1))
    final = folder.with_name(folder.name.removeprefix("."))
    os.rename(folder, final)
    settings.sync_folder(final.parent)
    return Job(final)
