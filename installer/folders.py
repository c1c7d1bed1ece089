"""The folders that Dimilinks uses on this platform, and locks between runs that share a folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from plugin import storage
from plugin.errors import Unusable

NAME = "dimilinks-gimp"
CHECKOUT = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """An expected error, of which the installer shows only the message to the user."""


def say(text: str) -> None:
    """Print a message to standard error, so that standard output contains only data."""
    print(text, file=sys.stderr, flush=True)


def _per_user(xdg: str, unix: str, windows: str, windows_default: str, mac: str) -> Path:
    """Return a per-user folder, following the conventions of Windows, macOS or XDG.

    `xdg` and `windows` are the names of environment variables that contain the folder. If the
    variable is not set, the folder is `unix` or `windows_default`, relative to the home folder. On
    macOS it is always `mac`, relative to the home folder.
    """
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or Path.home() / windows_default)
    if sys.platform == "darwin":
        return Path.home() / mac
    # The XDG specification says that relative paths must be ignored.
    folder = Path(os.environ.get(xdg, ""))
    return folder if folder.is_absolute() else Path.home() / unix


_SUPPORT = "Library/Application Support"


def config_folder() -> Path:
    """Return the platform's per-user configuration folder, in which GIMP keeps its profiles.

    The folder is $XDG_CONFIG_HOME, %APPDATA% or macOS's Application Support folder. GIMP chooses
    the same one, in libgimpbase/gimpenv.c.
    """
    return _per_user("XDG_CONFIG_HOME", ".config", "APPDATA", "AppData/Roaming", _SUPPORT)


def data_folder() -> Path:
    """Return our folder for lasting data, such as the worker's environments. Raises Failure.

    By default, the plug-in keeps the API key and the jobs in this folder, too.
    """
    with _failing():
        return storage.data_folder()


def make_data_folder() -> None:
    """Create the data folder if it doesn't exist. Raises Failure.

    Only the user can access the new folder, because by default the plug-in keeps the API key and
    the jobs in it, too.
    """
    try:
        data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"The folder {data_folder()} can't be made: {error.strerror}.") from error


def refuse_foreign_home(remedy: str) -> None:
    """Raise Failure if root, by sudo, would create files in folders of the user who called sudo.

    That user's GIMP could not write to these files, because they would belong to root. The error
    message ends with `remedy`.
    """
    caller = os.environ.get("SUDO_UID", "")
    if sys.platform == "win32" or os.geteuid() != 0 or caller in ("", "0"):
        return
    for folder in (Path.home(), config_folder(), data_folder(), cache_folder(), jobs_folder()):
        place = next(each for each in (folder, *folder.parents) if each.exists())
        if str(place.stat().st_uid) == caller:
            raise Failure(f"This would make files of root in {place}: {remedy}")


def cache_folder() -> Path:
    """Return our folder for everything that can be downloaded or created again."""
    caches = "AppData/Local/Temp"
    return _per_user("XDG_CACHE_HOME", ".cache", "TEMP", caches, "Library/Caches") / NAME


def jobs_folder(told: str = "") -> Path:
    """Return the folder in which the plug-in keeps the key, settings and jobs. Raises Failure.

    If `told` is given, it is used in place of the environment variable DIMILINKS_HOME.
    """
    with _failing():
        return storage.chosen_home(told) if told else storage.home_path()


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Turn the exception Unusable into a Failure with the same message."""
    try:
        yield
    except Unusable as error:
        raise Failure(str(error)) from error


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, waiting: str = "") -> Iterator[None]:
    """Hold a lock on the file `path` during the `with` block, exclusively or, if `shared`, shared.

    If another run holds the lock, print the message `waiting` and wait until the lock is free.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            if not _lock(file, shared, wait=False):
                if waiting:
                    say(waiting)
                _lock(file, shared, wait=True)
            # If the previous holder has removed the file, other runs lock a new file at this path.
            # Then this lock protects nothing, so try again with the new file.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


@contextlib.contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Try to lock the file `path` exclusively, without waiting, and yield whether it was free.

    If the file was free, the lock is held during the `with` block. On a file system without locks,
    every file is free, because no process can hold a lock. Raises OSError if the file can't be
    opened.
    """
    with path.open("a") as file:
        try:
            free = _lock(file, shared=False, wait=False)
        except OSError:
            free = True
        yield free


def holders(path: Path) -> list[int]:
    """Return the IDs of the processes that hold a lock on the file `path`.

    On systems other than Linux, the list is empty, because they have no /proc/locks.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    # Each line has the form NUMBER: FLOCK ADVISORY READ PID MAJOR:MINOR:INODE START END. A line for
    # a process that only waits for the lock doesn't match, because it has an arrow after NUMBER.
    found = re.compile(rf"\d+: FLOCK +\S+ +\S+ +(\d+) \S+:{inode} ")
    return sorted({int(match[1]) for match in map(found.match, lines) if match})


if sys.platform == "win32":
    import msvcrt

    def _lock(file: TextIO, shared: bool, wait: bool) -> bool:
        """Lock the first byte of the file, and return whether that succeeded.

        With `wait`, wait until the byte is free. Windows has no shared locks of this kind, so that
        `shared` has no effect.
        """
        while True:
            try:
                # LK_LOCK fails after ten seconds of waiting, so the loop tries again.
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
else:
    import fcntl

    def _lock(file: TextIO, shared: bool, wait: bool) -> bool:
        """Lock the file, and return whether that succeeded. With `wait`, wait until it is free."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def remove(path: Path) -> None:
    """Remove the file `path`, or the folder `path` with everything in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
