"""Kill workers at random moments of an edit, resume their jobs, and check the outcome.

The tests use some moments, `tests/bench/kills` uses many.
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
from plugin.errors import Kind
from plugin.job import Job, JobRequest, Status
from plugin.region import Box, plan
from plugin.worker.pictures import png_files
from plugin.worker.run import Run
from plugin.worker.sandbox import Edit, Sandbox

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "test-key"
_LONGEST = 3.6
"""Seconds within which a worker usually ends by itself."""
_UNDER_WAY = 1.2
"""Seconds within which the service makes both variations, and a little more."""
_AT_ONCE = 3


class Service(Sandbox):
    """A sandbox that also takes time to name a task, and that counts the POSTs of each prompt."""

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
    """The job of a killed worker."""

    route: str
    seconds: float
    """From the start of the worker to its end."""
    states: tuple[str, ...]
    """The states of the variations on the disk when the worker was killed."""
    tasks: tuple[bool, ...]
    """Whether each variation had the name of a task then."""
    posts: int
    """The number of POSTs that the service got, including those after the job was resumed."""
    ends: tuple[str, ...]
    """The outcomes of the variations: a state, or the kind of the failure."""
    told: bool
    """Whether each failure has a message."""

    @property
    def broken(self) -> str:
        """A description of what should not have happened, or "" if all was well."""
        if self.posts > len(self.states):
            return f"{self.posts} POSTs for {len(self.states)} variations"
        for state, task, end in zip(self.states, self.tasks, self.ends):
            safe = state in (Status.PREPARED, Status.RECEIVED) or task
            if end != (Status.RECEIVED if safe else Kind.OUTCOME_UNKNOWN):
                return f"{state} ended as {end}"
        return "" if self.told else "a failure without words"


def kills(service: Service, image: Image.Image, route: str, number: int) -> Iterator[Kill]:
    """Kill `number` workers at moments that are the same in each run, and resume their jobs.

    The settings must contain the address of `service`, because this process resumes the jobs.
    """
    # Half of the random moments are counted from the state `sent`, so that they fall into the
    # service's work on fast and slow machines.
    chance = random.Random(f"{route} {number}")
    moments = [
        ("", chance.uniform(0.3, _LONGEST))
        if n % 2
        else (Status.SENT, chance.uniform(0, _UNDER_WAY))
        for n in range(number)
    ]
    chance.shuffle(moments)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(lambda moment: _kill(service, image, route, *moment), moments)


def _kill(service: Service, image: Image.Image, route: str, after: str, seconds: float) -> Kill:
    """Kill a worker `seconds` after its job is in the state `after`, or after its start if ""."""
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
        while after and made.read_state().name != after and worker.poll() is None:
            time.sleep(0.005)
        time.sleep(seconds)
        worker.send_signal(signal.SIGKILL)
    lasted = time.monotonic() - began
    left = made.read_state().posts
    # Let the service receive what was sent before its POSTs are counted.
    time.sleep(0.1)
    for _again in range(2):
        Run(made, lambda progress: None).finish()
    ended = made.read_state().posts
    kill = Kill(
        route,
        lasted,
        tuple(post.state for post in left),
        tuple(bool(post.task) for post in left),
        service.sent[made.read_request().prompt],
        tuple(post.kind if post.state == Status.FAILED else post.state for post in ended),
        all(post.message for post in ended if post.state == Status.FAILED),
    )
    shutil.rmtree(made.folder)
    return kill


def _job(image: Image.Image) -> Job:
    """Create a job with two variations and a unique prompt."""
    whole = Box(0, 0, *image.size)
    with job.prepare() as folder:
        png_files.write(image, folder / "source.png")
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
    """Return the outcomes as a table in Markdown, by route and by state when killed."""
    lines = [
        "| route | on the disk | variations | POSTs each, at most | received | outcome unknown |",
        "|---|---|---|---|---|---|",
    ]
    for route in sorted({kill.route for kill in done}):
        for state in (Status.PREPARED, Status.SENT, Status.ACCEPTED, Status.RECEIVED):
            of = [kill for kill in done if kill.route == route and state in kill.states]
            ends = Counter(
                end for kill in of for s, end in zip(kill.states, kill.ends) if s == state
            )
            most = max((-(-kill.posts // len(kill.states)) for kill in of), default=0)
            lines.append(
                f"| {route} | {state} | {ends.total()} | {most} | {ends[Status.RECEIVED]} | "
                f"{ends[Kind.OUTCOME_UNKNOWN]} |"
            )
    return "\n".join(lines) + "\n"
