"""Helpers to run the worker in tests: in this process or in a process of its own, and jobs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin import history, job
from plugin.worker import cli

CHECKOUT = Path(__file__).resolve().parents[2]
NOTHING_THERE = "http://127.0.0.1:1/v1"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the worker's command line in this process, which is faster than a new interpreter."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def prepared_job(photo: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> job.Job:
    """Create a job that was never sent. `arguments` are those of the command `edit`."""
    url = os.environ["DIMILINKS_BASE_URL"]
    monkeypatch.setenv("DIMILINKS_BASE_URL", NOTHING_THERE)
    command("edit", photo, "--prompt", "echo", *arguments)
    (only,) = history.all_jobs()
    (only.folder / "state.json").unlink()
    monkeypatch.setenv("DIMILINKS_BASE_URL", url)
    return only


def worker_on(prepared: job.Job | None = None, *starter: str) -> subprocess.Popen[bytes]:
    """Start a worker for a job, or one that waits for its job on standard input.

    `starter` is a command that starts the command that follows it.
    """
    told = [prepared.folder] if prepared else []
    return subprocess.Popen(
        [*starter, sys.executable, "-m", "plugin", "work", *told],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def aged(made: job.Job, seconds: float) -> None:
    """Make a job look `seconds` old, and as if its creator had ended."""
    then = time.time() - seconds
    saved = json.loads((made.folder / "request.json").read_text("utf-8"))
    (made.folder / "request.json").write_text(json.dumps({**saved, "created": then}), "utf-8")
    (made.folder / "maker").write_text("maker-000000000000")
    for file in made.folder.iterdir():
        os.utime(file, (then, then))


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def read_request(connection: socket.socket) -> None:
    """Read a complete request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.startswith(b"Content-Length")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
