"""Starting the worker, for a job or a question, and listening to it, without ever blocking GIMP.

Our end of its standard input is its lifeline: when this process ends, however it ends, the worker
sees end of file. Its interpreter can break after the installation, by an upgrade of Python or a
moved home: that is found out, and mended with the installer that lies beside the plug-in.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gi.repository import Gio, GLib

from plugin.gimp.messages import EditError, WorkerBroken, _, language
from plugin.job import Job

_ROOT = Path(__file__).resolve().parents[2]
_NOTE = _ROOT / "worker-python.txt"


def interpreter() -> str:
    """Return the worker's interpreter, as the installer wrote it down. Raises WorkerBroken."""
    path = _noted().get(_place(), "")
    if not path or not Path(path).exists():
        raise WorkerBroken(
            _(
                "The part of Dimilinks that talks to the service is missing or broken. Mend it in "
                "the window of Filters ▸ Dimilinks ▸ Edit with AI…, or with “python3 -m installer” "
                "from the Dimilinks folder, then try again."
            )
        )
    return path


def _place() -> str:
    """Where this process runs: "" for the machine itself, else the sandbox that GIMP is in."""
    if Path("/.flatpak-info").exists():
        return "flatpak"
    return "snap" if os.environ.get("SNAP_NAME") == "gimp" else ""


def _noted() -> dict[str, str]:
    """The interpreters by place; a line is `PATH`, or `PLACE`, a tab and `PATH`."""
    try:
        lines = _NOTE.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    parts = [line.strip().rpartition("\t") for line in lines]
    return {place: path for place, _tab, path in parts}


_ready: Gio.Subprocess | None = None
"""A worker that has no job yet."""
_on_broken: Callable[[], None] | None = None


def get_ready() -> None:
    """Start a worker before there is a job for it: its libraries take a while to load.

    It ends with this process if it is not needed. Raises EditError.
    """
    global _ready
    if _ready is None:
        # What it has to say goes to the job's log, once there is one.
        launcher = _launcher(
            Gio.SubprocessFlags.STDIN_PIPE
            | Gio.SubprocessFlags.STDOUT_PIPE
            | Gio.SubprocessFlags.STDERR_SILENCE
        )
        _ready = _start(launcher, ["work"])
        _ready.wait_async(None, _ended_early)


def _ended_early(process: Gio.Subprocess, result: Gio.AsyncResult) -> None:
    global _ready
    process.wait_finish(result)
    if _ready is not None and process is _ready:
        _ready = None
        # One that was killed says nothing about the next.
        if process.get_if_exited() and _on_broken is not None:
            _on_broken()


def look(on_broken: Callable[[], None]) -> None:
    """Find out whether the worker can run, and tell later if not."""
    global _on_broken
    _on_broken = on_broken
    try:
        get_ready()
    except EditError:
        GLib.idle_add(_once, on_broken)


def _once(call: Callable[[], None]) -> bool:
    call()
    return False


def mend(on_line: Callable[[str], None], on_end: Callable[[str], None]) -> Callable[[], None]:
    """Make the worker's environment anew, and write down its interpreter.

    `on_line` is told what the installer says meanwhile; `on_end` is told "" at last, or why it
    failed. Returns what calls it off.
    """
    launcher = _launcher(Gio.SubprocessFlags.STDOUT_PIPE | Gio.SubprocessFlags.STDERR_MERGE)
    try:
        process = launcher.spawnv([*_installers_python(), "-m", "installer", "python"])
    except GLib.Error as error:
        GLib.idle_add(_once, lambda why=error.message: on_end(why))
        return lambda: None
    said = [""]
    lines = Gio.DataInputStream.new(process.get_stdout_pipe())

    def heard(lines: Gio.DataInputStream, result: Gio.AsyncResult) -> None:
        try:
            line, _length = lines.read_line_finish_utf8(result)
        except GLib.Error:
            line = None
        if line is None:
            process.wait_async(None, ended)
            return
        if line.strip():
            said.append(line.strip())
            on_line(said[-1])
        lines.read_line_async(GLib.PRIORITY_DEFAULT, None, heard)

    def ended(process: Gio.Subprocess, result: Gio.AsyncResult) -> None:
        process.wait_finish(result)
        if not process.get_successful():
            on_end(said[-1] or _("The installer gave no answer."))
            return
        try:
            _note(said[-1])
        except OSError as error:
            on_end(f"{error.strerror}: {_NOTE}")
        else:
            on_end("")

    lines.read_line_async(GLib.PRIORITY_DEFAULT, None, heard)
    # Where it can, the installer takes what it has begun along.
    return process.force_exit if os.name == "nt" else lambda: process.send_signal(signal.SIGTERM)


