"""Killing workers at any moment of an edit, and resuming: what was sent, what came of it.

Used by the tests for some moments, by `tests/bench/kills` for many.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from PIL import Image

from plugin import job
from plugin.job import ACCEPTED, FAILED, PREPARED, RECEIVED, SENT, Job, JobRequest
from plugin.region import Box, plan
from plugin.worker import picture
from plugin.worker.failure import Failure
from plugin.worker.run import Run
from plugin.worker.sandbox import Edit, Sandbox

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "test-key"
_LONGEST = 3.6
"""Seconds in which a worker mostly ends by itself."""
_UNDER_WAY = 1.2
"""Seconds that the service takes for both variations, and a little more."""
_AT_ONCE = 3


class Service(Sandbox):
    """Takes its time also before it names a task, and counts the POSTs of each prompt."""

    def __init__(self) -> None:
        super().__init__(keys={KEY}, thinking=0.8)
        self.sent: Counter[str] = Counter()

    def generate(self, key: str, query: str, body: bytes, headers: Message) -> dict[str, Any]:
        answer = super().generate(key, query, body, headers)
        time.sleep(0.3)
        return answer

    def _taken(self, key: str, edit: Edit) -> Any:
        with self._lock:
            self.sent[edit.fields["prompt"]] += 1
        return super()._taken(key, edit)


@dataclass(frozen=True)
class Kill:
    """A killed worker's job."""

    route: str
    seconds: float
    """From its start to its end."""
    states: tuple[str, ...]
    """Of the variations, as they were on the disk then."""
    tasks: tuple[bool, ...]
    """Whether there was a task's name."""
    posts: int
    """All that the service got, at last."""
    ends: tuple[str, ...]
    """What became of the variations: a state, or the kind of the failure."""
    told: bool
    """Whether each failure has words."""

    @property
    def broken(self) -> str:
        """What should not have happened; "" if all is well."""
        if self.posts > len(self.states):
            return f"{self.posts} POSTs for {len(self.states)} variations"
        for state, task, end in zip(self.states, self.tasks, self.ends):
            safe = state in (PREPARED, RECEIVED) or task
            if end != (RECEIVED if safe else Failure.OUTCOME_UNKNOWN):
                return f"{state} ended as {end}"
        return "" if self.told else "a failure without words"


def kills(service: Service, image: Image.Image, route: str, number: int) -> Iterator[Kill]:
    """Kill that many workers, at moments that are the same each time, and resume their jobs.

    The settings must lead to `service`; it is asked by this process too.
    """
    # Chance that can be repeated; half of them where something is under way, on any machine.
    chance = random.Random(f"{route} {number}")
    moments = [
        ("", chance.uniform(0.3, _LONGEST)) if n % 2 else (SENT, chance.uniform(0, _UNDER_WAY))
        for n in range(number)
    ]
    chance.shuffle(moments)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda moment: _kill(service, image, route, *moment), moments)


def _kill(service: Service, image: Image.Image, route: str, after: str, seconds: float) -> Kill:
    """Kill a worker so long after its job has come to a state, or after its start."""
    made = _job(image)
    began = time.monotonic()
    worker = subprocess.Popen(
        [sys.executable, "-m", "plugin", "work", made.folder],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "DIMILINKS_ROUTE": route},
    )
    with worker:
        while after and made.state.name != after and worker.poll() is None:
            time.sleep(0.005)
        time.sleep(seconds)
        worker.send_signal(signal.SIGKILL)
    lasted = time.monotonic() - began
    left = made.state.posts
    # The service has what was sent before anybody counts.
    time.sleep(0.1)
    for _again in range(2):
        Run(made, lambda progress: None).finish()
    ended = made.state.posts
    kill = Kill(
        route,
        lasted,
        tuple(post.state for post in left),
        tuple(bool(post.task) for post in left),
        service.sent[made.request.prompt],
        tuple(post.kind if post.state == FAILED else post.state for post in ended),
        all(post.message for post in ended if post.state == FAILED),
    )
    shutil.rmtree(made.folder)
    return kill


def _job(image: Image.Image) -> Job:
    """A job of two variations; its prompt is its own."""
    whole = Box(0, 0, *image.size)
    with job.prepare() as folder:
        picture.write_own(image, folder / "source.png")
        return job.publish(
            folder,
            JobRequest(
                f"warmer {secrets.token_hex(6)}",
                "gpt-image-2",
                plan(whole, whole, "auto", "1k"),
                variations=2,
                repair=False,
            ),
        )


def table(done: list[Kill]) -> str:
    """What came of them, by the state that was on the disk when the worker was killed."""
    lines = [
        "| route | on the disk | variations | POSTs each, at most | received | outcome unknown |",
        "|---|---|---|---|---|---|",
    ]
    for route in sorted({kill.route for kill in done}):
        for state in (PREPARED, SENT, ACCEPTED, RECEIVED):
            of = [kill for kill in done if kill.route == route and state in kill.states]
            ends = Counter(
                end for kill in of for s, end in zip(kill.states, kill.ends) if s == state
            )
            most = max((-(-kill.posts // len(kill.states)) for kill in of), default=0)
            lines.append(
                f"| {route} | {state} | {ends.total()} | {most} | {ends[RECEIVED]} | "
                f"{ends[Failure.OUTCOME_UNKNOWN]} |"
            )
    return "\n".join(lines) + "\n"
