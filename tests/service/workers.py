"""The worker as the tests run it: commands in this process, workers of their own, jobs for them."""

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

from plugin import job
from plugin.worker import cli

CHECKOUT = Path(__file__).resolve().parents[2]
NOTHING_THERE = "http://127.0.0.1:1/v1"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which saves the start of hundreds of interpreters."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def prepared_job(photo: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> job.Job:
    """A job that is complete and was never sent; `arguments` go to the command `edit`."""
    url = os.environ["DIMILINKS_BASE_URL"]
    monkeypatch.setenv("DIMILINKS_BASE_URL", NOTHING_THERE)
    command("edit", photo, "--prompt", "echo", *arguments)
    (only,) = job.all_jobs()
    (only.folder / "state.json").unlink()
    monkeypatch.setenv("DIMILINKS_BASE_URL", url)
    return only


def worker_on(prepared: job.Job | None = None, *starter: str) -> subprocess.Popen[bytes]:
    """A worker for that job, or one that waits to hear of its job on standard input.

    A command that starts what follows it may come before.
    """
    told = [prepared.folder] if prepared else []
    return subprocess.Popen(
        [*starter, sys.executable, "-m", "plugin", "work", *told],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def aged(made: job.Job, seconds: float) -> None:
    """Let a job be as old as that by all signs, and made by a process that has ended."""
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
    """Take in a whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.startswith(b"Content-Length")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
