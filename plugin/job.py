"""The job folder: the files of an edit, through which the plug-in and the worker communicate.

    jobs/20261122-133005-7f3a/
        request.json    the prompt and the other values of the edit, written once
        source.png      the pixels of the region, in sRGB
        mask.png        the selection in the region, gray: 255 where the service is to edit. There
                        is no such file if everything is to be edited.
        reference-N.png the references: further pictures that the service gets as examples
        place.json      where the results belong in an image, if the edit was made in GIMP
        state.json      how far the edit got, written by the worker only
        answer-N.*      an answer in which the worker found no picture; when the job is resumed,
                        the worker reads the answer again
        result-N.*      the result of variation N, as received
        placed-N.png    the result, fitted to source.png
        blend.png       the weight of the result near the selection's edge, if there is a blend
        original        a copy of the picture file that is edited, until all results are written
        imported-N      an empty file: variation N is in the image (or in the user's file)
        maker           the name of a lock in the folder `locks`. The process that created the job
                        holds this lock as long as the process runs.
        lock            the lock that is held by the worker that works on the job

The plug-in, or the command line, fills the folder under a hidden name and renames it when it is
complete. After that, only the worker writes `state.json`. After a crash at any point, the files say
which steps can follow without paying twice. The API key and signed download links are never written
here; in `answer-N`, a mark replaces them.
"""

from __future__ import annotations

import contextlib
import enum
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
from typing import Any, NamedTuple, TypeGuard

from plugin import lock, storage
from plugin.errors import Kind, UserError
from plugin.limits import MOST_BLEND, MOST_PROMPT, MOST_VARIATIONS
from plugin.region import Region
from plugin.translation import _


class Status(str, enum.Enum):
    """The states of a variation, and of a job as a whole."""

    PREPARED = "prepared"
    """The job folder is complete, and nothing was sent. The request can be sent."""
    SENT = "sent"
    """The request is being sent, or was sent. If no worker runs, the outcome is unknown."""
    ACCEPTED = "accepted"
    """The service accepted the request. If it named a task, the result can be asked for by it."""
    RECEIVED = "received"
    """The result is in the folder."""
    FAILED = "failed"
    """The request ended without a result. `kind` and `message` say why."""

    __str__ = str.__str__


_PRECEDENCE = (Status.SENT, Status.ACCEPTED, Status.PREPARED, Status.RECEIVED, Status.FAILED)

_FREE = (Kind.SETUP, Kind.UNREACHABLE, Kind.REFUSED, Kind.BUSY)
"""The kinds of failure after which the service charges nothing."""

_PICTURE = re.compile(r"(result|placed|reference|answer)-[0-9]{1,3}\.[a-z]{3,4}")
"""The names of files to which a job can refer. Other names could lead out of the job folder."""

DAY = 86400.0
"""A day in seconds."""

MAKER = "maker"
"""The name of the file that contains the name of the lock of the job's creator."""
_IMPORTED = "imported"
_RESULT = re.compile(r"result-([0-9]{1,3})\.")

_UNSEEN = "\u115f\u1160\u2800\u3164\uffa0"
"""Characters that count as letters or symbols in Unicode, but are invisible."""

_LATEST = 2**36
"""Upper limit for a time, in seconds since 1970. Some later times can't be converted to a date."""


