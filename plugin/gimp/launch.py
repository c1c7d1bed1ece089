"""Starting the worker's interpreter, which is not GIMP's own: where it is, and how it is started.

Its libraries take as long to load as GIMP's do here, so it starts before they are loaded: no gi in
this module, and nothing that needs it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from plugin import lock, settings

STARTED = time.time()
"""When GIMP started this process, in seconds since 1970."""
_ROOT = Path(__file__).resolve().parents[2]
NOTE = _ROOT / "worker-python.txt"
"""Where the installer wrote down the interpreter; a line is `PATH`, or `PLACE`, a tab, `PATH`."""

PLACING = "placing"
"""The lock that a process has while it puts results into an image."""

_ready: subprocess.Popen[bytes] | None = None
"""A worker that has no job yet."""


def get_ready_early() -> None:
    """Start a worker before it is known what this process is to do, if it may need one.

    Whether it can run is seen when it is needed.
    """
    with contextlib.suppress(OSError, settings.Unusable):
        # A process that GIMP starts while another one places a result is there to write it.
        if not lock.is_held(settings.locks_folder() / PLACING):
            get_ready()


def get_ready() -> subprocess.Popen[bytes]:
    """Start a worker before there is a job for it, and return it; one that waits already will do.

    It reads its job from standard input, and ends with this process if it is not needed. Raises
    OSError if it can't start.
    """
    global _ready
    if _ready is None or _ready.poll() is not None:
        # What it has to say goes to the job's log, once there is one.
        _ready = start([interpreter(), "-m", "plugin", "work"], stderr=subprocess.DEVNULL)
    return _ready


def take() -> subprocess.Popen[bytes]:
    """Return a worker for a job, that nobody else will be given. Raises OSError."""
    global _ready
    process = get_ready()
    _ready = None
    return process


def taken(process: subprocess.Popen[bytes]) -> bool:
    """Whether a worker was given a job."""
    return process is not _ready


def start(
    command: list[str],
    stdin: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    language: str = "",
    key: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program of ours outside GIMP's own Python, with pipes to it.

    Without `key` it does not get the API key of the environment. Raises OSError.
    """
    # Bundles of GIMP and users have variables that keep the worker's Python from starting, or have
    # it load other packages than its own. The choice of a keyring is not Python's.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHON_KEYRING_BACKEND" or not name.startswith("PYTHON")
    }
    if not key:
        environment.pop("DIMILINKS_API_KEY", None)
    if "APPDIR" in environment:
        # An AppImage has everything load its libraries first: the worker is of the machine.
        for variable in ("LD_PRELOAD", "LD_LIBRARY_PATH"):
            environment.pop(variable, None)
    if language:
        environment["LANGUAGE"] = language
    # Both ends agree on UTF-8, whatever the language's encoding is.
    environment["PYTHONUTF8"] = "1"
    return subprocess.Popen(
        command,
        # What is written is not held back, and what is there is read.
        bufsize=0,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=_ROOT,
        env=environment,
        # On Windows a console would come up for it.
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def interpreter() -> str:
    """Return the worker's interpreter, as the installer wrote it down.

    Raises FileNotFoundError if there is none, or none any more.
    """
    path = _noted().get(_place(), "")
    if not path or not Path(path).exists():
        raise FileNotFoundError(path)
    return path


def note(path: str) -> None:
    """Write down the interpreter for where this process runs. Raises OSError."""
    noted = {**_noted(), _place(): path}
    lines = [f"{place}\t{path}" if place else path for place, path in noted.items()]
    settings.write_private(NOTE, os.fsencode("".join(f"{line}\n" for line in lines)))


def _noted() -> dict[str, str]:
    try:
        # The bytes of a path need not be UTF-8.
        lines = os.fsdecode(NOTE.read_bytes()).splitlines()
    except (OSError, ValueError):
        return {}
    parts = [line.strip().rpartition("\t") for line in lines]
    return {place: path for place, _tab, path in parts}


def _place() -> str:
    """Where this process runs: "" for the machine itself, else the sandbox that GIMP is in."""
    if Path("/.flatpak-info").exists():
        return "flatpak"
    return "snap" if os.environ.get("SNAP_NAME") == "gimp" else ""


def installers_python() -> list[str]:
    """The start of a command line for a Python that can make the worker's environment."""
    # Loaded here: it takes a while, and every edit would wait for it.
    import shutil

    if os.name == "nt":
        # GIMP's own is MSYS2's, for which there are no ready packages.
        return ["py", "-3"] if shutil.which("py") else ["python"]
    # Not the one in an AppImage: it lies somewhere else at each start.
    inside = os.environ.get("APPDIR")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    outside = [folder for folder in folders if not (inside and folder.startswith(inside))]
    return [shutil.which("python3", path=os.pathsep.join(outside)) or sys.executable]
