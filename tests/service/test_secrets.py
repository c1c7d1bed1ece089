"""The key and signed links never appear in files, messages or the process list."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plugin import job, settings, storage
from plugin.worker import key_store
from plugin.worker.sandbox import Sandbox
from tests.service import kills
from tests.service.workers import CHECKOUT, command

KEY = "sk-planted/secret+key=1"
SPELLINGS = (
    KEY,
    "sk-planted%2Fsecret%2Bkey%3D1",
    base64.b64encode(KEY.encode()).decode(),
    base64.b64encode(f"Bearer {KEY}".encode()).decode(),
)
PROMPT = "a wish that is nobody's business"


class _ProcessList:
    """Collects all command lines in the process list while the context is active."""

    def __enter__(self) -> _ProcessList:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self.seen.add((process / "cmdline").read_bytes())
                except OSError:
                    continue


@pytest.fixture(params=["environment", "file", "keyring"])
def planted(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Store the key in one of its places, and yield the only file that may contain it."""
    kept = tmp_path / "keyring"
    if request.param == "environment":
        monkeypatch.setenv("DIMILINKS_API_KEY", KEY)
    elif request.param == "file":
        storage.write_private(settings.key_file(), KEY)
        kept = settings.key_file()
    else:
        monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.service.fake_keyring.InFile")
        monkeypatch.setenv("FAKE_KEYRING", str(kept))
        assert key_store.store(KEY) == settings.KEYRING
    yield kept


def _replies() -> list[Any]:
    """Return answers that make an edit fail, most of them with the key in them."""
    replies: list[Any] = [None]
    for quoted in SPELLINGS:
        message = f"no {quoted} here, see https://x.example/?exp=1&sig=abcdefgh"
        replies += [
            (401, {}, {"error": {"message": message, "code": "invalid_api_key"}}),
            (500, {"X-Key": quoted, "Set-Cookie": f"key={quoted}"}, message.encode()),
            (302, {"Location": f"https://{quoted}@elsewhere.example/?sig=abcdefgh"}, b""),
            (200, {}, {"task_id": quoted, "data": []}),
        ]
    return replies


def _work(made: job.Job) -> str:
    """Run a worker as the plug-in does, wait for its end, and return its output."""
    with (made.folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "plugin", "work", made.folder],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert process.stdin and process.stdout
        told = process.stdout.read().decode()
        process.wait(60)
        process.stdin.close()
        process.stdout.close()
    return told


@pytest.mark.parametrize("route", settings.ROUTES)
@pytest.mark.slow
def test_no_secret_is_left_anywhere(
    planted: Path,
    route: str,
    home: Path,
    coffee: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIMILINKS_ROUTE", route)
    said = []
    with Sandbox(keys={KEY}) as service, _ProcessList() as processes:
        monkeypatch.setenv("DIMILINKS_BASE_URL", service.base_url)
        first = kills._job(coffee.resize((60, 40)))
        said.append(_work(first))
        assert first.read_state().name == job.Status.RECEIVED
        # Run the rest in this process, which is faster.
        photo = tmp_path / "photo.png"
        coffee.resize((60, 40)).save(photo)
        for reply in _replies():
            service.answers.append(reply)
            done = command("edit", photo, "--prompt", PROMPT)
            assert done.returncode == 1
            said += [done.stdout, done.stderr]
        # One answer for each variation of the job.
        service.answers += [(401, {}, {"error": {"message": f"no {KEY}"}})] * 2
        second = kills._job(coffee.resize((60, 40)))
        said.append(_work(second))
        assert second.read_state().name == job.Status.FAILED
        said.append(command("service", "--test").stdout)
        said.append(command("jobs").stdout)
    files = [file for file in home.rglob("*") if file.is_file() and file != planted]
    assert len(files) > 50 and any(file.name == "worker.log" for file in files)
    left = {str(file): file.read_bytes() for file in files}
    left["what was said"] = "".join(said).encode()
    left["process list"] = b"\n".join(processes.seen)
    assert any(b"plugin\0work" in line for line in processes.seen)
    for place, data in left.items():
        for secret in (*SPELLINGS, json.dumps(KEY)[1:-1], "sig=", "abcdefgh"):
            assert secret.encode() not in data, (place, secret)
    assert os.environ.get("DIMILINKS_API_KEY") or KEY in planted.read_text()
