"""Starting the worker for a job and listening to it, without ever blocking GIMP.

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


class WorkerProcess:
    """A worker at work on one job.

    `on_phase` is handed the worker's reports as they come: the name of the `phase`, the number of
    the `variation`, and of an upload the bytes `sent` and their `total`. `on_end` is called once,
    when the worker is gone and `job.state` is final.
    """

    def __init__(
        self, job: Job, on_phase: Callable[[dict[str, Any]], None], on_end: Callable[[], None]
    ) -> None:
        self._on_phase = on_phase
        self._on_end = on_end
        launcher = Gio.SubprocessLauncher.new(
            Gio.SubprocessFlags.STDIN_PIPE | Gio.SubprocessFlags.STDOUT_PIPE
        )
        launcher.set_cwd(str(_ROOT))
        launcher.set_stderr_file_path(str(job.folder / "worker.log"))
        for variable in ("PYTHONHOME", "PYTHONPATH"):
            # Bundles of GIMP point them at their own Python, which is not the worker's.
            launcher.unsetenv(variable)
        launcher.setenv("LANGUAGE", language(), True)
        try:
            self._process = launcher.spawnv(
                [interpreter(), "-m", "plugin", "work", str(job.folder)]
            )
        except GLib.Error as error:
            raise EditError(
                _("The part of Dimilinks that talks to the service can't start: {why}").format(
                    why=error.message
                )
            ) from error
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
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self._on_phase(dict(json.loads(line)))
        self._listen()

    def _ended(self, process: Gio.Subprocess, result: Gio.AsyncResult) -> None:
        process.wait_finish(result)
        self._on_end()


def ask(words: list[str], on_answer: Callable[[dict[str, Any]], None], stdin: str = "") -> None:
    on_answer({})
