"""The data folder, with the jobs, the settings and the key, and the private files in it.

The plug-in, the worker and the installer all take their paths from here.
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
"""Seconds to retry the replacement of a file, which a reader of the file prevents on Windows."""
_READING_SECONDS = 10.0
"""Seconds to retry to read a file that another process replaces, which Windows prevents."""


def home() -> Path:
    """Return the data folder, with the jobs and settings, which is created if necessary.

    Raises Unusable if it can't be created or, on POSIX, if it belongs to another user or is
    writable for everyone.
    """
    return private_folder(home_path())


def home_path() -> Path:
    """Return the path of the data folder, which need not exist. Raises Unusable."""
    told = os.environ.get("DIMILINKS_HOME")
    return chosen_home(told) if told else data_folder()


def chosen_home(told: str) -> Path:
    """Return the data folder for `told`, the value of DIMILINKS_HOME.

    Raises Unusable if the path is relative.
    """
    try:
        folder = Path(told).expanduser()
    except RuntimeError:
        # The path begins with ~user, and there is no such user.
        folder = Path(told)
    if not folder.is_absolute():
        # GIMP and the worker have different working directories.
        raise Unusable(
            _(
                "DIMILINKS_HOME is set to the relative path “{path}”. Set it to an absolute "
                "path, or to a path that begins with ~/."
            ).format(path=told)
        )
    return folder


def data_folder() -> Path:
    """Return the default path of the data folder on this platform, which need not exist.

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
        # The XDG specification requires relative paths to be ignored.
        with contextlib.suppress(RuntimeError):
            base = Path.home() / usual
    if not base.is_absolute():
        raise Unusable(
            _(
                "Your home folder can't be determined. Set HOME to it, or set DIMILINKS_HOME "
                "to a folder for edits and settings."
            )
        )
    return base / "dimilinks-gimp"


def private_folder(folder: Path) -> Path:
    """Return `folder`, which is created if necessary.

    Raises Unusable if it can't be created or, on POSIX, if it belongs to another user or is
    writable for everyone.
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
    """Return the folder of the locks between processes of Dimilinks. Raises Unusable."""
    return private_folder(home() / "locks")


def read_private(path: Path) -> str:
    """Return the text of a file that another process may be replacing at this moment.

    A byte order mark, which some editors add, is skipped. Raises OSError, UnicodeDecodeError.
    """
    end = time.monotonic() + _READING_SECONDS
    while True:
        try:
            return path.read_text("utf-8-sig")
        except PermissionError:
            # Windows reports this error while the file is being replaced.
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def write_private(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file atomically, with the permissions 0600. Raises OSError.

    After a failure the file is as it was before. On success its contents have been flushed to the
    disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        # A process that died may have left this file. It may have other permissions, or be a
        # symbolic link to another place.
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except OSError:
        # On a full disk, the incomplete file would take up space that a smaller file could use.
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`. Windows refuses this while another process reads `path`."""
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
    """Flush the names of the files in a folder to the disk, on POSIX only. Raises OSError."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
