"""Locks between processes. Each lock is a file that one process at a time can lock.

A process holds a lock until the process releases the lock or ends. The operating system releases
the locks of a process that crashes or is killed.

The locks are compatible with those of the library filelock, which the worker uses: `flock` on
Unix, and a lock of the file's first byte on Windows. On a file system without locks, every attempt
to take a lock succeeds, because no process can hold a lock there.
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
"""Seconds between two attempts to take a lock that another process holds."""

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
    """Errors of network and FUSE file systems that don't support locks."""

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
    """Take the lock `path` and return a file descriptor. Closing the descriptor releases the lock.

    Return None if the lock is held by another process, or elsewhere in this process. Also return
    None if the former holder of the lock has just removed its file; a second attempt can succeed in
    this case. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, descriptor)
        if _locked(descriptor) and _is_still(path, descriptor):
            closing.pop_all()
            return descriptor
    return None


def _is_still(path: Path, descriptor: int) -> bool:
    """Return whether the locked file is still at `path`, not removed by a former holder."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path, seconds: float = 0) -> Iterator[bool]:
    """Hold the lock `path` within a `with` block, and yield whether this succeeded.

    Wait up to `seconds` for another holder to release the lock. Yield False if the other holder
    still has the lock after that time. Raises OSError.
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
    """Remove the file of the lock `path`, unless the lock is held. Raises OSError."""
    descriptor = take(path)
    if descriptor is None:
        return
    if os.name == "nt":
        # Windows does not remove an open file, so close the descriptor first. If another process
        # takes the lock in between, its open file can't be removed, so the lock stays valid.
        os.close(descriptor)
        path.unlink()
        return
    # Remove the file before releasing the lock. In the reverse order, another process could take
    # the lock in between. The file of that lock would then be removed, so that a third process
    # could take the lock as well.
    try:
        path.unlink()
    finally:
        os.close(descriptor)
