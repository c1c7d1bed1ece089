"""When to try again: how long to wait, and for how long in all, in seconds.

A POST is tried again only where it surely was not accepted; GETs cost nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import threading
import time

import urllib3

from plugin import settings
from plugin.words import _
from plugin.worker.failure import Failure, NotAccepted

CONNECTING = 20.0
"""For a connection to come about."""
BUSY = 120.0
"""For a service that wants fewer requests."""
LONGEST = 60.0
"""The most that is waited at once. Who is asked to wait longer is told so instead."""
HELD = 3600.0
"""For how long a service that asks for it is left alone by all edits, at most."""
_SPREAD = 1.2
"""By how much longer at most a short wait is made."""
_NOTE = "busy.json"
_HALF_A_DAY = 43_200
_MOST_ASKED = 366 * 86_400.0
"""Seconds that a calendar has dates for."""
STAGGER = 0.25
"""Between the starts of a job's variations, which would trip a limit together."""
UNKNOWN = 20.0
"""For a task that was named just now to become known."""
POLLING = 15 * 60.0
"""For a task to end."""
POLLS = 2.0, 3.0, 30.0
"""Between two questions after a task: at first, later, and at most while it can't be asked."""
ROOM = 15 * 60.0
"""For room on a full disk, for what has arrived."""
WRITING = 60.0
"""For a folder that can't be written to for any other reason, for what has arrived."""
LOOKS = 3.0
"""Between two tries to write."""
IMPORTING = 10.0
"""For results to be imported, before what else there is to do with their files."""
IMPORTED = 0.1
"""Between two looks whether they are."""
FETCHES = (0.5, 1, 2, 4, 8, 0)
"""After each try to fetch a picture."""


def asked_for(header: str | None) -> float:
    """Read a Retry-After, seconds or a date: seconds, 0 if it can't be read."""
    try:
        return min(float(urllib3.Retry().parse_retry_after(header or "")), _MOST_ASKED)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0


def not_before(wait: float) -> str:
    """Return the sentence for a service that wants to be left alone for `wait` seconds."""
    # The first whole minute after it.
    moment = time.localtime(time.time() + wait + 59)
    return _(
        "The service is busy and takes no edit before {time}. Nothing was made or billed: try "
        "again then."
    ).format(time=time.strftime("%H:%M" if wait < _HALF_A_DAY else "%Y-%m-%d %H:%M", moment))


class Pace:
    """The starts of a job's POSTs to `service`, an address: one after the other, none while busy.

    That it is busy all jobs of the user hear of, by a note in the home.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._free = -math.inf
        """When the next one may start, on the monotonic clock."""
        self._held = -math.inf
        """When the service last said that it is busy."""
        self._times = 0

    def turn(self) -> float:
        """Take the next start and return 0, or return how long to wait before asking again.

        Raises NotAccepted where that would be too long.
        """
        with self._lock:
            now = time.monotonic()
            wait = max(self._free - now, self._told())
            if wait > LONGEST * _SPREAD:
                raise NotAccepted(Failure.BUSY, not_before(wait), wait)
            if wait > 0:
                return wait
            self._free = now + STAGGER
            return 0

    def hold(self, began: float, wait: float) -> float:
        """Hold all starts back, for a POST that began at `began` found the service busy.

        `wait` is what the service asks for. Those that were on the way together count once.
        Returns how long it will be until the next start.
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
                # Not everybody comes back at the same moment, and nobody earlier than asked.
                wait *= random.uniform(1, _SPREAD)  # noqa: S311
            self._free = max(self._free, now + wait)
            self._tell(self._free - now)
            return self._free - now

    def _told(self) -> float:
        """Return for how long one of the user's jobs was last told to wait."""
        try:
            note = json.loads((settings.home() / _NOTE).read_text("utf-8"))
            since, until = float(note["since"]), float(note["until"])
            own = note["service"] == self._service
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return 0
        now = time.time()
        # Nobody waits longer because of a clock that was set back.
        held = own and since <= now < until <= since + max(HELD, LONGEST * _SPREAD)
        return until - now if held else 0

    def _tell(self, wait: float) -> None:
        now = time.time()
        note = json.dumps({"service": self._service, "since": now, "until": now + wait})
        # Without it each job hears it from the service itself.
        with contextlib.suppress(OSError):
            if wait > self._told():
                settings.write_private(settings.home() / _NOTE, note)


class Tries:
    """How often one POST is tried again."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._connections = 0
        self._ends: dict[str, float] = {}

    def wait(self, failure: NotAccepted, began: float) -> float:
        """Return how long to wait after a POST that began at `began`; raise `failure` if enough."""
        if failure.kind == Failure.BUSY:
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
