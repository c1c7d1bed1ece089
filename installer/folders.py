"""Where our things lie on this platform, and locks between runs that share them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = "dimilinks-gimp"
CHECKOUT = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """An expected failure. Its message is the sentence that the user reads."""


def say(text: str) -> None:
    """Tell the user what is going on: on standard error, so that standard output stays data."""
    print(text, file=sys.stderr, flush=True)


def _xdg(variable: str, default: str) -> Path:
    # The XDG specification has relative values ignored.
    folder = Path(os.environ.get(variable, ""))
    return folder if folder.is_absolute() else Path.home() / default


def config_folder() -> Path:
    """The platform's per-user configuration folder, in which GIMP keeps its profiles."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def data_folder() -> Path:
    """Our folder for what must last: the worker's environments."""
    return _xdg("XDG_DATA_HOME", ".local/share") / NAME


def make_data_folder() -> None:
    """Make it private from the start: by default the plug-in keeps its key and jobs there too."""
    data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)


def cache_folder() -> Path:
    """Our folder for what can be fetched or made again."""
    return _xdg("XDG_CACHE_HOME", ".cache") / NAME


def jobs_folder() -> Path:
    """Where the plug-in keeps key, settings and jobs; the installer never removes it."""
    home = os.environ.get("DIMILINKS_HOME")
    return Path(home).expanduser() if home else data_folder()


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, waiting: str = "") -> Iterator[None]:
    """Hold the lock file `path`, alone or with other shared holders.

    `waiting` is said once when another run holds it.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    say(waiting)
                fcntl.flock(file, kind)
            # The run before may have removed the file: then others lock a new one.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


def remove(path: Path) -> None:
    """Remove a file or a folder tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
