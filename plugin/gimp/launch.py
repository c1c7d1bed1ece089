"""Find and start the worker's Python interpreter, which is not GIMP's own.

The worker takes as long to load its libraries as this process takes to load GIMP's. It is therefore
started before they are loaded: this module imports neither gi nor anything that needs gi.
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
"""When this module was loaded, right after the start of the process, in seconds since 1970."""
_ROOT = Path(__file__).resolve().parents[2]
NOTE = _ROOT / "worker-python.txt"
"""The file with the path of the interpreter, written by the installer.

Each line is `PATH`, or `PLACE`, a tab, `PATH`. See `_place`.
"""

PLACING = "placing"
"""The name of the lock that a process holds while it puts results into an image."""

_ready: subprocess.Popen[bytes] | None = None
"""A worker that was started and has no job yet."""


def get_ready_early() -> None:
    """Start a worker before it is known whether this process needs one.

    Errors are ignored here. They are reported when the worker is needed.
    """
    with contextlib.suppress(OSError, settings.Unusable):
        # A process that starts while another one puts a result into an image was probably started
        # to write this result, and needs no worker.
        if not lock.is_held(settings.locks_folder() / PLACING):
            get_ready()


def get_ready() -> subprocess.Popen[bytes]:
    """Start a worker that has no job yet, or return the one that is waiting already.

    The worker reads its job from standard input. It ends with this process if it gets none. Raises
    OSError if it can't be started.
    """
    global _ready
    if _ready is None or _ready.poll() is not None:
        # Once it has a job, the worker writes its messages to the log of the job.
        _ready = start([interpreter(), "-m", "plugin", "work"], stderr=subprocess.DEVNULL)
    return _ready


def take() -> subprocess.Popen[bytes]:
    """Return a worker for a job. No later call returns the same worker. Raises OSError."""
    global _ready
    process = get_ready()
    _ready = None
    return process


def taken(process: subprocess.Popen[bytes]) -> bool:
    """Return whether `take` has returned this worker."""
    return process is not _ready


def start(
    command: list[str],
    stdin: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    language: str = "",
    key: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program of the plug-in outside GIMP's own Python, connected by pipes.

    Without `key`, it doesn't get the API key of the environment. Raises OSError.
    """
    # Remove the PYTHON… variables that GIMP's bundles and users set. They can prevent the worker's
    # Python from starting, or make it load other packages than its own. PYTHON_KEYRING_BACKEND
    # belongs to the keyring library and is kept.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHON_KEYRING_BACKEND" or not name.startswith("PYTHON")
    }
    if not key:
        environment.pop("DIMILINKS_API_KEY", None)
    if "APPDIR" in environment:
        # An AppImage makes every program load the libraries in it first, but the worker uses those
        # of the system.
        for variable in ("LD_PRELOAD", "LD_LIBRARY_PATH"):
            environment.pop(variable, None)
    if language:
        environment["LANGUAGE"] = language
    # Both ends use UTF-8, whatever the encoding of the locale is.
    environment["PYTHONUTF8"] = "1"
    return subprocess.Popen(
        command,
        # Without buffers, what is written is sent at once, and what has arrived can be read at
        # once.
        bufsize=0,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=_ROOT,
        env=environment,
        # On Windows, a console window would open otherwise.
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def interpreter() -> str:
    """Return the path of the worker's interpreter, as recorded by the installer.

    Raises FileNotFoundError if no path is recorded or the file doesn't exist any more.
    """
    path = _noted().get(_place(), "")
    if not path or not Path(path).exists():
        raise FileNotFoundError(path)
    return path


def note(path: str) -> None:
    """Record the interpreter for the place where this process runs. Raises OSError."""
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
    """Return "flatpak" or "snap" if GIMP runs in one of these, otherwise ""."""
    if Path("/.flatpak-info").exists():
        return "flatpak"
    return "snap" if os.environ.get("SNAP_NAME") == "gimp" else ""


def installers_python() -> list[str]:
    """Return the start of a command line for a Python that can create the worker's environment."""
    # Imported here because it takes a while, for which every edit would have to wait.
    import shutil

    if os.name == "nt":
        # GIMP's own Python is that of MSYS2, for which there are no prebuilt packages.
        return ["py", "-3"] if shutil.which("py") else ["python"]
    # Ignore the Python in an AppImage, because its path is different at each start.
    inside = os.environ.get("APPDIR")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    outside = [folder for folder in folders if not (inside and folder.startswith(inside))]
    return [shutil.which("python3", path=os.pathsep.join(outside)) or sys.executable]
