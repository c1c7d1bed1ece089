"""Flushing what was written to the disk, so that a power cut leaves no empty files behind.

A rename can reach the disk before the contents of what was renamed: those are flushed first, and
the names after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""What file systems answer that can't flush a folder, and what folders of others do."""


def flush_tree(folder: Path) -> None:
    """Flush every file and folder of a tree. Raises OSError."""
    for parent, _folders, files in os.walk(folder):
        for name in files:
            path = os.path.join(parent, name)  # noqa: PTH118
            if not os.path.islink(path):  # noqa: PTH114
                _flush_file(path)
        _flush_folder(Path(parent))


def flush_large_tree(folder: Path) -> None:
    """Flush a tree of thousands of files, at once where the system can. Raises OSError."""
    if not _flush_file_system(folder):
        flush_tree(folder)


def flush_names(folder: Path) -> None:
    """Flush the names in a folder, and the names by which it is reached. Raises OSError."""
    for each in (folder, *folder.absolute().parents):
        _flush_folder(each)


def write(path: Path, text: str) -> None:
    """Write a file so that it is whole or untouched, and on the disk at the end. Raises OSError.

    `text` may have paths in it, whose bytes need not be UTF-8.
    """
    partial = path.with_suffix(".partial")
    partial.write_bytes(os.fsencode(text))
    _flush_file(str(partial))
    partial.replace(path)
    flush_names(path.parent)


def _flush_file(path: str) -> None:
    # Windows flushes only what is open for writing. Elsewhere a file may be read-only.
    number = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":
        # Folders can't be opened there.
        return
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def _flush_file_system(folder: Path) -> bool:
    """Flush all of the file system that `folder` lies on; False where there is no such call."""
    if sys.platform != "linux":
        # macOS' sync doesn't wait until everything is written.
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(AttributeError):
            if libc.syncfs(number) == 0:
                return True
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(number)
    return False
