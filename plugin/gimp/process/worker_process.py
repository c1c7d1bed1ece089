"""Communicate with the worker without ever blocking GIMP.

The worker notices when this process ends, for whatever reason, because its standard input then
ends. The worker's interpreter can break after the installation, when Python is upgraded or the home
folder moves. This module detects a broken interpreter, and repairs the virtual environment that
contains the interpreter with the installer, which is part of the plug-in.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from gi.repository import GLib

from plugin.errors import UserError, WorkerBroken
from plugin.gimp.process import launch
from plugin.gimp.translation import _, language
from plugin.job import Job
from plugin.progress import Progress, Report

T = TypeVar("T")


def check_interpreter() -> None:
    """Raise WorkerBroken if the worker's interpreter doesn't exist."""
    with _as_user_errors():
        launch.interpreter()


def start_spare() -> None:
    """Start a worker before there is a job for it. Raises UserError if it can't be started."""
    with _as_user_errors():
        launch.spare()


@contextlib.contextmanager
def _as_user_errors() -> Iterator[None]:
    """Convert an OSError from starting a process to a UserError with a message for the user.

    FileNotFoundError becomes WorkerBroken.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise WorkerBroken(
            _(
                "The part of Dimilinks that talks to the service is missing or broken. To repair "
                "it, choose Filters ▸ Dimilinks ▸ Edit with AI… and press Fix It, or install "
                "Dimilinks again. Then try again."
            )
        ) from error
    except OSError as error:
        raise UserError(
            _(
                "The part of Dimilinks that talks to the service can't start ({why}). Try "
                "again. If this does not help, install Dimilinks again."
            ).format(why=error.strerror or error)
        ) from error


def watch_spare(on_broken: Callable[[], None]) -> None:
    """Start a worker to find out whether it can run, and call `on_broken` later if it can't."""
    try:
        with _as_user_errors():
            process = launch.spare()
    except UserError:
        _later(on_broken)
        return

    def ended(code: int) -> None:
        # Ignore a worker that was given a job, because it reports problems itself. Ignore also a
        # worker that was killed by a signal (code < 0), because the next worker may run.
        if not launch.taken(process) and code >= 0:
            on_broken()

    _aside(process.wait, ended)


def _later(call: Callable[..., None], *values: object) -> None:
    """Let the main loop of this process call a function. Any thread can use `_later`."""

    def once() -> bool:
        call(*values)
        return False

    GLib.idle_add(once, priority=GLib.PRIORITY_DEFAULT)


def _aside(work: Callable[[], T], then: Callable[[T], None]) -> None:
    """Call `work` in a new thread, and then call `then` with the return value in the main loop."""
    threading.Thread(target=lambda: _later(then, work()), daemon=True).start()


def _listen(
    process: subprocess.Popen[bytes], on_line: Callable[[bytes], None], on_end: Callable[[], None]
) -> None:
    """Call `on_line` for each line that a process prints, and `on_end` when its output ends.

    Both functions are called in the main loop.
    """

    def listen() -> None:
        assert process.stdout is not None
        rest = b""
        while piece := process.stdout.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                _later(on_line, line.strip())
        _later(on_end)
        process.wait()

    threading.Thread(target=listen, daemon=True).start()


def mend(on_line: Callable[[str], None], on_end: Callable[[str], None]) -> Callable[[], None]:
    """Run the installer to rebuild the worker's environment, and record its new interpreter.

    `on_line` is called with each line that the installer prints. `on_end` is called once, with the
    reason if the repair failed, otherwise with "". Return a function that stops the installer. If
    possible, a stopped installer removes the files that it has created.
    """
    try:
        command = [*launch.installers_python(), "-m", "installer", "python"]
        process = launch.start(
            command, subprocess.DEVNULL, subprocess.STDOUT, language(), key=False
        )
    except OSError as error:
        _later(on_end, str(error))
        return lambda: None
    said = [b""]

    def heard(line: bytes) -> None:
        if line:
            said.append(line)
            on_line(line.decode("utf-8", "replace"))

    def ended() -> None:
        if process.wait() != 0:
            on_end(
                said[-1].decode("utf-8", "replace") or _("The installer ended without a message.")
            )
            return
        try:
            # The last line is the path of the interpreter, whose bytes need not be UTF-8.
            launch.record(os.fsdecode(said[-1]))
        except OSError as error:
            on_end(f"{error.strerror}: {launch.NOTE}")
        else:
            on_end("")

    _listen(process, heard, ended)
    return process.terminate


def ask(words: list[str], on_answer: Callable[[dict[str, Any]], None], stdin: str = "") -> None:
    """Run a command of the worker, and call `on_answer` later with the JSON object that it prints.

    `words` are the arguments of the command. `stdin` is sent to its standard input; use it for the
    API key, which other users could read in a command line. If the command prints no object,
    `on_answer` gets {"message": …}, with a message for the user.
    """
    try:
        with _as_user_errors():
            command = [launch.interpreter(), "-m", "plugin", *words]
            process = launch.start(command, language=language())
    except UserError as error:
        _later(on_answer, {"message": str(error)})
        return

    def answered(said: tuple[bytes, bytes]) -> None:
        out, err = (each.decode("utf-8", "replace").strip() for each in said)
        on_answer(_answer(out, err))

    _aside(lambda: process.communicate(stdin.encode("utf-8")), answered)


def _answer(out: str, err: str) -> dict[str, Any]:
    """Return the JSON object in the last line of `out`. Libraries may have printed lines before it.

    If the last line contains no object, return {"message": …}, with a message for the user.
    """
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(out.splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    # A command that fails prints one sentence for the user. If there are more lines, the command
    # has crashed and printed a traceback, which the user should not see.
    sentence = err if err and "\n" not in err else ""
    return {
        "message": sentence
        or _("The part of Dimilinks that talks to the service did not answer. Try again.")
    }


class WorkerProcess:
    """A worker that works on one job.

    `report` is called repeatedly with the worker's progress. `on_end` is called once, when the
    worker's output has ended and `job.read_state()` is final. If `collect` is true, the worker
    sends no variations, and only gets the answers to variations that were sent before and fits
    them. Raises UserError if no worker can be started.
    """

    def __init__(
        self,
        job: Job,
        report: Report,
        on_end: Callable[[], None],
        collect: bool = False,
    ) -> None:
        self._report = report
        with _as_user_errors():
            self._process = launch.take()
        task = {"folder": str(job.folder), "language": language(), "collect": collect}
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            # Writing fails if the worker has already ended. In this case, `_listen` calls `on_end`.
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
        _listen(self._process, self._heard, on_end)

    def let_go(self) -> None:
        """Make the worker send no more variations. It still finishes those that it has sent."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """Kill the worker immediately, even if it waits for an answer."""
        self._process.kill()

    def _heard(self, line: bytes) -> None:
        # Ignore what libraries print to standard output.
        if progress := Progress.from_line(line):
            self._report(progress)
