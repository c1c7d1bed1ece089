"""The time limits and pauses for repeated attempts. All times are in seconds.

A POST starts an edit, which costs money, so it is repeated only if the service certainly did not
accept it. GET requests cost nothing and can be repeated at any time.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import threading
import time

import urllib3

from plugin import storage
from plugin.errors import Kind, NotAccepted
from plugin.translation import _

CONNECTING = 20.0
"""How long a POST is tried again if the connection fails before the POST is sent completely."""
BUSY = 120.0
"""How long a POST is tried again if the service is busy and therefore does not accept it."""
LONGEST = 60.0
"""Longest pause before a POST is tried again.

If the service asks for a longer pause, the edit fails, and the message says when to try again.
"""
HELD = 3600.0
"""If the service asks for a longer pause, edits are held back only for this time."""
_SPREAD = 1.2
"""Pauses of up to LONGEST are extended by a random factor of at most this."""
_NOTE = "busy.json"
_HALF_A_DAY = 43_200
_MOST_ASKED = 366 * 86_400.0
"""A longer pause in a Retry-After header counts as this long, because its end can lie outside the
range of valid dates."""
STAGGER = 0.25
"""Pause between the POSTs of a job, because sending all variations at the same moment could exceed
the service's rate limit."""
UNKNOWN = 20.0
"""For this long after an edit was accepted, a message that its task is unknown is ignored."""
POLLING = 15 * 60.0
"""How long the worker waits for a task to be done."""
POLLS = 2.0, 3.0, 30.0
"""Pauses between two requests for the state of a task: the first pause, the longest pause, and the
longest pause after errors."""
ROOM = 15 * 60.0
"""How long writing a result is tried again while the disk is full."""
WRITING = 60.0
"""How long writing a result is tried again if it fails for any reason but a full disk."""
LOOKS = 3.0
"""Pause between two attempts to write a result."""
IMPORTING = 10.0
"""How long the worker waits for the plug-in to import the results before it compresses files."""
IMPORTED = 0.1
"""Pause between two checks whether the results have been imported."""
FETCHES = (0.5, 1, 2, 4, 8, 0)
"""The pause after each failed attempt to fetch a picture. There is one attempt per pause."""


def asked_for(header: str | None) -> float:
    """Return the seconds to wait according to a Retry-After header, which has seconds or a date.

    Return 0 if the header is missing or can't be parsed.
    """
    try:
        return min(float(urllib3.Retry().parse_retry_after(header or "")), _MOST_ASKED)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0


def not_before(wait: float) -> str:
    """Return the message that the service accepts no edit in the next `wait` seconds."""
    # Round up to the next whole minute.
    moment = time.localtime(time.time() + wait + 59)
    return _(
        "The service is busy and accepts no edit before {time}. Nothing was charged. Try "
        "again then."
    ).format(time=time.strftime("%H:%M" if wait < _HALF_A_DAY else "%Y-%m-%d %H:%M", moment))


class Pace:
    """Schedules the POSTs of a job: one starts after the other, and none while the service is busy.

    `service` is the address of the service. While the service is busy, a file in the data folder
    says until when, so that all other jobs of the user wait, too.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._free = -math.inf
        """The time on the monotonic clock from which the next POST is allowed to start."""
        self._held = -math.inf
        """The time on the monotonic clock when `hold` last began a new, longer pause."""
        self._times = 0

    def turn(self) -> float:
        """Return 0 if a POST can start now, otherwise the seconds to wait before the next call.

        After it has returned 0, the caller must start its POST. The next POST can start STAGGER
        seconds later. Raises NotAccepted if the wait would be longer than a job waits.
        """
        with self._lock:
            now = time.monotonic()
            wait = max(self._free - now, self._shared_pause())
            if wait > LONGEST * _SPREAD:
                raise NotAccepted(Kind.BUSY, not_before(wait), wait)
            if wait > 0:
                return wait
            self._free = now + STAGGER
            return 0

    def hold(self, began: float, wait: float) -> float:
        """Delay all POSTs because the service is busy. Return the seconds until the next can start.

        `began` is the time on the monotonic clock at which the POST began that was not accepted.
        `wait` is the number of seconds that the service asked to wait. The minimum pause doubles
        with each call, up to LONGEST, but calls for POSTs that ran at the same time count as one.
        """
        with self._lock:
            now = time.monotonic()
            if began >= self._held:
                self._held = now
                self._times += 1
                wait = max(wait, min(2.0**self._times, LONGEST))
            if wait > LONGEST:
                wait = min(wait, HELD)
            else:
                # Make the pause longer by a random factor, so that not all clients come back at the
                # same moment. Never make it shorter than the service asked for.
                wait *= random.uniform(1, _SPREAD)  # noqa: S311
            self._free = max(self._free, now + wait)
            self._tell(self._free - now)
            return self._free - now

    def _shared_pause(self) -> float:
        """Return the seconds that remain of the pause in the file _NOTE, or 0.

        Return 0 if the file is about another service.
        """
        try:
            note = json.loads((storage.home() / _NOTE).read_text("utf-8"))
            since, until = float(note["since"]), float(note["until"])
            own = note["service"] == self._service
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return 0
        now = time.time()
        # Ignore the file if the clock was set back since, because a job would wait too long.
        held = own and since <= now < until <= since + max(HELD, LONGEST * _SPREAD)
        return until - now if held else 0

    def _tell(self, wait: float) -> None:
        now = time.time()
        note = json.dumps({"service": self._service, "since": now, "until": now + wait})
        # If the file can't be written, each job learns from the service itself that it is busy.
        with contextlib.suppress(OSError):
            if wait > self._shared_pause():
                storage.write_private(storage.home() / _NOTE, note)


class Tries:
    """Decides how often and after which pauses one POST is tried again."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._connections = 0
        self._ends: dict[str, float] = {}

    def wait(self, failure: NotAccepted, began: float) -> float:
        """Return the seconds to wait before a POST that ended with `failure` is tried again.

        `began` is the time on the monotonic clock at which the POST began. Raises `failure` if the
        POST is not to be tried again: after BUSY or CONNECTING seconds, depending on the kind of
        `failure`, or if the service asked for a pause of more than LONGEST seconds.
        """
        if failure.kind == Kind.BUSY:
            wait, patience = self._pace.hold(began, failure.wait), BUSY
            if failure.wait > LONGEST:
                raise failure
        else:
            wait, patience = 2.0**self._connections, CONNECTING
            self._connections += 1
        now = time.monotonic()
        if now + wait > self._ends.setdefault(failure.kind, now + patience):
            raise failure
        return wait
