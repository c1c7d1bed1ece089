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
        original        the picture's file as it was read, until all results are written
        imported-N      marker: variation N is in the image (or in a file)
        maker           the lock in the folder `locks` that the process holds which made the job
        lock            held by the worker that works on the job

The plug-in fills the folder under a temporary name and renames it when complete; from then on
only the worker writes `state.json`. A crash at any point leaves a folder that says what may be
done next. No key and no signed link is ever written here:
in `answer-N` a mark stands for them.

Who removes a folder holds its lock, and leaves what this version doesn't understand. No clock
decides on what was paid for: see `Job.must_stay`.
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
"""Seconds."""

_HIDDEN = re.compile(r"\.[0-9]{8}-[0-9]{6}-[0-9a-f]+")
"""What a folder is called that is being filled or removed; other hidden ones aren't ours."""
_MAKER = "maker"
_IMPORTED = "imported"
_RESULT = re.compile(r"result-([0-9]{1,3})\.")

_UNSEEN = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that are drawn as nothing."""

_LATEST = 2**36
"""Seconds since 1970 that a calendar still has a date for."""


def check_prompt(text: str) -> str:
    """Return the prompt without the space around it.

    Raises ValueError with a sentence for the user.
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
    """Whether a character shows by itself: spaces, controls and combining marks don't."""
    category = unicodedata.category(character)
    unseen = category[0] in "ZM" or category in ("Cc", "Cf") or character in _UNSEEN
    return not unseen


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
    others: dict[str, Any] = field(default_factory=dict)
    """What a newer version has noted besides: kept as it is."""

    @property
    def to_be_placed(self) -> bool:
        return self.state == RECEIVED and not self.placed

    @property
    def may_be_sent_again(self) -> bool:
        """Whether it failed and surely cost nothing, so that the user may have it sent again."""
        paid = self.result or self.answer
        return self.state == FAILED and self.kind in _FREE and not paid

    @property
    def may_be_forgotten(self) -> bool:
        """Whether nothing can come of it any more that was or will be paid for.

        An answer that can't be used yet was paid for. An unknown outcome was told to the user, and
        there is nothing that it could be fetched by.
        """
        over = self.state == FAILED and self.kind in (*_FREE, Kind.OUTCOME_UNKNOWN)
        return over and not self.answer

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
    others: dict[str, Any] = field(default_factory=dict)
    """What a newer version has noted besides: kept as it is."""

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
            saved = json.loads(settings.read_private(self.folder / "request.json"))
            return JobRequest.from_json(saved)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(_damaged(self, "request.json")) from error

    @property
    def state(self) -> State:
        """How far it got. Raises OSError or ValueError if the folder is damaged."""
        try:
            saved = json.loads(settings.read_private(self.folder / "state.json"))
            posts = [_checked_post(post) for post in saved.pop("posts") or [None]]
            return State(posts, {name: saved[name] for name in saved.keys() - {"state"}})
        except FileNotFoundError:
            return State([Post() for _ in range(self.request.variations)])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(_damaged(self, "state.json")) from error

    def save_state(self, state: State) -> None:
        """Put `state` on the disk before the step that it announces is taken. Raises OSError."""
        posts = [asdict(post) for post in state.posts]
        for post in posts:
            post.update(post.pop("others"))
        text = json.dumps({"state": state.name, "posts": posts, **state.others}, indent=1)
        settings.write_private(self.folder / "state.json", text)

    @property
    def imported(self) -> frozenset[int]:
        """The variations that reached the user's picture, by number.

        Raises OSError or ValueError if the folder is damaged.
        """
        numbers = [
            int(marker.name.removeprefix(f"{_IMPORTED}-"))
            for marker in self.folder.glob(f"{_IMPORTED}-*")
            if marker.name.removeprefix(f"{_IMPORTED}-").isdecimal()
        ]
        if (self.folder / _IMPORTED).exists():
            # An older version noted this of all that was fitted by then.
            numbers += self._fitted()
        return frozenset(numbers)

    @property
    def unimported(self) -> frozenset[int]:
        """The variations that have arrived and did not reach the user's picture, by number.

        Raises OSError or ValueError if the folder is damaged.
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
        """Note that these variations reached the user's picture.

        Others that were noted stay so. Raises OSError.
        """
        # A file for each: plug-in and worker may note some at the same time.
        for number in numbers:
            (self.folder / f"{_IMPORTED}-{number}").touch(mode=0o600)
        settings.sync_folder(self.folder)

    def _fitted(self) -> list[int]:
        return [number for number, post in enumerate(self.state.posts, 1) if post.placed]

    def discard(self) -> None:
        """Remove the job and everything in it, whatever may come of it: the user wants that."""
        try:
            folder = _put_away(self.folder)
        except OSError:
            # On Windows somebody has one of its files open.
            folder = self.folder
        shutil.rmtree(folder, ignore_errors=True)

    def age(self, now: float) -> float:
        """Seconds from the last change of a file of it to `now` (seconds since 1970).

        Less than 0 if the clock was set back since. Raises OSError or ValueError.
        """
        files = (file for file in self.folder.iterdir() if file.name != "lock")
        return now - max(self.request.created, *(file.lstat().st_mtime for file in files))

    def must_stay(self, now: float) -> bool:
        """Whether it isn't understood, or may be sent, or holds what was paid for.

        Of what was sent nothing goes before it has come to an end, however long ago that was: the
        next window, or `resume`, asks for a task, which then arrives or is gone, and notes that an
        outcome is unknown. Results stay until they are imported, and answers that can't be used
        stay as well: a newer version may read them. What stays can be discarded by the user.

        A worker that is about to change all that holds the lock, which isn't asked here. Raises
        OSError.
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
        """Whether the process that made it is still there, and may show it in a window."""
        return _maker_lives(self.folder)


