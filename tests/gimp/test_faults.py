"""Edits in real GIMPs during which something fails: each image is edited, or stays as it was."""

from __future__ import annotations

import base64
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from plugin import history
from plugin.job import Status
from plugin.worker import cli
from plugin.worker.sandbox import Sandbox
from plugin.worker.sandbox.server import Answer
from tests.gimp.conftest import Inside
from tests.service.workers import until

pytestmark = pytest.mark.gimp

SUCCESS = 3
PUBLIC = b"<html><title>Sign in to the hotel</title></html>"


class Moody(Sandbox):
    """A sandbox that causes the faults in `moods`, one at each POST.

    It finds the worker by its home folder, and the plug-in as the parent of the worker.
    """

    def __init__(self, folder: Path, moods: list[str]) -> None:
        super().__init__(keys={"test-key"})
        self._folder = folder
        self._moods = moods

    def next_answer(self) -> tuple[bool, Answer | None]:
        super().next_answer()
        mood = self._moods[self.posts - 1]
        if mood == "cut":
            time.sleep(1)
            return True, None
        if mood == "garbage":
            encoded = base64.b64encode(PUBLIC).decode()
            return True, (200, {}, {"data": [{"b64_json": encoded}]})
        worker = self._worker()
        if mood == "worker killed":
            os.kill(worker, signal.SIGKILL)
        elif mood == "plug-in killed":
            os.kill(_parent(worker), signal.SIGKILL)
            time.sleep(1)
        elif mood == "disk full":
            _give_room(worker, 0)
            threading.Timer(2, _give_room, [worker, resource.RLIM_INFINITY]).start()
        return False, None

    def _worker(self) -> int:
        mark = f"DIMILINKS_HOME={self._folder / 'home'}\0".encode()
        # The worker of an earlier edit may still run without its plug-in. The latest worker has the
        # highest process number.
        return max(
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if b"\0plugin\0work\0" in _read(process / "cmdline")
            and mark in _read(process / "environ")
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _give_room(process: int, room: int) -> None:
    resource.prlimit(process, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


@pytest.mark.campaign
def test_a_fault_leaves_the_image_edited_or_as_it_was(inside: Inside, tmp_path: Path) -> None:
    moods = ["cut", "garbage", "worker killed", "plug-in killed", "disk full", "none"]
    stories = [(mood, output) for mood in moods for output in ("new-layer", "replace")]
    with Moody(tmp_path, [mood for mood, _output in stories]) as service:
        found = inside(
            "faults",
            *[output for _mood, output in stories],
            DIMILINKS_BASE_URL=service.base_url,
            DIMILINKS_API_KEY="test-key",
        )
        by_plug_in_killed = []
        seen: set[str] = set()
        for (mood, output), edit in zip(stories, found):
            (made,) = {*edit["jobs"]} - seen
            seen.add(made)
            if mood in ("disk full", "none"):
                assert (edit["status"], edit["layers"]) == (SUCCESS, 1), (mood, edit)
                assert edit["outside"] == 0 and not edit["untouched"], (mood, edit)
                assert (edit["inside"] > 1000) == (output == "replace"), (mood, edit)
                continue
            assert edit["status"] != SUCCESS and edit["untouched"], (mood, edit)
            assert edit["message"] and "Traceback" not in edit["message"], (mood, edit)
            if mood == "plug-in killed":
                by_plug_in_killed.append(made)
        assert service.posts == len(stories)

        # A worker continues when its plug-in is killed. Resuming its job later sends nothing.
        for name in by_plug_in_killed:
            until(lambda name=name: history.find(name).read_state().name == Status.RECEIVED)
            until(lambda name=name: bool(history.find(name).read_state().posts[0].placed))
            assert cli.main(["resume", name]) == 0
        assert service.posts == len(stories)
