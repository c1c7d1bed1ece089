"""Flush files to the disk, so that a power failure leaves no empty files behind.

A file system can write a rename to the disk before it writes the content of the renamed file. So
callers flush the content before the rename. After the rename, they flush the folder that contains
the new name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""The numbers of the errors that `_flush_folder` ignores.

These errors occur because some file systems can't flush folders, and because the user isn't
permitted to open some folders of other users.
"""


def flush_tree(folder: Path) -> None:
    """Flush every file and folder in `folder`, and `folder` itself. Raises OSError."""
    for parent, _folders, files in os.walk(folder):
        for name in files:
            path = os.path.join(parent, name)  # noqa: PTH118
            if not os.path.islink(path):  # noqa: PTH114
                _flush_file(path)
        _flush_folder(Path(parent))


def flush_large_tree(folder: Path) -> None:
    """Flush `folder` with the thousands of files in it. Raises OSError.

    On Linux, a single system call flushes the whole file system, which replaces a call per file.
    """
    if not _flush_file_system(folder):
        flush_tree(folder)


def flush_names(folder: Path) -> None:
    """Flush `folder` and all its parents, so that the disk has every name in its path.

    Raises OSError.
    """
    for each in (folder, *folder.absolute().parents):
        _flush_folder(each)


def write(path: Path, text: str) -> None:
    """Replace the content of a file atomically, and flush the file to the disk. Raises OSError.

    Paths in `text` that are not valid UTF-8 are written with their original bytes.
    """
    partial = path.with_suffix(".partial")
    partial.write_bytes(os.fsencode(text))
    _flush_file(str(partial))
    partial.replace(path)
    flush_names(path.parent)


def _flush_file(path: str) -> None:
    # Windows can flush a file only if it is open for writing. Other systems can flush it without
    # that, so open the file for reading there: the user isn't always permitted to write to it.
    number = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":
        # Windows can't open folders.
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
    """Flush the file system that contains `folder`, and return whether the system can do that.

    Raises OSError if the system can, but fails.
    """
    if sys.platform != "linux":
        # macOS has the call sync, but sync returns before everything is on the disk.
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