def _installers_python() -> list[str]:
    """The start of a command line for a Python that can make the environment."""
    if os.name == "nt":
        # GIMP's own is MSYS2's, for which there are no ready packages.
        return ["py", "-3"] if shutil.which("py") else ["python"]
    # Not the one in an AppImage: it lies somewhere else at each start.
    inside = os.environ.get("APPDIR")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    outside = [folder for folder in folders if not (inside and folder.startswith(inside))]
    return [shutil.which("python3", path=os.pathsep.join(outside)) or sys.executable]


def _note(path: str) -> None:
    """Write down the interpreter for where this process runs. Raises OSError."""
    noted = {**_noted(), _place(): path}
    lines = [f"{place}\t{path}" if place else path for place, path in noted.items()]
    temporary = _NOTE.with_suffix(".new")
    temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    temporary.replace(_NOTE)


def _launcher(flags: Gio.SubprocessFlags) -> Gio.SubprocessLauncher:
    launcher = Gio.SubprocessLauncher.new(flags)
    launcher.set_cwd(str(_ROOT))
    for variable in ("PYTHONHOME", "PYTHONPATH"):
        # Bundles of GIMP point them at their own Python, which is not the worker's.
        launcher.unsetenv(variable)
    if "APPDIR" in os.environ:
        # An AppImage has everything load its libraries first: the worker is of the machine.
        for variable in ("LD_PRELOAD", "LD_LIBRARY_PATH"):
            launcher.unsetenv(variable)
    launcher.setenv("LANGUAGE", language(), True)
    return launcher


def _start(launcher: Gio.SubprocessLauncher, words: list[str]) -> Gio.Subprocess:
    """Start a command of the worker. Raises EditError."""
    try:
        return launcher.spawnv([interpreter(), "-m", "plugin", *words])
    except GLib.Error as error:
        raise EditError(
            _("The part of Dimilinks that talks to the service can't start: {why}").format(
                why=error.message
            )
        ) from error


def ask(words: list[str], on_answer: Callable[[dict[str, Any]], None], stdin: str = "") -> None:
    """Run a command of the worker that answers with an object of JSON, and hand that on later.

    `stdin` is what it reads: the place for what must not stand on a command line. Where there is
    no answer, it is {"message": a sentence for the user}.
    """
    # Both ends agree on UTF-8, whatever the language's encoding is.
    launcher = _launcher(
        Gio.SubprocessFlags.STDIN_PIPE
        | Gio.SubprocessFlags.STDOUT_PIPE
        | Gio.SubprocessFlags.STDERR_PIPE
    )
    launcher.setenv("PYTHONUTF8", "1", True)

    def answered(process: Gio.Subprocess, result: Gio.AsyncResult) -> None:
        try:
            _ok, out, err = process.communicate_utf8_finish(result)
        except GLib.Error as error:
            out, err = "", error.message
        on_answer(_answer(out or "", (err or "").strip()))

    try:
        process = _start(launcher, words)
    except EditError as error:
        GLib.idle_add(_tell_once, on_answer, {"message": str(error)})
        return
    process.communicate_utf8_async(stdin, None, answered)


def _tell_once(on_answer: Callable[[dict[str, Any]], None], answer: dict[str, Any]) -> bool:
    on_answer(answer)
    return False


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
        global _ready
        self._on_phase = on_phase
        self._on_end = on_end
        get_ready()
        assert _ready is not None
        self._process, _ready = _ready, None
        task = {"folder": str(job.folder), "language": language(), "collect": collect}
        with contextlib.suppress(GLib.Error):
            # One that has broken down can't hear it: how that ends is seen below.
            self._process.get_stdin_pipe().write_all(json.dumps(task).encode() + b"\n", None)
        self._lines = Gio.DataInputStream.new(self._process.get_stdout_pipe())
        self._listen()

    def let_go(self) -> None:
        """Call the worker off: it sends nothing more, and sees to its end what it has sent."""
        with contextlib.suppress(GLib.Error):
            self._process.get_stdin_pipe().close(None)

    def kill(self) -> None:
        """End the worker, whatever it is doing."""
        self._process.force_exit()

    def _listen(self) -> None:
        self._lines.read_line_async(GLib.PRIORITY_DEFAULT, None, self._heard)

    def _heard(self, lines: Gio.DataInputStream, result: Gio.AsyncResult) -> None:
        try:
            # Its twin for bytes can't tell an empty line from the end.
            line, _length = lines.read_line_finish_utf8(result)
        except GLib.Error:
            # Only the progress is lost; how it ended is in the job's state.
            line = None
        if line is None:
            self._on_end()
            return
        # A library's own words on standard output are not for us.
        with contextlib.suppress(ValueError):
            progress = json.loads(line)
            if isinstance(progress, dict) and "phase" in progress:
                self._on_phase(progress)
        self._listen()