def check_prompt(text: str) -> str:
    """Return the prompt without leading and trailing whitespace.

    Raises UserError if the prompt is empty, invisible, too long or not valid Unicode.
    """
    prompt = text.strip()
    if not prompt:
        raise UserError(_("The prompt is empty. Describe what to change."))
    if not any(_is_seen(character) for character in prompt):
        raise UserError(_("The prompt has only invisible characters. Describe what to change."))
    if len(prompt) > MOST_PROMPT:
        raise UserError(
            _("The prompt is too long. Use at most {most:,} characters.").format(most=MOST_PROMPT)
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(_("The prompt has broken characters. Type it again.")) from error
    return prompt


def _is_seen(character: str) -> bool:
    """Return whether a character is visible by itself, unlike spaces and combining marks."""
    category = unicodedata.category(character)
    unseen = category[0] in "ZM" or category in ("Cc", "Cf") or character in _UNSEEN
    return not unseen


@dataclass(frozen=True)
class Files:
    """The paths of a job made on the command line.

    `image` is the picture file that is edited. `mask` is the file of the mask, or "" if there is no
    mask. `out` is the folder for the results.
    """

    image: str
    mask: str
    out: str


@dataclass(frozen=True)
class JobRequest:
    """The values of an edit, such as the prompt: the contents of `request.json`."""

    prompt: str
    model: str
    region: Region | None
    """The part of the picture that is sent, or None if the saved region can't be read."""
    variations: int = 1
    references: tuple[str, ...] = ()
    """The file names of the references in the job folder."""
    blend: int = 0
    """Width of the strip inside the selection's edge in which a result fades in, in pixels."""
    repair: bool = True
    keep_alpha: bool | None = None
    """Whether results get the transparency of the source.

    This is None in jobs of version 0.1.0, which did not save the value. The results of such a job
    get the transparency of the source if the job has no mask.
    """
    created: float = 0
    """Time of creation in seconds since 1970, or 0 if it is unknown."""
    file: Files | None = None
    """The paths of a job made on the command line, or None for a job made in GIMP."""

    @staticmethod
    def from_json(saved: Any) -> JobRequest:
        """Return the request that `dataclasses.asdict` turned into `saved`.

        Any version of the plug-in has possibly written `saved`, and a user has possibly changed it.
        Raises KeyError or TypeError if the prompt, the number of variations or the names of the
        references are invalid. Defaults replace other values that can't be read, because the
        results that have arrived can be used without those values.
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
        with contextlib.suppress(KeyError, TypeError, ValueError, UserError):
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

    Strings in JSON can contain null characters and halves of surrogate pairs, which can neither be
    shown nor sent.
    """
    return isinstance(value, str) and _shown(value) == value


def _shown(text: str) -> str:
    """Return `text` with "?" in place of each character that can't be shown.

    Messages can contain such characters, because the name of a file need not be valid text.
    """
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


class Variation(NamedTuple):
    """One of the variations of a job: the edits that are made for the same prompt.

    `number` counts from 1.
    """

    job_id: str
    number: int


@dataclass
class Post:
    """The state of one variation. Each variation is sent to the service as one POST request."""

    state: Status = Status.PREPARED
    task: str = ""
    kind: str = ""
    message: str = ""
    result: str = ""
    placed: str = ""
    notes: list[str] = field(default_factory=list)
    route: str = ""
    """The route by which the variation was sent, one of settings.ROUTES.

    The route is "" in jobs from the time when there was only one route.
    """
    service: str = ""
    """The address of the service that has the task, spelled as in the settings."""
    answer: str = ""
    """The name of the file that holds the answer, if no picture was found in the answer."""
    others: dict[str, Any] = field(default_factory=dict)
    """Fields that a newer version of the plug-in has saved. They are kept unchanged."""

    @property
    def to_be_placed(self) -> bool:
        return self.state == Status.RECEIVED and not self.placed

    @property
    def awaits_answer(self) -> bool:
        """Whether the variation was sent, and how this ended is not recorded."""
        return self.state in (Status.SENT, Status.ACCEPTED)

    @property
    def may_be_sent(self) -> bool:
        """Whether the variation can be sent without being charged twice.

        This is the case if it was not sent before, or if it failed and surely cost nothing.
        """
        return self.state == Status.PREPARED or self.may_be_sent_again

    @property
    def may_be_sent_again(self) -> bool:
        """Whether the variation failed and cost nothing, so that the user can send it again."""
        paid = self.result or self.answer
        return self.state == Status.FAILED and self.kind in _FREE and not paid

    @property
    def may_be_forgotten(self) -> bool:
        """Whether the variation can be removed without losing a result that was paid for.

        The variation must have ended. An answer that can't be used yet was paid for, so it is kept.
        An edit with an unknown outcome can be removed, because the user was informed, and there is
        no way to fetch the result.
        """
        over = self.state == Status.FAILED and self.kind in (*_FREE, Kind.OUTCOME_UNKNOWN)
        return over and not self.answer

    @property
    def may_be_asked_for_again(self) -> bool:
        """Whether the variation failed, but asking for its task again can bring a usable picture.

        For example, the service does not find a task if the key has changed meanwhile, or the
        network has inserted a page of its own in place of the picture.
        """
        asked = self.state == Status.FAILED and self.kind == Kind.ANSWER
        return asked and bool(self.task) and not self.placed

    @property
    def may_be_read_again(self) -> bool:
        """Whether an answer or result arrived that this version can't use, but a later one may."""
        return self.state == Status.FAILED and bool(self.result or self.answer) and not self.placed

    @property
    def recoverable(self) -> bool:
        """Whether resuming the job can bring the result of this variation at no cost."""
        waits = self.state == Status.ACCEPTED and bool(self.task)
        again = self.may_be_asked_for_again or self.may_be_read_again
        return waits or self.to_be_placed or again


@dataclass
class State:
    """The state of a job. `posts` are the states of its variations, in the order of the numbers."""

    posts: list[Post]
    others: dict[str, Any] = field(default_factory=dict)
    """Fields that a newer version of the plug-in has saved. They are kept unchanged."""

    @property
    def name(self) -> Status:
        """The state of the whole job.

        The job is unfinished as long as any variation is sent, accepted or prepared; the first of
        these three that occurs is the state of the job. Otherwise the job is received if at least
        one variation is received, and failed if none is.
        """
        states = {post.state for post in self.posts}
        return next(s for s in _PRECEDENCE if s in states)

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
    """A job on the disk. The methods read the files of the job folder anew at each call."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    def read_request(self) -> JobRequest:
        """Return the contents of `request.json`.

        Raises OSError, and UserError if the file is malformed.
        """
        try:
            saved = json.loads(storage.read_private(self.folder / "request.json"))
            return JobRequest.from_json(saved)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(_damaged(self, "request.json")) from error

    def read_state(self) -> State:
        """Return the contents of `state.json`.

        If there is no such file, all variations are prepared. Raises OSError, and UserError if the
        file is malformed.
        """
        try:
            saved = json.loads(storage.read_private(self.folder / "state.json"))
            posts = [_checked_post(post) for post in saved.pop("posts") or [None]]
            return State(posts, {name: saved[name] for name in saved.keys() - {"state"}})
        except FileNotFoundError:
            return State([Post() for _ in range(self.read_request().variations)])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(_damaged(self, "state.json")) from error

    def save_state(self, state: State) -> None:
        """Write `state` to the disk. Raises OSError.

        Call this before the step that the state announces: save "sent" before sending, for example.
        """
        posts = [asdict(post) for post in state.posts]
        for post in posts:
            post.update(post.pop("others"))
        text = json.dumps({"state": state.name, "posts": posts, **state.others}, indent=1)
        storage.write_private(self.folder / "state.json", text)

    def find_imported(self) -> frozenset[int]:
        """Return the numbers of the variations that are in the user's image or file.

        Raises OSError, and UserError if the job is damaged.
        """
        numbers = [
            int(marker.name.removeprefix(f"{_IMPORTED}-"))
            for marker in self.folder.glob(f"{_IMPORTED}-*")
            if marker.name.removeprefix(f"{_IMPORTED}-").isdecimal()
        ]
        if (self.folder / _IMPORTED).exists():
            # An older version wrote a single marker, for all variations that had been fitted.
            numbers += self._fitted()
        return frozenset(numbers)

    def find_unimported(self) -> frozenset[int]:
        """Return the numbers of the variations that have arrived, but are in no image or file.

        Raises OSError, and UserError if the job is damaged.
        """
        arrived = {
            number
            for number, post in enumerate(self.read_state().posts, 1)
            if post.state == Status.RECEIVED or post.result or post.placed
        }
        found = (_RESULT.match(file.name) for file in self.folder.glob("result-*"))
        arrived.update(int(name[1]) for name in found if name)
        return frozenset(arrived) - self.find_imported()

    def mark_imported(self, numbers: Iterable[int]) -> None:
        """Mark these variations as being in the user's image or file.

        Variations that were marked before stay marked. Raises OSError.
        """
        # Each variation has its own file, because several processes can mark variations at once.
        for number in numbers:
            (self.folder / f"{_IMPORTED}-{number}").touch(mode=0o600)
        storage.sync_folder(self.folder)

    def _fitted(self) -> list[int]:
        return [number for number, post in enumerate(self.read_state().posts, 1) if post.placed]

    def discard(self) -> None:
        """Remove the job folder with all its files, even results that are not used yet.

        Only call this if the user wants to discard the job, or if nothing of it was sent.
        """
        try:
            folder = self.put_away()
        except OSError:
            # On Windows, another process has one of the folder's files open.
            folder = self.folder
        shutil.rmtree(folder, ignore_errors=True)

    def put_away(self) -> Path:
        """Give the job folder a hidden name, and return the new path of the folder.

        The job is not listed any more after that. Raises OSError.
        """
        hidden = self.folder.with_name(_hidden_name())
        end = time.monotonic() + 1
        while True:
            try:
                return self.folder.rename(hidden)
            except PermissionError:
                # On Windows, a killed worker can keep files open for a moment until it has ended.
                if os.name != "nt" or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def age(self, now: float) -> float:
        """Return the number of seconds from the last change of a file of the job to `now`.

        `now` is in seconds since 1970. The age is negative if the computer's clock was set back
        after the change. Raises OSError, and UserError if the job is damaged.
        """
        files = (file for file in self.folder.iterdir() if file.name != "lock")
        return now - max(self.read_request().created, *(file.lstat().st_mtime for file in files))

    def must_stay(self, now: float) -> bool:
        """Return whether the job must not be removed automatically.

        A job must stay in these cases:

        - This version can't read the job.
        - The job was sent and has not ended, however long ago it was sent. The next window, or
          `resume`, asks for the result of its task, or records that the outcome is unknown.
        - The job has results that are not imported, or answers that can't be used. A newer version
          is possibly able to read these answers.
        - The job was not sent, and either its last change was less than a day ago, or the process
          that created it still runs.

        The user can discard such a job nevertheless. This method does not check whether a worker
        holds the lock of the job and is about to change it. Raises OSError.
        """
        try:
            age, imported, unimported = self.age(now), self.find_imported(), self.find_unimported()
            posts = self.read_state().posts
        except UserError:
            return True
        open_ = [post for number, post in enumerate(posts, 1) if number not in imported]
        to_be_sent = [post for post in open_ if post.state == Status.PREPARED]
        if unimported or not all(post in to_be_sent or post.may_be_forgotten for post in open_):
            return True
        return bool(to_be_sent) and (age < DAY or self.maker_lives())

    def maker_lives(self) -> bool:
        """Return whether the process that created the job still runs. Raises OSError.

        A window of this process possibly shows the job.
        """
        return _maker_lives(self.folder)


def _damaged(job: Job, name: str) -> str:
    return _(
        "The files of edit number {job} are damaged: {file} can't be read. Results that arrived "
        "are in {folder}. Remove the folder when you no longer need it."
    ).format(job=job.id, file=name, folder=job.folder)


def _checked_post(saved: Any) -> Post:
    """Return the state of one variation from `saved`, an element of "posts" in `state.json`.

    Raises AttributeError, KeyError, TypeError or ValueError if `saved` is malformed.
    """
    known = {each.name for each in fields(Post)} - {"others"}
    others = {name: value for name, value in saved.items() if name not in known}
    # The state is required: with the default, a variation without a state would count as not sent.
    post = Post(
        Status(saved["state"]), **{name: saved[name] for name in saved.keys() & known - {"state"}}
    )
    post.others = others
    texts = [value for name, value in asdict(post).items() if name not in ("notes", "others")]
    if not isinstance(post.notes, list) or not all(
        isinstance(text, str) for text in texts + post.notes
    ):
        raise TypeError
    post.message, post.notes = _shown(post.message), [_shown(note) for note in post.notes]
    names = [name for name in (post.result, post.placed, post.answer) if name]
    if not all(_PICTURE.fullmatch(name) for name in names):
        raise TypeError
    return post


def jobs_folder() -> Path:
    """Return the folder that contains all job folders. Create it if necessary. Raises OSError."""
    return storage.private_folder(storage.home() / "jobs")


def _hidden_name() -> str:
    return f".{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


_held: tuple[Path, int] | None = None
"""The path and the file descriptor of the lock that this process holds until the process ends."""
_holding = threading.Lock()


def _maker() -> str:
    """Return the name of the lock that shows that this process runs. Raises OSError.

    The first call takes the lock. A later call takes a new lock if the file of the lock has
    disappeared or the data folder is another one.
    """
    global _held
    with _holding:
        folder = storage.locks_folder()
        if _held is None or _held[0].parent != folder or not _held[0].exists():
            for left in folder.glob(f"{MAKER}-*"):
                # Remove the locks of processes that have ended. The others can't be removed.
                with contextlib.suppress(OSError):
                    lock.remove(left)
            descriptor = None
            while descriptor is None:
                path = folder / f"{MAKER}-{secrets.token_hex(6)}"
                descriptor = lock.take(path)
            if _held is not None:
                os.close(_held[1])
            _held = path, descriptor
        return _held[0].name


def _maker_lives(folder: Path) -> bool:
    """Return whether the process that created the job folder still runs. Raises OSError."""
    try:
        name = storage.read_private(folder / MAKER)
    except (FileNotFoundError, ValueError):
        return False
    return bool(re.fullmatch(rf"{MAKER}-[0-9a-f]+", name)) and lock.is_held(
        storage.locks_folder() / name
    )


@contextlib.contextmanager
def prepare() -> Iterator[Path]:
    """Yield a new hidden folder that the `with` block fills with the files of a job.

    Call `publish` in the block to turn the folder into a job. Otherwise the folder is removed at
    the end of the block. Raises OSError.
    """
    folder = jobs_folder() / _hidden_name()
    folder.mkdir(mode=0o700)
    try:
        (folder / MAKER).write_text(_maker(), "utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, request: JobRequest) -> Job:
    """Write `request.json` to a filled folder, and turn the folder into a job by renaming it.

    The new name is flushed to the disk. Raises OSError.
    """
    for file in folder.iterdir():
        # GIMP and the libraries create files that other users can possibly read, as the umask says.
        file.chmod(0o600)
    storage.write_private(folder / "request.json", json.dumps(asdict(request), indent=1))
    final = folder.with_name(folder.name.removeprefix("."))
    os.rename(folder, final)
    storage.sync_folder(final.parent)
    return Job(final)
