"""Find the worker's Python interpreter, which is not GIMP's own, and start the worker.

The worker is the process that talks to the service. It loads its libraries while this process loads
GIMP's libraries, so that the user waits only once. The worker must therefore be started first: this
module imports neither gi (the Python binding of GIMP's libraries) nor any module that needs gi.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from plugin import lock, storage
from plugin.errors import Unusable

STARTED = time.time()
"""When this module was loaded, in seconds since 1970. This is right after this process started."""
_ROOT = Path(__file__).resolve().parents[3]
NOTE = _ROOT / "worker-python.txt"
"""The file in which the installer records the path of the worker's interpreter.

Flatpak and Snap run GIMP in containers, which need an interpreter of their own. Each line contains
the name of the container (see `_bundle`), a tab and the path. If GIMP runs in no container, the
line contains only the path.
"""

PLACING = "placing"
"""The name of the lock that a process holds while it puts results into an image."""

_ready: subprocess.Popen[bytes] | None = None
"""The spare worker, which was started and has no job yet, or None."""


def start_spare_early() -> None:
    """Start a spare worker before it is known whether this process needs a worker.

    Ignore errors here: they occur again, and are reported, when the worker is needed.
    """
    with contextlib.suppress(OSError, Unusable):
        # If another process is putting a result into an image, GIMP has probably started this
        # process only for `dimilinks-write`, which needs no worker.
        if not lock.is_held(storage.locks_folder() / PLACING):
            spare()


def spare() -> subprocess.Popen[bytes]:
    """Return the spare worker, which has no job yet. Start one if there is none.

    The worker waits for a job on its standard input. If it gets no job, it ends when this process
    ends. Raises OSError if the worker can't be started.
    """
    global _ready
    if _ready is None or _ready.poll() is not None:
        # No messages are lost: once the worker has a job, it writes its messages to the job's log.
        _ready = start([interpreter(), "-m", "plugin", "work"], stderr=subprocess.DEVNULL)
    return _ready


def take() -> subprocess.Popen[bytes]:
    """Return a worker for one job. Each call returns another worker.

    Raises OSError if no worker can be started.
    """
    global _ready
    process = spare()
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
    """Start `command`, a program of the plug-in that doesn't run in GIMP's own Python.

    By default, pipes connect the program to this process. `language` is the language of its
    messages. If `key` is false, the API key is removed from its environment variables. Raises
    OSError.
    """
    # Remove the PYTHON… variables that users and packages of GIMP set. They could prevent the
    # worker's Python from starting, or make it load the wrong packages. PYTHON_KEYRING_BACKEND is
    # kept: it is not for Python, but for the keyring library.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "PYTHON_KEYRING_BACKEND" or not name.startswith("PYTHON")
    }
    if not key:
        environment.pop("DIMILINKS_API_KEY", None)
    if "APPDIR" in environment:
        # If GIMP runs from an AppImage, these variables would make the worker load the libraries in
        # the AppImage, but its interpreter needs the libraries of the system.
        for variable in ("LD_PRELOAD", "LD_LIBRARY_PATH"):
            environment.pop(variable, None)
    if language:
        environment["LANGUAGE"] = language
    # Make the program use UTF-8, like this process, whatever the encoding of the locale is.
    environment["PYTHONUTF8"] = "1"
    return subprocess.Popen(
        command,
        # Without buffers, written bytes are sent immediately, and bytes that have arrived can be
        # read immediately.
        bufsize=0,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=_ROOT,
        env=environment,
        # Prevent Windows from opening a console window.
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def interpreter() -> str:
    """Return the path of the worker's interpreter, which the installer has recorded.

    Raises FileNotFoundError if no path is recorded or the interpreter doesn't exist any more.
    """
    path = _noted().get(_bundle(), "")
    if not path or not Path(path).exists():
        raise FileNotFoundError(path)
    return path


def record(path: str) -> None:
    """Record the path of the interpreter for the container in which this process runs, if any.

    Raises OSError if the path can't be written.
    """
    noted = {**_noted(), _bundle(): path}
    lines = [f"{place}\t{path}" if place else path for place, path in noted.items()]
    storage.write_private(NOTE, os.fsencode("".join(f"{line}\n" for line in lines)))


def _noted() -> dict[str, str]:
    try:
        # Decode the bytes as paths of the system, which need not be UTF-8.
        lines = os.fsdecode(NOTE.read_bytes()).splitlines()
    except (OSError, ValueError):
        return {}
    parts = [line.strip().rpartition("\t") for line in lines]
    return {place: path for place, _tab, path in parts}


def _bundle() -> str:
    """Return the container in which GIMP runs: "flatpak", "snap", or "" if it runs in none."""
    if Path("/.flatpak-info").exists():
        return "flatpak"
    return "snap" if os.environ.get("SNAP_NAME") == "gimp" else ""


def installers_python() -> list[str]:
    """Return the first words of a command that runs a Python for the installer.

    This Python can create the virtual environment that contains the worker's libraries.
    """
    # shutil is imported here because this takes a while, for which every edit would have to wait.
    import shutil

    if os.name == "nt":
        # GIMP's own Python comes from MSYS2, for which PyPI has no prebuilt packages.
        return ["py", "-3"] if shutil.which("py") else ["python"]
    # Ignore the Python in an AppImage, because the path of this Python is different at each start.
    inside = os.environ.get("APPDIR")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    outside = [folder for folder in folders if not (inside and folder.startswith(inside))]
    return [shutil.which("python3", path=os.pathsep.join(outside)) or sys.executable]
