"""Our folders on this platform, and locks between the runs that share them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from plugin import settings

NAME = "dimilinks-gimp"
CHECKOUT = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """An expected failure. Its message is shown to the user."""


def say(text: str) -> None:
    """Print a message to standard error, so that standard output contains only data."""
    print(text, file=sys.stderr, flush=True)


def _per_user(xdg: str, unix: str, windows: str, windows_default: str, mac: str) -> Path:
    """Return a per-user folder, following the conventions of Windows, macOS or XDG.

    `xdg` and `windows` name environment variables. `unix`, `windows_default` and `mac` are paths
    in the home folder: `mac` is always used on macOS, the others if the variable is not set.
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

    It is $XDG_CONFIG_HOME, %APPDATA% or macOS's Application Support folder, as in GIMP's
    libgimpbase/gimpenv.c.
    """
    return _per_user("XDG_CONFIG_HOME", ".config", "APPDATA", "AppData/Roaming", _SUPPORT)


def data_folder() -> Path:
    """Return our folder for lasting data, such as the worker's environments. Raises Failure.

    By default, the plug-in keeps its key and jobs there too.
    """
    with _failing():
        return settings.data_folder()


def make_data_folder() -> None:
    """Create the data folder if it doesn't exist. Raises Failure.

    Only the user can access it, because by default the plug-in keeps its key and jobs there too.
    """
    try:
        data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"The folder {data_folder()} can't be made: {error.strerror}.") from error


def refuse_foreign_home(remedy: str) -> None:
    """Raise Failure if this is root under sudo, but in folders of the user who called sudo.

    That user's GIMP could not write to the files that root would create there. `remedy` ends the
    message.
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

    `told`, if given, replaces the value of DIMILINKS_HOME.
    """
    with _failing():
        return settings.chosen_home(told) if told else settings.home_path()


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Turn the exception settings.Unusable into a Failure with the same message."""
    try:
        yield
    except settings.Unusable as error:
        raise Failure(str(error)) from error


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, waiting: str = "") -> Iterator[None]:
    """Hold a lock on the file `path`, either exclusive or shared with other holders.

    If another run holds it, `waiting` is printed once before waiting for the lock.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            if not _lock(file, shared, wait=False):
                if waiting:
                    say(waiting)
                _lock(file, shared, wait=True)
            # The previous holder may have removed the file. Others would then lock a new file.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


@contextlib.contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on the file `path` unless others hold it, without waiting.

    Yields whether the file was free. On a file system without locks it always is, because nobody
    can hold it. Raises OSError if the file can't be opened.
    """
    with path.open("a") as file:
        try:
            free = _lock(file, shared=False, wait=False)
        except OSError:
            free = True
        yield free


def holders(path: Path) -> list[int]:
    """Return the IDs of the processes that hold the lock file `path`.

    The list is empty on systems other than Linux, which have no /proc/locks.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    # A line is NUMBER: FLOCK ADVISORY READ PID MAJOR:MINOR:INODE START END. If the process waits
    # for the lock, there is an arrow after NUMBER, and the line does not match.
    found = re.compile(rf"\d+: FLOCK +\S+ +\S+ +(\d+) \S+:{inode} ")
    return sorted({int(match[1]) for match in map(found.match, lines) if match})


if sys.platform == "win32":
    import msvcrt

    def _lock(file: TextIO, shared: bool, wait: bool) -> bool:
        """Lock the first byte of the file, and return whether it is locked.

        Windows has no shared locks of this kind, so `shared` has no effect.
        """
        while True:
            try:
                # LK_LOCK gives up after ten seconds, so it is repeated.
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
else:
    import fcntl

    def _lock(file: TextIO, shared: bool, wait: bool) -> bool:
        """Lock the file, and return whether it is locked."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def remove(path: Path) -> None:
    """Remove a file or a folder with everything in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
