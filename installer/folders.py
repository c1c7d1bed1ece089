"""Where our things lie on this platform, and locks between runs that share them."""

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
    """An expected failure. Its message is the sentence that the user reads."""


def say(text: str) -> None:
    """Tell the user what is going on: on standard error, so that standard output stays data."""
    print(text, file=sys.stderr, flush=True)


def _per_user(xdg: str, unix: str, windows: str, windows_default: str, mac: str) -> Path:
    """A per-user folder: by the XDG specification, by Windows' variables, or macOS's Library."""
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or Path.home() / windows_default)
    if sys.platform == "darwin":
        return Path.home() / mac
    # The XDG specification has relative values ignored.
    folder = Path(os.environ.get(xdg, ""))
    return folder if folder.is_absolute() else Path.home() / unix


_SUPPORT = "Library/Application Support"


def config_folder() -> Path:
    """The platform's per-user configuration folder, in which GIMP keeps its profiles.

    As GIMP's libgimpbase/gimpenv.c has it: $XDG_CONFIG_HOME, %APPDATA%, the Application Support
    folder.
    """
    return _per_user("XDG_CONFIG_HOME", ".config", "APPDATA", "AppData/Roaming", _SUPPORT)


def data_folder() -> Path:
    """Our folder for what must last: the worker's environments.

    Unless told otherwise, the plug-in keeps its key and jobs there too. Raises Failure.
    """
    with _failing():
        return settings.data_folder()


def make_data_folder() -> None:
    """Make it private from the start: by default the plug-in keeps its key and jobs there too.

    Raises Failure.
    """
    try:
        data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"The folder {data_folder()} can't be made: {error.strerror}.") from error


def refuse_foreign_home(remedy: str) -> None:
    """Raise Failure if sudo has left root with folders of the user who called it.

    What root made there, that user's GIMP could not write to.
    """
    caller = os.environ.get("SUDO_UID", "")
    if sys.platform == "win32" or os.geteuid() != 0 or caller in ("", "0"):
        return
    for folder in (Path.home(), config_folder(), data_folder(), cache_folder(), jobs_folder()):
        place = next(each for each in (folder, *folder.parents) if each.exists())
        if str(place.stat().st_uid) == caller:
            raise Failure(f"This would make files of root in {place}: {remedy}")


def cache_folder() -> Path:
    """Our folder for what can be fetched or made again."""
    caches = "AppData/Local/Temp"
    return _per_user("XDG_CACHE_HOME", ".cache", "TEMP", caches, "Library/Caches") / NAME


def jobs_folder(told: str = "") -> Path:
    """Where the plug-in keeps key, settings and jobs; `told` is another DIMILINKS_HOME.

    Raises Failure.
    """
    with _failing():
        return settings.chosen_home(told) if told else settings.home_path()


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Make a Failure of what the plug-in can't use."""
    try:
        yield
    except settings.Unusable as error:
        raise Failure(str(error)) from error


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, waiting: str = "") -> Iterator[None]:
    """Hold the lock file `path`, alone or with other shared holders.

    `waiting` is said once when another run holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            if not _lock(file, shared, wait=False):
                if waiting:
                    say(waiting)
                _lock(file, shared, wait=True)
            # The run before may have removed the file: then others lock a new one.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


@contextlib.contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` alone if nobody else holds it; gives whether that is so.

    Where files can't be locked nobody can hold it. Raises OSError if it can't be opened.
    """
    with path.open("a") as file:
        try:
            free = _lock(file, shared=False, wait=False)
        except OSError:
            free = True
        yield free


def holders(path: Path) -> list[int]:
    """The processes that hold the lock file `path`, where the system tells (Linux)."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    # NUMBER: FLOCK ADVISORY READ PID MAJOR:MINOR:INODE START END. What waits has an arrow there.
    found = re.compile(rf"\d+: FLOCK +\S+ +\S+ +(\d+) \S+:{inode} ")
    return sorted({int(match[1]) for match in map(found.match, lines) if match})


if sys.platform == "win32":
    import msvcrt

    def _lock(file: TextIO, shared: bool, wait: bool) -> bool:
        """Lock the first byte, as Windows does it: there is no shared way, nor a long wait."""
        while True:
            try:
                # Waits for ten seconds by itself.
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
else:
    import fcntl

    def _lock(file: TextIO, shared: bool, wait: bool) -> bool:
        """Lock the file, waiting for it or not; whether it is locked now."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def remove(path: Path) -> None:
    """Remove a file or a folder tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
