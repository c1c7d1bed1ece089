"""How an edit stands: what its row in the window says, and which buttons it has.

This module needs neither GIMP nor GTK. The row (`ui/edit_row.py`) collects the facts, and shows
what this module makes of them.
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
"""Seconds after which an answer is no longer expected."""


class Standing(enum.Enum):
    """The situation of an edit, as far as the user can tell them apart."""

    RUNNING = enum.auto()
    """The window waits for it."""
    LEFT = enum.auto()
    """It was sent, and nobody waits for it. Its result may still come."""
    RESULTS = enum.auto()
    """There is at least one result."""
    FAILED = enum.auto()
    """It ended without a result."""
    UNKNOWN = enum.auto()
    """It was sent long ago, and no answer came."""


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
    """What is known of an edit only in the window that started it.

    `sent` and `total` are the bytes of all uploads, `elapsed` the seconds of waiting so far (0 if
    the service has not got the edit yet), and `percents` what the service says of each variation.
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
        """Whether the window waits for the edit."""
        return not self.ended and not self.detached


@dataclass(frozen=True)
class Facts:
    """What a row knows of its edit.

    `here` is None for an edit of an earlier window. `messages` are those of the jobs, `note` is
    that of the user's last action, and `there` contains the variations that are in the image.
    `collecting` says whether a worker of this window finishes the edit, and `others` whether
    another process may be about to send it. `age` and `usual`, the usual duration, are in seconds.
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
        """The variations with a fitted result."""
        return [variation for variation, post in self.posts.items() if post.placed]

    @property
    def chosen_result(self) -> Variation | None:
        """The variation that the user has chosen, or None if there are no results."""
        found = self.results
        return found[min(self.chosen, len(found) - 1)] if found else None

    @property
    def standing(self) -> Standing:
        """How the edit stands."""
        if self.here is not None and self.here.running:
            return Standing.RUNNING
        if self.here is not None and not self.here.ended:
            return Standing.LEFT
        if self.results:
            return Standing.RESULTS
        if self.collecting:
            return Standing.LEFT
        sent = [p for p in self.posts.values() if p.state in (Status.SENT, Status.ACCEPTED)]
        if self.here is not None or all(post.message for post in sent):
            return Standing.FAILED
        # A worker of another window may still be working on it.
        return Standing.LEFT if self.age < _GIVEN_UP else Standing.UNKNOWN

    @property
    def may_be_lost(self) -> bool:
        """Whether something that may have been charged is lost if the edit is discarded."""
        return self.standing is Standing.LEFT or any(
            post.result or post.placed or post.answer or to_collect(post)
            for post in self.posts.values()
        )

    @property
    def is_unsent(self) -> bool:
        """Whether any variation may be sent, and this window may send it."""
        return any(map(to_be_sent, self.posts.values())) and not (
            self.here is None and (self.collecting or self.others)
        )

    def text(self) -> str:
        """Return what the row says below the title."""
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
            return _(
                "This edit was sent, but no answer came. You may have been charged, so the edit is "
                "not sent again. Check your account with the service before you start a new edit."
            )
        own = self.here.sentences if self.here is not None else ()
        if standing is Standing.FAILED:
            told = dict.fromkeys([*(own or self.messages), self.note])
            return " ".join(filter(None, told)) or _("This edit was not sent.")
        sentences = list(self.messages if self.here is None else own)
        if self.note:
            sentences.append(self.note)
        elif not self.there.intersection(self.results):
            sentences.append(_("Not in this image."))
        return " ".join(sentences)

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
            # Approach the end more and more slowly, so that the bar is never full too early.
            guess = share / (share + 0.5)
            return 0.1 + 0.85 * max(guess, min(here.percents, default=0) / 100)
        return 0.97 if here.phase in (Phase.DOWNLOADING, Phase.FITTING) else 0

    def buttons(self) -> list[Button]:
        """Return the buttons of the row, in their order."""
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
        """Return what *Try Again* would cost, or "" if nothing can be tried again."""
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


def to_be_sent(post: Post) -> bool:
    """Return whether it may be sent: it was not sent before, or surely cost nothing."""
    return post.state == Status.PREPARED or post.may_be_sent_again


def to_collect(post: Post) -> bool:
    """Return whether a worker can still get something of what was sent."""
    return post.state in (Status.SENT, Status.ACCEPTED) or post.recoverable


def unfinished(job: Job) -> bool:
    """Return whether an earlier window has left something in a job that the user may want."""
    try:
        return _reached(job, Status.SENT, Status.ACCEPTED) or (
            _reached(job, Status.RECEIVED) and bool(job.unimported)
        )
    except (OSError, UserError):
        return False


def has_something(job: Job) -> bool:
    """Return whether a job should get a row.

    A damaged job gets none. A job that was not sent gets one if the process that created it is
    gone.
    """
    try:
        return _reached(job, Status.RECEIVED, Status.SENT, Status.ACCEPTED, Status.FAILED) or (
            _reached(job, Status.PREPARED) and not job.maker_lives()
        )
    except OSError:
        return False


def _reached(job: Job, *states: Status) -> bool:
    """Return whether a job can be read and any of its variations has one of these states."""
    try:
        return bool(job.request.prompt) and any(post.state in states for post in job.state.posts)
    except (OSError, UserError):
        return False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
