"""Locks between processes: a file that one process holds, until it lets go or ends.

A process that dies lets go, however it dies. These are the locks that the library filelock takes,
which the worker uses: flock on Unix, the file's first byte on Windows. On a file system without
locks each lock is free, because nobody can hold one there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_POLL = 0.005
"""Seconds between two attempts to take a lock that is held."""

if sys.platform == "win32":
    import msvcrt

    def _locked(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            return False
        return True
else:
    import fcntl

    _NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
    """What network file systems and FUSE answer where they have no locks."""

    def _locked(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in _NO_LOCKS:
                raise
        return True


def take(path: Path) -> int | None:
    """Take the lock `path` and return its descriptor; closing that lets go.

    Returns None if the lock is held, by another process or elsewhere in this one. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, descriptor)
        if _locked(descriptor) and _is_still(path, descriptor):
            closing.pop_all()
            return descriptor
    return None


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` is the file that was locked: a former holder may have removed that."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path, seconds: float = 0) -> Iterator[bool]:
    """Hold the lock `path`, and tell whether it is held: False if others held it for `seconds`.

    Raises OSError.
    """
    end = time.monotonic() + seconds
    while (descriptor := take(path)) is None:
        if time.monotonic() >= end:
            yield False
            return
        time.sleep(_POLL)
    try:
        yield True
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether any process holds the lock `path`. Raises OSError."""
    if not path.exists():
        return False
    with held(path) as ours:
        return not ours


def remove(path: Path) -> None:
    """Remove the lock `path` unless it is held. Raises OSError."""
    descriptor = take(path)
    if descriptor is None:
        return
    if os.name == "nt":
        # An open file can't be removed there, which protects a new holder as well.
        os.close(descriptor)
        path.unlink()
        return
    # Before letting go: a new holder would hold a file without a name.
    try:
        path.unlink()
    finally:
        os.close(descriptor)
