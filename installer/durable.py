"""Flush files to the disk, so that a power failure leaves no empty files behind.

A rename can reach the disk before the content of the renamed file does. So flush the content before
the rename, and the folder that has the new name after it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""Errors to ignore when a folder is flushed.

Some file systems can't flush folders, and folders of other users can't be opened.
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
    """Flush a tree of thousands of files. Raises OSError.

    On Linux this takes one call, which flushes the whole file system.
    """
    if not _flush_file_system(folder):
        flush_tree(folder)


def flush_names(folder: Path) -> None:
    """Flush `folder` and all its parents, and so all names in its path. Raises OSError."""
    for each in (folder, *folder.absolute().parents):
        _flush_folder(each)


def write(path: Path, text: str) -> None:
    """Replace the content of a file atomically, and flush it to the disk. Raises OSError.

    `text` may contain paths whose bytes are not UTF-8.
    """
    partial = path.with_suffix(".partial")
    partial.write_bytes(os.fsencode(text))
    _flush_file(str(partial))
    partial.replace(path)
    flush_names(path.parent)


def _flush_file(path: str) -> None:
    # Windows can flush a file only if it is open for writing. Elsewhere it may be read-only.
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
    """Flush the file system that contains `folder`; return False if there is no such call.

    Raises OSError.
    """
    if sys.platform != "linux":
        # On macOS, sync returns before everything is written.
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
