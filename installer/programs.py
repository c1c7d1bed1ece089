"""Start other programs with suitable environment variables, and show the progress of slow ones.

This module chooses the environment variables of every program that the installer starts. Only for
programs that run with a private GIMP, private/host.py chooses the variables one by one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .folders import say

KEY = "DIMILINKS_API_KEY"
VENV_PYTHON = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
"""The path of the interpreter, relative to the folder of a venv."""
_KEYRING = "PYTHON_KEYRING_BACKEND"
WIDTH = 60
# Seconds between two progress messages: on a terminal, where each one overwrites the last, and in
# other output, such as a log file, where each one is a new line.
EVERY_TERMINAL, EVERY = 0.5, 15


def environ(key: bool = False) -> dict[str, str]:
    """Return the environment variables for a Python or another tool that the installer starts.

    The user's PYTHON* variables are left out, because they can prevent a Python from starting or
    make it load foreign packages. Only PYTHON_KEYRING_BACKEND, the choice of a keyring, is kept.
    The variable with the API key is included only if `key` is true, for the worker.
    """
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if (key or name != KEY) and (name == _KEYRING or not name.startswith("PYTHON"))
        },
        # Let Python use UTF-8, because the locale's encoding can lack characters that occur in
        # paths and messages.
        "PYTHONUTF8": "1",
    }


def environ_of_gimp() -> dict[str, str]:
    """Return the environment variables for the user's own GIMP: all except the API key."""
    return {name: value for name, value in os.environ.items() if name != KEY}


def run(
    command: list[str], env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program without input, wait until the program ends, and capture its output.

    `env` is `environ()` by default, and `options` are passed to subprocess.run. Raises OSError if
    the program can't be started, and subprocess.TimeoutExpired if it runs longer than the option
    `timeout`.
    """
    return subprocess.run(
        command,
        env=environ() if env is None else env,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        **{"capture_output": True, **options},
    )


class CommandFailed(Exception):
    """A command could not be started, or it ended with an error after its output was shown."""


def stop(process: subprocess.Popen[Any]) -> None:
    """If `process` is still running, end it and the other processes of its session.

    `process` must have been started in a session of its own, by `start_new_session`.
    """
    if sys.platform == "win32":
        # Windows has no sessions, so end only `process`. The processes that it started end when
        # nobody reads their output any more.
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
    """Run a command, and show its latest line of output and the elapsed time on standard error.

    `env` is `environ()` by default. Added to it are variables that make messages English and keep
    apt from asking questions. If the command ends with an error, show the last lines of its output
    and raise CommandFailed. Also raise CommandFailed if the command can't be started.
    """
    started = time.monotonic()
    lines = ["starting"]
    done = threading.Event()
    terminal = sys.stderr.isatty()

    def show() -> None:
        while not done.wait(EVERY_TERMINAL if terminal else EVERY):
            text = f"  {time.monotonic() - started:3.0f} s  {lines[-1][:WIDTH]}"
            # Overwrite the rest of the old line with spaces, because some terminals have no command
            # that clears a line.
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
                **(environ() if env is None else env),
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