def _damaged(job: Job, name: str) -> str:
    return _(
        "The job {job} is damaged ({file} is malformed). Results that arrived are in {folder}: "
        "remove it once you need nothing of it."
    ).format(job=job.id, file=name, folder=job.folder)


def _checked_post(saved: Any) -> Post:
    """Return it if its parts are of the right kind. Raises AttributeError, KeyError, TypeError."""
    known = {each.name for each in fields(Post)} - {"others"}
    others = {name: value for name, value in saved.items() if name not in known}
    # Without a state it would count as not sent.
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
    """Remove the jobs that nothing has changed for `days` (0: none), if nothing is lost by it.

    What a window that is open may show stays, too. `now` is in seconds since 1970. Raises OSError.
    """
    _remove_left(now)
    for old in all_jobs() if days > 0 else []:
        # It may be damaged, or be removed by another process at this very moment.
        with contextlib.suppress(OSError, ValueError):
            if old.age(now) > days * _DAY and not old.maker_lives():
                _remove(old, now)


def clear(now: float) -> None:
    """Remove all jobs, if nothing is lost by it. Raises OSError."""
    _remove_left(now)
    for old in all_jobs():
        with contextlib.suppress(OSError):
            _remove(old, now)


def _remove(old: Job, now: float) -> None:
    """Remove a job unless it must stay or is worked on. Raises OSError if it can't be removed."""
    if old.folder.is_symlink() or old.must_stay(now):
        return
    with contextlib.ExitStack() as holding:
        ours = holding.enter_context(lock.held(old.folder / "lock"))
        # A worker may have been at it until now.
        if not ours or old.must_stay(now):
            return
        if os.name == "nt":
            # No folder is renamed there with an open file in it, that of a worker's lock either.
            holding.close()
        shutil.rmtree(_put_away(old.folder), ignore_errors=True)


def _remove_left(now: float) -> None:
    """Remove what killed processes have left half prepared or half removed. Raises OSError."""
    for left in jobs_folder().glob(".*"):
        if not _HIDDEN.fullmatch(left.name) or left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if (left / _MAKER).exists():
                over = not _maker_lives(left)
            else:
                # Of a version that noted none.
                over = now - left.stat().st_mtime > _DAY
            if over:
                shutil.rmtree(left, ignore_errors=True)


def _put_away(folder: Path) -> Path:
    """Give a folder a hidden name, by which it is a job no more; return it. Raises OSError."""
    hidden = folder.with_name(_hidden_name())
    end = time.monotonic() + 1
    while True:
        try:
            return folder.rename(hidden)
        except PermissionError:
            # A worker that was killed may not have ended yet.
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _hidden_name() -> str:
    return f".{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


_held: tuple[Path, int] | None = None
"""The lock that this process holds as long as it lives, and its descriptor."""
_holding = threading.Lock()


def _maker() -> str:
    """Return the name of the lock that tells that this process lives. Raises OSError."""
    global _held
    with _holding:
        folder = settings.locks_folder()
        if _held is None or _held[0].parent != folder or not _held[0].exists():
            for left in folder.glob(f"{_MAKER}-*"):
                # Most of them are of processes that have ended.
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
    """Whether the process that filled `folder` is still there. Raises OSError."""
    try:
        name = settings.read_private(folder / _MAKER)
    except (FileNotFoundError, ValueError):
        return False
    return bool(re.fullmatch(rf"{_MAKER}-[0-9a-f]+", name)) and lock.is_held(
        settings.locks_folder() / name
    )


@contextlib.contextmanager
def prepare() -> Iterator[Path]:
    """Give a folder to fill; it becomes a job by `publish`, and is gone if that never came.

    Raises OSError.
    """
    folder = jobs_folder() / _hidden_name()
    folder.mkdir(mode=0o700)
    try:
        (folder / _MAKER).write_text(_maker(), "utf-8")
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
