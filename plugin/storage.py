"""Find and create the data folder. Read and write the private files in it.

The data folder contains the jobs, the settings and the key. The plug-in, the worker and the
installer all call this module to get the path of the data folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from pathlib import Path

from plugin.errors import Unusable
from plugin.translation import _

_IN_USE_SECONDS = 1.0 if os.name == "nt" else 0.0
"""For how many seconds replacing a file is tried again. On Windows, a file can't be replaced while
another process reads it."""
_READING_SECONDS = 10.0
"""For how many seconds reading a file is tried again. On Windows, a file can't be read while
another process replaces it."""


def home() -> Path:
    """Return the path of the data folder. Create the folder if it does not exist.

    Raises Unusable if the folder can't be created or, on POSIX systems, if the folder belongs to
    another user or every user can write to it.
    """
    return private_folder(home_path())


def home_path() -> Path:
    """Return the path of the data folder without creating the folder.

    Raises Unusable if DIMILINKS_HOME is a relative path or the home folder can't be determined.
    """
    told = os.environ.get("DIMILINKS_HOME")
    return chosen_home(told) if told else data_folder()


def chosen_home(told: str) -> Path:
    """Return the path of the data folder that `told`, the value of DIMILINKS_HOME, stands for.

    A ~ at the beginning of `told` stands for the home folder. Raises Unusable if the path is
    relative.
    """
    try:
        folder = Path(told).expanduser()
    except RuntimeError:
        # `told` begins with ~ and a user name, but there is no such user.
        folder = Path(told)
    if not folder.is_absolute():
        # Reject a relative path: GIMP and the worker have different working directories, so the
        # path would mean a different folder for each of them.
        raise Unusable(
            _(
                "DIMILINKS_HOME is set to “{path}”, which is not a complete path. Set it to a "
                "complete path, or to a path that begins with ~/."
            ).format(path=told)
        )
    return folder


def data_folder() -> Path:
    """Return the default path of the data folder on this platform, without creating the folder.

    Raises Unusable if the user's home folder can't be determined.
    """
    if sys.platform == "win32":
        told, usual = os.environ.get("LOCALAPPDATA", ""), "AppData/Local"
    elif sys.platform == "darwin":
        told, usual = "", "Library/Application Support"
    else:
        told, usual = os.environ.get("XDG_DATA_HOME", ""), ".local/share"
    base = Path(told)
    if not base.is_absolute():
        # The variable is not set, or contains a relative path, which the XDG specification requires
        # programs to ignore. Use the usual folder instead.
        with contextlib.suppress(RuntimeError):
            base = Path.home() / usual
    if not base.is_absolute():
        raise Unusable(
            _(
                "Your home folder can't be determined. Set the environment variable HOME to it, or "
                "DIMILINKS_HOME to a folder for edits and settings."
            )
        )
    return base / "dimilinks-gimp"


def private_folder(folder: Path) -> Path:
    """Create `folder` if it does not exist, and return it.

    Raises Unusable if the folder can't be created or, on POSIX systems, if the folder belongs to
    another user or every user can write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise Unusable(
            _(
                "The folder {folder} for edits and settings can't be used: {why}. Solve this "
                "problem, or set DIMILINKS_HOME to another folder."
            ).format(folder=folder, why=error.strerror or error)
        ) from error
    if os.name == "posix" and (about.st_uid != os.geteuid() or about.st_mode & stat.S_IWOTH):
        raise Unusable(
            _(
                "The folder {folder} must belong to you, and nobody else may write to it. Change "
                "its owner or permissions, or set DIMILINKS_HOME to another folder."
            ).format(folder=folder)
        )
    return folder


def locks_folder() -> Path:
    """Return the folder of the lock files. Create the folder if it does not exist.

    With these locks, the processes of Dimilinks wait for each other. Raises Unusable if the folder
    can't be used.
    """
    return private_folder(home() / "locks")


def read_private(path: Path) -> str:
    """Return the text of a file, even if another process is replacing the file at this moment.

    A byte order mark, an invisible character that some editors put at the beginning, is left out.
    Raises OSError if the file can't be read, and UnicodeDecodeError if it is not UTF-8 text.
    """
    end = time.monotonic() + _READING_SECONDS
    while True:
        try:
            return path.read_text("utf-8-sig")
        except PermissionError:
            # Windows reports this error while another process replaces the file.
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def write_private(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file with the permissions 0600, either completely or not at all.

    When the function returns, the new content has been flushed to the disk. Raises OSError if
    writing fails; a file that was already at `path` then keeps its content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        # Remove a temporary file that a killed process with the same id has left behind. That file
        # could have other permissions, or be a symbolic link to another file.
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except OSError:
        # Remove the incomplete file, because it takes up space. On a full disk, a smaller file
        # could use this space.
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename the file `temporary` to `path`, replacing the file that was there.

    Windows refuses this while another process reads the file at `path`, so try again for up to
    _IN_USE_SECONDS.
    """
    end = time.monotonic() + _IN_USE_SECONDS
    while True:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def sync_folder(folder: Path) -> None:
    """Flush the names of the files in `folder` to the disk. Raises OSError if this fails.

    Renamed files then keep their new names after a power failure. On Windows, do nothing.
    """
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
