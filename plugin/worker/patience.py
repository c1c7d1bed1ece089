"""The time limits and pauses for repeated attempts. All times are in seconds.

A POST is repeated only if it was certainly not accepted. GETs may be repeated, as they cost
nothing.
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
"""How long to repeat a POST that could not be sent because the connection failed."""
BUSY = 120.0
"""How long to repeat a POST that the service did not accept because it is busy."""
LONGEST = 60.0
"""Longest pause before a POST is repeated.

If the service asks for a longer one, the POST fails, and the message says when to try again.
"""
HELD = 3600.0
"""Longest time for which no edit is sent to a service that asked for a pause."""
_SPREAD = 1.2
"""Largest random factor by which pauses of up to LONGEST are extended."""
_NOTE = "busy.json"
_HALF_A_DAY = 43_200
_MOST_ASKED = 366 * 86_400.0
"""Longest time that is accepted from a Retry-After header, so that its end has a valid date."""
STAGGER = 0.25
"""Pause between the POSTs of a job's variations, which could exceed a rate limit together."""
UNKNOWN = 20.0
"""How long a task that was just named may be unknown to the service."""
POLLING = 15 * 60.0
"""How long to wait for the end of a task."""
POLLS = 2.0, 3.0, 30.0
"""Pauses between queries of a task: the first, the longest, and the longest after errors."""
ROOM = 15 * 60.0
"""How long to repeat the writing of a result while the disk is full."""
WRITING = 60.0
"""How long to repeat the writing of a result that fails for any other reason."""
LOOKS = 3.0
"""Pause between two attempts to write."""
IMPORTING = 10.0
"""How long to wait for results to be imported before their files are compressed."""
IMPORTED = 0.1
"""Pause between two checks whether they are imported."""
FETCHES = (0.5, 1, 2, 4, 8, 0)
"""Pause after each attempt to fetch a picture. There are as many attempts as pauses."""


def asked_for(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, or 0 if it can't be parsed.

    The header contains seconds or a date.
    """
    try:
        return min(float(urllib3.Retry().parse_retry_after(header or "")), _MOST_ASKED)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0


def not_before(wait: float) -> str:
    """Return the message for a service that takes no edit for `wait` seconds."""
    # Round up to the next whole minute.
    moment = time.localtime(time.time() + wait + 59)
    return _(
        "The service is busy and takes no edit before {time}. Nothing was made or billed: try "
        "again then."
    ).format(time=time.strftime("%H:%M" if wait < _HALF_A_DAY else "%Y-%m-%d %H:%M", moment))


class Pace:
    """Schedules the POSTs of a job: one after the other, and none while the service is busy.

    `service` is the address of the service. If it is busy, this is noted in a file in the data
    folder, so that all jobs of the user wait.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._free = -math.inf
        """When the next POST may start, on the monotonic clock."""
        self._held = -math.inf
        """When the service last reported that it is busy, on the monotonic clock."""
        self._times = 0

    def turn(self) -> float:
        """Return 0 if a POST may start now, otherwise the seconds to wait before the next call.

        With 0, the start is taken: the next POST may start STAGGER seconds later. Raises
        NotAccepted if the wait would be too long.
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
        """Delay all POSTs, and return the seconds until the next one may start.

        Call this when the service was busy for a POST that began at `began`, on the monotonic
        clock. `wait` is the number of seconds that the service asked for. The shortest pause
        doubles with each call, up to LONGEST. POSTs that were under way together count as one call.
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
                # Clients should not all come back at the same moment, and never earlier than asked.
                wait *= random.uniform(1, _SPREAD)  # noqa: S311
            self._free = max(self._free, now + wait)
            self._tell(self._free - now)
            return self._free - now

    def _told(self) -> float:
        """Return the remaining seconds of the pause that is noted for this service, or 0."""
        try:
            note = json.loads((settings.home() / _NOTE).read_text("utf-8"))
            since, until = float(note["since"]), float(note["until"])
            own = note["service"] == self._service
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return 0
        now = time.time()
        # If the clock was set back, the note is ignored, so that no job waits longer.
        held = own and since <= now < until <= since + max(HELD, LONGEST * _SPREAD)
        return until - now if held else 0

    def _tell(self, wait: float) -> None:
        now = time.time()
        note = json.dumps({"service": self._service, "since": now, "until": now + wait})
        # Without the note, each job gets the same answer from the service itself.
        with contextlib.suppress(OSError):
            if wait > self._told():
                settings.write_private(settings.home() / _NOTE, note)


class Tries:
    """The repeated attempts of one POST."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._connections = 0
        self._ends: dict[str, float] = {}

    def wait(self, failure: NotAccepted, began: float) -> float:
        """Return the seconds to wait before a POST is repeated that ended with `failure`.

        `began` is the start of the POST, on the monotonic clock. Raises `failure` if the POST must
        not be repeated any more: after BUSY or CONNECTING seconds, depending on the kind of
        `failure`, or if the service asked for more than LONGEST seconds.
        """
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
