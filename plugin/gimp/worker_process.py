"""Communicate with the worker without ever blocking GIMP.

The worker's standard input shows it whether this process still exists: when this process ends, for
whatever reason, the worker reads the end of the file. The worker's interpreter can break after the
installation, when Python is upgraded or the home folder moves. This module detects that, and
repairs the environment with the installer, which is part of the plug-in.
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

from plugin.gimp import launch
from plugin.gimp.messages import EditError, WorkerBroken, _, language
from plugin.job import Job

T = TypeVar("T")


def check() -> None:
    """Raise WorkerBroken if there is no interpreter for the worker."""
    with _told():
        launch.interpreter()


def get_ready() -> None:
    """Start a worker before there is a job for it. Raises EditError."""
    with _told():
        launch.get_ready()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Convert the errors of starting a process to EditErrors with a message for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise WorkerBroken(
            _(
                "The part of Dimilinks that talks to the service is missing or broken. Mend it in "
                "the window of Filters ▸ Dimilinks ▸ Edit with AI…, or with “python3 -m installer” "
                "from the Dimilinks folder, then try again."
            )
        ) from error
    except OSError as error:
        raise EditError(
            _("The part of Dimilinks that talks to the service can't start: {why}").format(
                why=error.strerror or error
            )
        ) from error


def look(on_broken: Callable[[], None]) -> None:
    """Find out whether the worker can run, and call `on_broken` later if it can't."""
    try:
        with _told():
            process = launch.get_ready()
    except EditError:
        _later(on_broken)
        return

    def ended(code: int) -> None:
        # A worker that was given a job reports problems itself. One that was killed doesn't mean
        # that the next one can't run.
        if not launch.taken(process) and code >= 0:
            on_broken()

    _aside(process.wait, ended)


def _later(call: Callable[..., None], *values: object) -> None:
    """Call a function in GIMP's main loop. This may be used in any thread."""

    def once() -> bool:
        call(*values)
        return False

    GLib.idle_add(once, priority=GLib.PRIORITY_DEFAULT)


def _aside(work: Callable[[], T], then: Callable[[T], None]) -> None:
    """Call `work` in a thread, and `then` with its result in GIMP's main loop."""
    threading.Thread(target=lambda: _later(then, work()), daemon=True).start()


def _listen(
    process: subprocess.Popen[bytes], on_line: Callable[[bytes], None], on_end: Callable[[], None]
) -> None:
    """Call `on_line` for each line that a process prints, and `on_end` when it prints no more.

    Both are called in GIMP's main loop.
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
    """Rebuild the worker's environment, and record its interpreter.

    `on_line` is called with each line that the installer prints. `on_end` is called once, with ""
    or the reason of a failure. Return a function that stops the installer. Where possible, the
    installer then removes what it has begun.
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
            on_end(said[-1].decode("utf-8", "replace") or _("The installer gave no answer."))
            return
        try:
            # The bytes of a path need not be UTF-8.
            launch.note(os.fsdecode(said[-1]))
        except OSError as error:
            on_end(f"{error.strerror}: {launch.NOTE}")
        else:
            on_end("")

    _listen(process, heard, ended)
    return process.terminate


def ask(words: list[str], on_answer: Callable[[dict[str, Any]], None], stdin: str = "") -> None:
    """Run a command of the worker, and call `on_answer` later with the JSON object that it prints.

    `stdin` is sent to the command's standard input. Use it for what must not appear in a command
    line. Without an answer, the object is {"message": …}, with a message for the user.
    """
    try:
        with _told():
            command = [launch.interpreter(), "-m", "plugin", *words]
            process = launch.start(command, language=language())
    except EditError as error:
        _later(on_answer, {"message": str(error)})
        return

    def answered(said: tuple[bytes, bytes]) -> None:
        out, err = (each.decode("utf-8", "replace").strip() for each in said)
        on_answer(_answer(out, err))

    _aside(lambda: process.communicate(stdin.encode("utf-8")), answered)


def _answer(out: str, err: str) -> dict[str, Any]:
    """Return the JSON object in the last line of `out`, or one with a message if there is none.

    Libraries may print lines before it.
    """
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(out.splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    # When something is wrong, commands print one sentence. A crash of the command prints more.
    sentence = err if err and "\n" not in err else ""
    return {
        "message": sentence or _("The part of Dimilinks that talks to the service gave no answer.")
    }


class WorkerProcess:
    """A worker that works on one job.

    `on_phase` is called repeatedly with the progress: {"phase": …} and, where they apply,
    "variation" (from 1), "sent" and "total" (bytes), "progress" (percent of the wait) and "note"
    (why nothing was sent yet). `on_end` is called once, when the worker reports no more and
    `job.state` is final. With `collect`, the worker sends nothing, and only finishes what was sent
    before. Raises EditError if no worker can be started.
    """

    def __init__(
        self,
        job: Job,
        on_phase: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
        collect: bool = False,
    ) -> None:
        self._on_phase = on_phase
        with _told():
            self._process = launch.take()
        task = {"folder": str(job.folder), "language": language(), "collect": collect}
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            # A broken worker can't read this. Its end is noticed below.
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
        _listen(self._process, self._heard, on_end)

    def let_go(self) -> None:
        """Let the worker send nothing more. It finishes what it has sent."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """Kill the worker, whatever it is doing."""
        self._process.kill()

    def _heard(self, line: bytes) -> None:
        # Ignore what libraries print to standard output.
        with contextlib.suppress(ValueError):
            progress = json.loads(line)
            if isinstance(progress, dict) and "phase" in progress:
                self._on_phase(progress)
