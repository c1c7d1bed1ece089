"""Run slow commands and show their progress."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from . import programs
from .folders import say

WIDTH = 60
# Seconds between updates on a terminal, where one line is overwritten, and elsewhere.
EVERY_TERMINAL, EVERY = 0.5, 15


class CommandFailed(Exception):
    """A command could not be started or ended with an error; its output has been shown."""


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a session, with the processes it started there, if it still runs."""
    if sys.platform == "win32":
        # Windows has no sessions. The other processes end when nobody reads their output any more.
        process.kill()
        return
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def run_with_progress(command: list[str], env: Mapping[str, str] | None = None) -> None:
    """Run a command, and show its latest line and the elapsed time on standard error.

    `env` is programs.environ() by default. Variables for English messages and for apt without
    questions are added. If the command ends with an error, its last lines are shown and
    CommandFailed is raised. CommandFailed is also raised if it can't be started.
    """
    started = time.monotonic()
    lines = ["starting"]
    done = threading.Event()
    terminal = sys.stderr.isatty()

    def show() -> None:
        while not done.wait(EVERY_TERMINAL if terminal else EVERY):
            text = f"  {time.monotonic() - started:3.0f} s  {lines[-1][:WIDTH]}"
            # Overwrite the old text with spaces, because some terminals can't clear a line.
            shown = f"\r{text:<{WIDTH + 10}}" if terminal else f"{text}\n"
            print(shown, end="", file=sys.stderr)
            sys.stderr.flush()

    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={
                **(programs.environ() if env is None else env),
                "LC_ALL": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive",
            },
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    shower = threading.Thread(target=show, daemon=True)
    shower.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.strip():
                    lines.append(line.strip())
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    finally:
        done.set()
        shower.join()
        if terminal:
            print(f"\r{'':{WIDTH + 10}}\r", end="", file=sys.stderr, flush=True)
    if code:
        say("\n".join(lines[-20:]))
        raise CommandFailed(f"{command[0]} ended with code {code}")
    say(f"  done in {time.monotonic() - started:.0f} s")
