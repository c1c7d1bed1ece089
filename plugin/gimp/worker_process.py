"""Starting the worker, for a job or a question, and listening to it, without ever blocking GIMP.

Our end of its standard input is its lifeline: when this process ends, however it ends, the worker
sees end of file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gi.repository import Gio, GLib

from plugin.gimp.messages import EditError, _, language
from plugin.job import Job

_ROOT = Path(__file__).resolve().parents[2]


def interpreter() -> str:
    """Return the worker's interpreter, as the installer wrote it down. Raises EditError."""
    try:
        path = (_ROOT / "worker-python.txt").read_text("utf-8").strip()
    except OSError:
        path = ""
    if not path or not Path(path).exists():
        raise EditError(
            _(
                "The part of Dimilinks that talks to the service is missing or broken. Mend it "
                "with “python3 -m installer” from the Dimilinks folder, then try again."
            )
        )
    return path


def _launcher(flags: Gio.SubprocessFlags) -> Gio.SubprocessLauncher:
    launcher = Gio.SubprocessLauncher.new(flags)
    launcher.set_cwd(str(_ROOT))
    for variable in ("PYTHONHOME", "PYTHONPATH"):
        # Bundles of GIMP point them at their own Python, which is not the worker's.
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
    sentence: why it is not sent yet). `on_end` is called once, when the worker is gone and
    `job.state` is final. One that is to `collect` sees to its end what was sent, and sends nothing.
    """

    def __init__(
        self,
        job: Job,
        on_phase: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
        collect: bool = False,
    ) -> None:
        self._on_phase = on_phase
        self._on_end = on_end
        launcher = _launcher(Gio.SubprocessFlags.STDIN_PIPE | Gio.SubprocessFlags.STDOUT_PIPE)
        log = job.folder / "worker.log"
        with contextlib.suppress(OSError):
            # Made here: GLib would make it by the user's umask.
            log.touch(mode=0o600)
        launcher.set_stderr_file_path(str(log))
        self._process = _start(
            launcher, ["work", *(["--collect"] if collect else []), str(job.folder)]
        )
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
            self._process.wait_async(None, self._ended)
            return
        # A library's own words on standard output are not for us.
        with contextlib.suppress(ValueError):
            progress = json.loads(line)
            if isinstance(progress, dict) and "phase" in progress:
                self._on_phase(progress)
        self._listen()

    def _ended(self, process: Gio.Subprocess, result: Gio.AsyncResult) -> None:
        process.wait_finish(result)
        self._on_end()
