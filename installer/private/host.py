"""A GIMP with a temporary profile, for the commands `host` and `demo` and for the tests.

    with PrivateGimp("3.0", shares=[pictures]) as gimp:
        code = gimp.script("edit.py", ["photo.jpg"])        # runs a script inside GIMP
        gimp.run(["gimp", "--version"])                     # runs any command where GIMP runs

The profile contains the plug-in of this checkout. GIMP also gets a home folder, a temporary folder
and, unless the user has set DIMILINKS_HOME, a data folder of its own. These folders and the profile
are removed at the end of the `with` block.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .. import environment, inside, payload, programs
from ..folders import CHECKOUT, Failure, cache_folder, jobs_folder, locked, remove, say
from ..gimps import Gimp
from ..programs import stop
from . import debian

BOOTSTRAP = Path(__file__).with_name("host_script.py")
_LANGUAGE = ("LANG", "LANGUAGE", "LC_ALL")
_PASSED = (*_LANGUAGE, "TERM", "DISPLAY", "XAUTHORITY")
# These settings turn off GIMP's welcome window, check for updates and question about colour
# profiles.
_QUIET = """
(show-welcome-dialog no)
(check-updates no)
(color-profile-policy keep)
"""


class PrivateGimp:
    """A context manager that provides a GIMP 3 with a profile of its own.

    `series` is "3.0", "3.2" or None, which means the machine's own GIMP or, if there is none, 3.0.
    Commands that run with this GIMP can read and write the folders in `shares`, at the same paths
    as on the machine, and can read the checkout.

    Entering the context downloads a GIMP and creates the worker's environment if these are missing,
    and raises Failure if that is not possible.
    """

    gimp: Gimp
    profile: Path
    home: Path
    temporary: Path

    def __init__(self, series: str | None = None, shares: Iterable[Path] = ()) -> None:
        self._series = series
        self._shares = list(shares)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> PrivateGimp:
        with contextlib.ExitStack() as stack:
            self.gimp = stack.enter_context(debian.obtain(self._series))
            python = environment.for_gimp(self.gimp)
            template = _template(self.gimp)
            self._folder = Path(tempfile.mkdtemp(prefix="dimilinks-gimp-run-"))
            # Ignore errors, because a worker that outlives GIMP is possibly still writing to this
            # folder.
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self.profile = self._folder / "profile"
            self.home = self._folder / "home"
            self.temporary = self._folder / "tmp"
            self._runtime = self._folder / "runtime"
            for folder in (self.home, self.temporary, self._runtime):
                folder.mkdir(mode=0o700)
            shutil.copytree(template, self.profile)
            payload.install(self.profile, {"": python})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def environ(self) -> dict[str, str]:
        """Return the environment variables that every command gets.

        These are the user's variables for Dimilinks (DIMILINKS_*), the language, the terminal and
        the display, and variables that name the folders of this run.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in _PASSED or name.startswith("DIMILINKS_")
        }
        return {
            "DIMILINKS_HOME": str(self._folder / "dimilinks"),
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self._runtime),
            "GIMP3_DIRECTORY": str(self.profile),
        }

    def popen(
        self,
        command: list[str],
        env: Mapping[str, str] | None = None,
        shares: Iterable[Path] = (),
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command where GIMP runs, in a session of its own.

        `env` is added to the variables of `environ`, and `shares` to the folders that the command
        can read and write. `options` are passed to subprocess.Popen. The returned process is the
        command itself, not a shell that runs the command.
        """
        environ = {**self.environ(), **(env or {})}
        home = jobs_folder(environ["DIMILINKS_HOME"])
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = inside.command_line(
            self.gimp,
            command,
            {**environ, "DIMILINKS_HOME": str(home)},
            shares=[*self._shares, *shares, self._folder, home],
            readonly=[CHECKOUT],
        )
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(line, env=inside.bare(environ), start_new_session=True, **options)

    def run(
        self,
        command: list[str],
        env: Mapping[str, str] | None = None,
        shares: Iterable[Path] = (),
        timeout: float | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command where GIMP runs, and wait until the command ends.

        The other arguments are those of `popen`. Raises subprocess.TimeoutExpired if the command
        runs longer than `timeout` seconds.
        """
        with self.popen(command, env, shares, **options) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except BaseException:
                stop(process)
                raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def script(
        self,
        script: str | Path,
        arguments: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        shares: Iterable[Path] = (),
        out: BinaryIO | None = None,
        err: BinaryIO | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run a Python-Fu script, that is a Python script inside GIMP, without a window.

        Returns 1 if the script raised an exception or exited with an error, or if GIMP ended before
        the script did, and 0 otherwise. While the script runs, its output is copied to `out` and
        `err`, by default to the standard output and error of this process. GIMP's own messages are
        written to `err` only if the script failed. Raises Failure if there is no file `script`, and
        subprocess.TimeoutExpired after `timeout` seconds.
        """
        path = Path(script).absolute()
        if not path.is_file():
            raise Failure(f"There is no script {script}.")
        with tempfile.TemporaryDirectory(prefix="script-", dir=self._folder) as name:
            run = Path(name)
            for pipe in ("out", "err"):
                os.mkfifo(run / pipe)
            job = {"script": str(script), "arguments": list(arguments), "cwd": str(Path.cwd())}
            (run / "run.json").write_text(json.dumps(job), encoding="utf-8")
            start = f"import runpy; runpy.run_path({str(BOOTSTRAP)!a}, {{'RUN': {name!a}}})"
            command = [self.gimp.console, "--no-interface", "--quit"]
            command += ["--batch-interpreter=python-fu-eval", f"--batch={start}"]
            with (run / "log").open("wb") as log:
                process = self.popen(
                    command,
                    env,
                    [*shares, path.parent, path.resolve().parent],
                    stdout=log,
                    stderr=log,
                )
            try:
                errors = err or sys.stderr.buffer
                _forward(
                    process, {run / "out": out or sys.stdout.buffer, run / "err": errors}, timeout
                )
            finally:
                stop(process)
            try:
                code = int((run / "code").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                code = -1
            if code:
                if code < 0:
                    _write(errors, b"GIMP ended before the script did.\n")
                _write(errors, b"--- messages of GIMP ---\n" + (run / "log").read_bytes() + b"\n")
            return 1 if code else 0


def _template(gimp: Gimp) -> Path:
    """Return the folder of a profile, to be copied, in which GIMP knows its own plug-ins already.

    The profile is created once for each version of GIMP and each language. It saves each run some
    seconds, in which GIMP would start all its plug-ins to query them. Raises Failure.
    """
    place = gimp.root.parent if gimp.root else cache_folder()
    # Each language has a profile, because GIMP queries all plug-ins again if the language changes.
    language = {name: os.environ[name] for name in _LANGUAGE if os.environ.get(name)}
    key = "".join(f"-{value}" for value in language.values())
    folder = place / f"profile-{gimp.version}{key.replace('/', '_')}"
    lock = place / f"{folder.name}.lock"
    with locked(lock, waiting="Waiting for another run that makes GIMP's first profile …"):
        if folder.is_dir():
            return folder
        say(f"First start of GIMP {gimp.version}: it looks at its own plug-ins …")
        with tempfile.TemporaryDirectory(prefix="dimilinks-gimp-run-") as name:
            partial = Path(name) / "profile"
            environ = {**language, "HOME": name, "TMPDIR": name, "GIMP3_DIRECTORY": str(partial)}
            line = inside.command_line(
                gimp,
                [gimp.console, "--no-interface", "--quit"],
                environ,
                shares=[Path(name)],
                cwd=Path(name),
            )
            ended = programs.run(line, inside.bare(environ))
            if ended.returncode or not (partial / "pluginrc").is_file():
                raise Failure(f"GIMP {gimp.version} does not start:\n{ended.stderr[-2000:]}")
            with (partial / "gimprc").open("a", encoding="utf-8") as file:
                file.write(_QUIET)
            fresh = place / f"{folder.name}.partial"
            remove(fresh)
            shutil.copytree(partial, fresh)
            fresh.rename(folder)
    return folder


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def _forward(
    process: subprocess.Popen[Any], pipes: Mapping[Path, BinaryIO], timeout: float | None
) -> None:
    """Copy the data from each pipe in `pipes` to the stream of that pipe until the process ends.

    This function does not wait until the pipes are closed, because a worker that outlives GIMP
    possibly keeps them open. Raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    with contextlib.ExitStack() as stack:
        sources: dict[int, BinaryIO] = {}
        for path, stream in pipes.items():
            # Open the pipe for writing, too, so that opening it does not wait for another process
            # that writes to it, and reading never reports the end of the data.
            number = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, number)
            sources[number] = stream
        selector = stack.enter_context(selectors.DefaultSelector())
        for number in sources:
            selector.register(number, selectors.EVENT_READ)
        ended = os.pidfd_open(process.pid)
        stack.callback(os.close, ended)
        selector.register(ended, selectors.EVENT_READ)
        deadline = None if timeout is None else time.monotonic() + timeout
        alive = True
        while alive:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            ready = {key.fd for key, _ in selector.select(left)}
            if timeout is not None and not ready:
                raise subprocess.TimeoutExpired(process.args, timeout)
            alive = ended not in ready
            for number, stream in sources.items():
                with contextlib.suppress(BlockingIOError):
                    while data := os.read(number, 65536):
                        _write(stream, data)


def host(series: str | None, shares: list[Path], script: str, arguments: list[str]) -> int:
    """Run the command `host`: run a script in a private GIMP; return 1 if it failed, or else 0."""
    with PrivateGimp(series, shares) as gimp:
        return gimp.script(script, arguments)
