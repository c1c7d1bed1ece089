"""Decide what the row of an edit in the window says, and which buttons the row has.

The row is in `ui/edit_row.py`. It collects the facts about the edit, and shows the text and the
buttons that this module derives from these facts. This module needs neither GIMP nor GTK.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from plugin.errors import Kind, UserError
from plugin.job import Job, Post, Status, Variation
from plugin.progress import Phase
from plugin.translation import _

_GIVEN_UP = 20 * 60
"""The age of an edit in seconds after which an answer is no longer expected."""


class Standing(enum.Enum):
    """The situation of an edit, as the row shows it to the user."""

    RUNNING = enum.auto()
    """The window waits for the end of the edit."""
    LEFT = enum.auto()
    """The window doesn't wait for the edit, but a result can still arrive."""
    RESULTS = enum.auto()
    """The edit has at least one result."""
    FAILED = enum.auto()
    """The edit ended without a result."""
    UNKNOWN = enum.auto()
    """The edit was sent long ago, and no answer has arrived."""


class Button(enum.Enum):
    """The buttons that a row can have."""

    CANCEL = enum.auto()
    KEEP_WAITING = enum.auto()
    COMPARE = enum.auto()
    KEEP = enum.auto()
    PUT_INTO_IMAGE = enum.auto()
    TRY_AGAIN = enum.auto()
    SETTINGS = enum.auto()
    SHOW_FOLDER = enum.auto()
    DISCARD = enum.auto()
    MORE = enum.auto()


@dataclass(frozen=True)
class Here:
    """The facts about an edit that only the window that started the edit knows.

    `ended` is true if all workers have ended, and `detached` if the user has stopped waiting.
    `replaces` is true if the result replaces the pixels of the edited layer. `sentences` are the
    messages for the user. `sent` and `total` are the numbers of bytes in all current uploads.
    `elapsed` is how long the window has waited for the service, in seconds; it is 0 before that.
    `percents` are the percentages of the work that the service has done, one for each variation.
    """

    ended: bool = False
    detached: bool = False
    replaces: bool = False
    sentences: Sequence[str] = ()
    phase: Phase = Phase.PREPARING
    phase_text: str = ""
    sent: int = 0
    total: int = 0
    elapsed: float = 0
    percents: Sequence[int] = ()

    @property
    def running(self) -> bool:
        """Whether the window waits for the end of the edit."""
        return not self.ended and not self.detached


