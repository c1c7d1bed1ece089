"""Updating and uninstalling while an edit is under way: the edit continues, and is kept."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from installer import environment, payload
from plugin.gimp.process import launch
from plugin.job import Job, Status
from plugin.worker.sandbox import Sandbox
from tests.installer.kills import copy_checkout
from tests.service.workers import prepared_job, until

CHECKOUT = Path(__file__).resolve().parents[2]


_workers: list[subprocess.Popen[bytes]] = []


class SlowService(Sandbox):
    """A sandbox that answers once `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__(keys={"test-key"})
        self.may_answer = threading.Event()

    def _make(self, *arguments: Any) -> tuple[bytes, str]:
        self.may_answer.wait(300)
        return super()._make(*arguments)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowService]:
    with SlowService() as running:
        monkeypatch.setenv("DIMILINKS_BASE_URL", running.base_url)
        monkeypatch.setenv("DIMILINKS_API_KEY", "test-key")
        yield running
        running.may_answer.set()


@pytest.fixture
def profile(user: Path, installer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a profile with the plug-in, from which `launch` starts workers."""
    folder = user / "3.0"
    assert installer("--gimp-dir", folder).returncode == 0
    monkeypatch.setattr(launch, "_ROOT", payload.plugin_folder(folder))
    monkeypatch.setattr(launch, "NOTE", payload.plugin_folder(folder) / payload.WORKER_PYTHON)
    monkeypatch.setattr(launch, "_ready", None)
    yield folder
    for worker in _workers:
        with worker:
            worker.kill()
    _workers.clear()


@pytest.fixture
def photo(tmp_path: Path, coffee: Image.Image) -> Path:
    path = tmp_path / "photo.png"
    coffee.crop((0, 0, 256, 256)).save(path)
    return path


def give(job: Job) -> subprocess.Popen[bytes]:
    """Start a worker of the plug-in for a job, as the window does."""
    worker = launch.take()
    _workers.append(worker)
    assert worker.stdin is not None
    task = {"folder": str(job.folder), "language": "", "collect": False}
    worker.stdin.write(json.dumps(task).encode() + b"\n")
    return worker


def sent(job: Job, service: SlowService) -> subprocess.Popen[bytes]:
    """Start a worker for a job, and return it when it waits for the answer."""
    worker = give(job)
    until(lambda: service.posts == 1 or worker.poll() is not None)
    assert worker.poll() is None
    return worker


def ended_well(job: Job, worker: subprocess.Popen[bytes], service: SlowService) -> None:
    service.may_answer.set()
    worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert [post.state for post in job.read_state().posts] == [Status.RECEIVED], (
        job.read_state().messages
    )
    assert (job.folder / job.read_state().posts[0].placed).is_file()
    assert service.posts == 1


def environment_of(profile: Path) -> Path:
    return Path(payload.worker_pythons(profile)[""]).parents[1]


def test_an_update_leaves_the_environment_to_the_edit_that_is_under_way(
    profile, installer, wheels, service, photo, tmp_path, monkeypatch
):
    job = prepared_job(photo, monkeypatch)
    worker = sent(job, service)
    former = environment_of(profile)
    newer = tmp_path / "newer"
    copy_checkout(newer)
    # A comment is enough to make this another list of packages.
    with (newer / "installer/requirements.txt").open("a") as file:
        file.write("# newer\n")
    update = ("--gimp-dir", profile, "--wheels", wheels)
    done = installer(*update, cwd=newer)
    assert done.returncode == 0, done.stderr
    assert environment_of(profile) != former
    said = re.search(
        r"^Left (.*): Dimilinks is at work there \(process (\d+)\)\.", done.stdout, re.M
    )
    assert said and (said[1], said[2]) == (str(former), str(worker.pid))
    ended_well(job, worker, service)
    assert installer(*update, cwd=newer).returncode == 0
    assert not former.exists()
    assert environment.runs(payload.worker_pythons(profile)[""])


@pytest.mark.parametrize("option", ["", "--everything"])
def test_uninstalling_leaves_what_an_edit_needs_that_is_under_way(
    profile, data, home, installer, service, photo, monkeypatch, option
):
    job = prepared_job(photo, monkeypatch)
    worker = sent(job, service)
    former = environment_of(profile)
    words = filter(None, ("uninstall", option))
    done = installer(*words)
    assert done.returncode == 0, done.stderr
    assert not payload.is_installed(profile)
    assert f"Left {former}: Dimilinks is at work there (process {worker.pid})" in done.stdout
    if option:
        assert f"Left {job.folder}: this edit is under way" in done.stdout
    ended_well(job, worker, service)
    done = installer("uninstall", "--everything")
    assert str(data) not in done.stdout and "under way" not in done.stdout
    assert not home.exists()
    assert not list(data.iterdir())


def test_a_broken_environment_is_exchanged_under_an_edit_that_goes_on(
    profile, installer, wheels, service, photo, monkeypatch
):
    job = prepared_job(photo, monkeypatch)
    worker = sent(job, service)
    place = environment_of(profile)
    shutil.rmtree(next(place.glob("lib/python*/site-packages/requests")))
    done = installer("python", "--wheels", wheels)
    assert done.returncode == 0, done.stderr
    assert environment.runs(done.stdout.strip())
    assert f"process {worker.pid}" in environment.discard(place)
    ended_well(job, worker, service)
    assert environment.discard(place) == ""
    assert not place.exists()


def test_a_worker_that_starts_while_its_environment_is_removed_sends_nothing(
    profile, service, photo, monkeypatch
):
    job = prepared_job(photo, monkeypatch)
    lock = environment_of(profile) / environment.IN_USE
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        python = launch.interpreter()
        with launch.start([python, "-m", "plugin", "resume", job.id]) as worker:
            _out, err = worker.communicate()
    assert worker.returncode == 1
    assert err.decode() == "Dimilinks is being updated or removed: try again in a minute.\n"
    assert service.posts == 0


def test_an_open_window_edits_on_after_an_update(
    profile, installer, photo, sandbox, tmp_path, monkeypatch
):
    """The first edit uses the worker that was ready before, the second one uses the new files."""
    launch.spare()
    newer = tmp_path / "newer"
    copy_checkout(newer)
    version = newer / "plugin/__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    done = installer("--gimp-dir", profile, cwd=newer)
    assert "Installed Dimilinks 9." in done.stdout
    for number in (1, 2):
        job = prepared_job(photo, monkeypatch)
        worker = give(job)
        assert worker.stdout is not None
        # The worker's standard input stays open, because the window is still there.
        worker.stdout.read()
        worker.wait(60)
        assert worker.returncode == 0
        assert [post.state for post in job.read_state().posts] == [Status.RECEIVED], (
            job.read_state().messages
        )
        assert sandbox.posts == number
        shutil.rmtree(job.folder)
