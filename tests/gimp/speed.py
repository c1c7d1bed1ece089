"""Measure the time and the memory of edits in a real GIMP, with a service that answers at once.

The tests make a few edits, `tests/bench/speed` makes those for the figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.private.host import PrivateGimp
from tests.gimp.run_inside import run_inside
from tests.service.instant import InstantService

Found = dict[str, Any]
PLAIN = Path(__file__).with_name("plain_plug_in.py")
KINDS = {"plug-in": b"dimilinks_gimp.py\0", "worker": b"\0plugin\0work\0"}
"""The two processes of an edit, each with a part of its command line."""


@dataclass(frozen=True)
class Timed:
    """What `scripts/speed.py` found for each case, and what the service and the watch recorded."""

    found: list[Found]
    arrived: list[tuple[float, int]]
    """The time of each request, in seconds since 1970, and its length in bytes."""
    most_at_once: int
    peaks: list[tuple[float, str, float]]
    """The time at which each process was first seen, its kind, and its peak memory in MB."""

    def request(self, edit: Found) -> tuple[float, int]:
        """Return when the edit's first request arrived, and its length.

        The time is in seconds after the call, and the length in bytes.
        """
        at, size = next(each for each in self.arrived if each[0] > edit["began"])
        return at - edit["began"], size

    def peak(self, edit: Found, kind: str) -> float:
        """Return the highest peak memory, in MB, of the edit's processes of this kind."""
        end = edit["began"] + edit["seconds"]
        return max(mb for at, k, mb in self.peaks if k == kind and edit["began"] <= at <= end)


def run(
    gimp: PrivateGimp,
    folder: Path,
    photographs: Path,
    cases: list[dict[str, Any]],
    thinking: float = 0,
) -> Timed:
    """Make the edits of all cases. `scripts/speed.py` says what a case may contain.

    `folder` must be empty. The service takes `thinking` seconds for each edit.
    """
    install_plain(gimp)
    with InstantService(thinking) as service, _Watch(folder / "home") as watch:
        found = run_inside(
            gimp,
            folder,
            photographs,
            "speed",
            json.dumps(cases),
            DIMILINKS_BASE_URL=service.base_url,
            DIMILINKS_API_KEY="test-key",
        )
    return Timed(found, service.arrived, service.most_at_once, list(watch.seen.values()))


def install_plain(gimp: PrivateGimp) -> Path:
    """Install the plain plug-in in this GIMP, and return its file."""
    installed = gimp.profile / "plug-ins" / "plain" / "plain.py"
    installed.parent.mkdir(exist_ok=True)
    shutil.copy(PLAIN, installed)
    installed.chmod(0o755)
    return installed


class _Watch(contextlib.AbstractContextManager["_Watch"]):
    """A context manager that records the peak memory of the processes of edits."""

    def __init__(self, home: Path) -> None:
        self.seen: dict[str, tuple[float, str, float]] = {}
        self._mark = f"DIMILINKS_HOME={home}".encode()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._ending.wait(0.025):
            for process in filter(str.isdecimal, os.listdir("/proc")):
                # The process may have ended meanwhile.
                with contextlib.suppress(OSError):
                    self._look(process)

    def _look(self, process: str) -> None:
        folder = Path("/proc", process)
        # Until a new process executes its program, it has the command line of its parent. Its kind
        # is therefore determined again each time.
        command = (folder / "cmdline").read_bytes()
        kind = next((kind for kind, words in KINDS.items() if words in command), "")
        if not kind or self._mark not in (folder / "environ").read_bytes().split(b"\0"):
            return
        first, _kind, most = self.seen.get(process, (time.time(), "", 0.0))
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("VmHWM"):
                most = int(line.split()[1]) / 1000
        self.seen[process] = first, kind, most