@dataclass(frozen=True)
class Facts:
    """What a row knows of its edit.

    `here` is None if an earlier window started the edit. `messages` are the messages of the jobs,
    and `note` is the message about the user's last action. `there` contains the variations that are
    in the image, and `chosen` is the index of the chosen variation in `results`. If the edit is of
    an earlier window, `collecting` is true while a worker of this window finishes the edit, and
    `others` is true if another process is possibly about to send it. `age` is the time since the
    edit was created, and `usual` the usual duration of such an edit, both in seconds.
    """

    posts: dict[Variation, Post]
    here: Here | None = None
    messages: Sequence[str] = ()
    note: str = ""
    there: frozenset[Variation] = field(default_factory=frozenset)
    chosen: int = 0
    collecting: bool = False
    others: bool = False
    age: float = 0
    usual: float = 60

    @property
    def results(self) -> list[Variation]:
        """The variations that have a fitted result."""
        return [variation for variation, post in self.posts.items() if post.placed]

    @property
    def chosen_result(self) -> Variation | None:
        """The variation that the user has chosen, or None if there are no results."""
        found = self.results
        return found[min(self.chosen, len(found) - 1)] if found else None

    @property
    def standing(self) -> Standing:
        """The situation of the edit."""
        if self.here is not None and self.here.running:
            return Standing.RUNNING
        if self.here is not None and not self.here.ended:
            return Standing.LEFT
        if self.results:
            return Standing.RESULTS
        if self.collecting:
            return Standing.LEFT
        sent = [post for post in self.posts.values() if post.awaits_answer]
        if self.here is not None or all(post.message for post in sent):
            return Standing.FAILED
        # A worker of another window is possibly still waiting for the answer.
        return Standing.LEFT if self.age < _GIVEN_UP else Standing.UNKNOWN

    @property
    def may_be_lost(self) -> bool:
        """Whether discarding the edit can lose a result for which the user was charged."""
        return self.standing is Standing.LEFT or any(
            post.result or post.placed or post.answer or to_collect(post)
            for post in self.posts.values()
        )

    @property
    def is_unsent(self) -> bool:
        """Whether the user can send any variation of the edit from this window now.

        If the edit is of an earlier window, this is possible only while no worker of this window
        and no other process works on the edit.
        """
        return any(post.may_be_sent for post in self.posts.values()) and not (
            self.here is None and (self.collecting or self.others)
        )

    def text(self) -> str:
        """Return the text that the row shows below the title."""
        standing = self.standing
        if standing is Standing.RUNNING:
            return self._progress_text()
        if standing is Standing.LEFT and self.here is None:
            return _(
                "This edit was sent and is in progress. The result will be kept and shown here."
            )
        if standing is Standing.LEFT:
            return _(
                "You stopped waiting. If the edit was already sent, you may be charged, and its "
                "result will be kept and shown here."
            )
        if standing is Standing.UNKNOWN:
            return _no_answer()
        own = self.here.sentences if self.here is not None else ()
        if standing is Standing.FAILED:
            told = dict.fromkeys([*(own or self.messages), self.note])
            return " ".join(filter(None, told)) or self._unexplained()
        sentences = list(self.messages if self.here is None else own)
        if self.note:
            sentences.append(self.note)
        elif not self.there.intersection(self.results):
            sentences.append(_("Not in this image."))
        return " ".join(sentences)

    def _unexplained(self) -> str:
        """Return the text about an edit that ended without a message, because its worker died."""
        sent = [post for post in self.posts.values() if post.awaits_answer]
        if not all(post.recoverable for post in sent):
            return _no_answer()
        if not any(post.recoverable for post in self.posts.values()):
            return _("This edit was not sent.")
        if self.is_unsent:
            return _(
                "This edit stopped before it was finished. Choose Try Again to continue. What is "
                "sent then may be charged."
            )
        return _(
            "This edit stopped before it was finished. Choose Try Again to continue, at no cost."
        )

    def _progress_text(self) -> str:
        assert self.here is not None
        text = self.here.phase_text
        if self.here.phase is Phase.WAITING and self.here.elapsed:
            text = _("{phase}: {elapsed} (usually {usual})").format(
                phase=text, elapsed=_clock(self.here.elapsed), usual=_clock(self.usual)
            )
        if len(self.posts) > 1:
            ready = _("({ready} of {total} ready)").format(
                ready=len(self.results), total=len(self.posts)
            )
            text = f"{text} {ready}"
        return text

    def fraction(self) -> float:
        """Return how much of a running edit is done, from 0 to 1, for the progress bar."""
        here = self.here
        if here is None:
            return 0
        if here.phase is Phase.UPLOADING:
            return 0.1 * here.sent / max(1, here.total)
        if here.phase is Phase.WAITING and here.elapsed:
            share = here.elapsed / self.usual
            # Move the bar more and more slowly, so that it is never full before the answer arrives.
            guess = share / (share + 0.5)
            return 0.1 + 0.85 * max(guess, min(here.percents, default=0) / 100)
        return 0.97 if here.phase in (Phase.DOWNLOADING, Phase.FITTING) else 0

    def buttons(self) -> list[Button]:
        """Return the buttons of the row, in the order in which the row shows them."""
        standing = self.standing
        if standing is Standing.RUNNING:
            return [Button.CANCEL]
        if standing is Standing.LEFT:
            return [*([Button.KEEP_WAITING] if self.here else []), Button.DISCARD]
        found = []
        if standing is Standing.RESULTS:
            if self.chosen_result in self.there:
                found.append(Button.COMPARE)
                others = {each for each in self.results if each != self.chosen_result}
                if others & self.there and not (self.here and self.here.replaces):
                    found.append(Button.KEEP)
            else:
                found.append(Button.PUT_INTO_IMAGE)
        if self.retry_hint():
            found.append(Button.TRY_AGAIN)
        if standing is not Standing.RESULTS:
            kinds = {post.kind for post in self.posts.values()}
            if kinds & {Kind.SETUP, Kind.REFUSED, Kind.PENDING}:
                found.append(Button.SETTINGS)
            found.append(Button.SHOW_FOLDER)
        return [*found, Button.DISCARD, Button.MORE]

    def retry_hint(self) -> str:
        """Return a text on what *Try Again* does and costs, or "" if there is nothing to try."""
        asked = not self.collecting and any(post.recoverable for post in self.posts.values())
        if asked and self.is_unsent:
            return _(
                "Ask for the results again at no cost, and send the rest, which may be charged"
            )
        if asked:
            return _("Ask for the result again, at no cost")
        if self.is_unsent:
            return _("Send what is missing. Nothing was charged for it so far.")
        return ""


def _no_answer() -> str:
    return _(
        "This edit was sent, but no answer came. You may have been charged, so the edit is "
        "not sent again. Check your account with the service before you start a new edit."
    )


def to_collect(post: Post) -> bool:
    """Return whether a worker can possibly get the result without sending the variation again."""
    return post.awaits_answer or post.recoverable


def unfinished(job: Job) -> bool:
    """Return whether a job of an earlier window is unfinished.

    A job is unfinished if an answer is still missing, or if a result is in no image yet. Return
    False if the job can't be read.
    """
    try:
        return _reached(job, Status.SENT, Status.ACCEPTED) or (
            _reached(job, Status.RECEIVED) and bool(job.find_unimported())
        )
    except (OSError, UserError):
        return False


def has_something(job: Job) -> bool:
    """Return whether a job gets a row in the list of earlier edits.

    A damaged job gets no row. A job that was not sent gets a row only if the process that created
    the job has ended.
    """
    try:
        return _reached(job, Status.RECEIVED, Status.SENT, Status.ACCEPTED, Status.FAILED) or (
            _reached(job, Status.PREPARED) and not job.maker_lives()
        )
    except OSError:
        return False


def _reached(job: Job, *states: Status) -> bool:
    """Return whether any variation of a job has one of these states.

    Return False if the job can't be read.
    """
    try:
        return bool(job.read_request().prompt) and any(
            post.state in states for post in job.read_state().posts
        )
    except (OSError, UserError):
        return False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
