"""Listening to the worker, which has a job or a question, without ever blocking GIMP.

Our end of its standard input is its lifeline: when this process ends, however it ends, the worker
sees end of file. Its interpreter can break after the installation, by an upgrade of Python or a
moved home: that is found out, and mended with the installer that lies beside the plug-in.
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
    """Raise WorkerBroken if there is no interpreter to start a worker with."""
    with _told():
        launch.interpreter()


def get_ready() -> None:
    """Start a worker before there is a job for it. Raises EditError."""
    with _told():
        launch.get_ready()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Make a sentence of why a process can't be started."""
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
    """Find out whether the worker can run, and tell later if not."""
    try:
        with _told():
            process = launch.get_ready()
    except EditError:
        _later(on_broken)
        return

    def ended(code: int) -> None:
        # One that was given a job tells by that; one that was killed says nothing about the next.
        if not launch.taken(process) and code >= 0:
            on_broken()

    _aside(process.wait, ended)


def _later(call: Callable[..., None], *values: object) -> None:
    """Call it in GIMP's main loop, from any thread."""

    def once() -> bool:
        call(*values)
        return False

    GLib.idle_add(once, priority=GLib.PRIORITY_DEFAULT)


def _aside(work: Callable[[], T], then: Callable[[T], None]) -> None:
    """Do in a thread what takes a while, and hand on in the main loop what came of it."""
    threading.Thread(target=lambda: _later(then, work()), daemon=True).start()


def _listen(
    process: subprocess.Popen[bytes], on_line: Callable[[bytes], None], on_end: Callable[[], None]
) -> None:
    """Hand on in the main loop what a process says, line by line, and that it says no more."""

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
    """Make the worker's environment anew, and write down its interpreter.

    `on_line` is told what the installer says meanwhile; `on_end` is told "" at last, or why it
    failed. Returns what calls it off; where it can, the installer takes along what it has begun.
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
    """Run a command of the worker that answers with an object of JSON, and hand that on later.

    `stdin` is what it reads: the place for what must not stand on a command line. Where there is
    no answer, it is {"message": a sentence for the user}.
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
    """Read the last line of `out`; a library's own words may stand before it."""
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(out.splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    # The commands end with one sentence when something is wrong, and with more if we are.
    sentence = err if err and "\n" not in err else ""
    return {
        "message": sentence or _("The part of Dimilinks that talks to the service gave no answer.")
    }


class WorkerProcess:
    """A worker at work on one job.

    `on_phase` is told how it gets on, again and again: {"phase": …} with, where they apply,
    "variation" (from 1), "sent" and "total" (bytes), "progress" (percent, of waiting) and "note" (a
    sentence: why it is not sent yet). `on_end` is called once, when the worker has nothing more to
    say and `job.state` is final. One that is to `collect` sees to its end what was sent, and sends
    nothing. Raises EditError.
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
            # One that has broken down can't hear it: how that ends is seen below.
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
        _listen(self._process, self._heard, on_end)

    def let_go(self) -> None:
        """Call the worker off: it sends nothing more, and sees to its end what it has sent."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End the worker, whatever it is doing."""
        self._process.kill()

    def _heard(self, line: bytes) -> None:
        # A library's own words on standard output are not for us.
        with contextlib.suppress(ValueError):
            progress = json.loads(line)
            if isinstance(progress, dict) and "phase" in progress:
                self._on_phase(progress)
