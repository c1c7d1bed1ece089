"""Copy the plug-in's files into a GIMP profile in one step, or remove them.

GIMP expects the file `plug-ins/NAME/NAME.py`, so the folder NAME is exchanged as a whole. Linux and
macOS can do this with one system call. Elsewhere it takes two renames; if the installer is killed
between them, its next run repairs the profile.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from . import catalogue, durable
from .folders import CHECKOUT, Failure, remove

NAME = "dimilinks_gimp"
MAIN = f"{NAME}.py"
WORKER_PYTHON = "worker-python.txt"
"""The file with the worker's interpreters, one line for each place where the plug-in may run.

The line for the machine itself is the path of the interpreter. The line for a Flatpak or Snap is
`flatpak` or `snap`, a tab, and the path.
"""


def plugin_folder(profile: Path) -> Path:
    """Return the plug-in's folder in `profile`, where GIMP expects `plug-ins/NAME/NAME.py`."""
    return profile / "plug-ins" / NAME


def is_installed(profile: Path) -> bool:
    return plugin_folder(profile).is_dir()


def version(folder: Path) -> str:
    """Return the plug-in's version, read from the code in `folder`.

    `folder` is an installed plug-in or the checkout. Returns "unknown" if there is no version.
    """
    try:
        text = (folder / "plugin" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def worker_pythons(profile: Path) -> dict[str, str]:
    """Return the interpreters that WORKER_PYTHON lists for this profile, by place.

    The place is "" for the machine itself. The dictionary is empty if the file can't be read.
    """
    try:
        lines = os.fsdecode((plugin_folder(profile) / WORKER_PYTHON).read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    parts = [line.strip().rpartition("\t") for line in lines if line.strip()]
    return {place: python for place, _tab, python in parts}


def install(profile: Path, pythons: Mapping[str, str]) -> None:
    """Install the checkout's plug-in in `profile`, with its worker's interpreters by place.

    A former plug-in stays until the new files are complete, and is restored if the exchange fails.
    Raises Failure if the profile can't be written.
    """
    target = plugin_folder(profile)
    # Both are next to `plug-ins`, not in it, because GIMP would try to load them as plug-ins.
    fresh = profile / f".{NAME}.new"
    former = profile / f".{NAME}.former"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(profile)
        remove(fresh)
        _copy(fresh, pythons)
        # Flush the files before the rename: after a power failure, the disk may have the new name
        # but not the files.
        durable.flush_tree(fresh)
        if not target.exists():
            fresh.rename(target)
        elif not _exchange(fresh, target):
            target.rename(former)
            try:
                fresh.rename(target)
            except BaseException:
                recover(profile)
                raise
            remove(former)
        durable.flush_names(target.parent)
    except OSError as error:
        raise Failure(
            f"The plug-in can't be written to {target}: {error.strerror}. "
            "Close GIMP, see that the folder is yours to write, and try again."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def recover(profile: Path) -> None:
    """Clean up after an interrupted exchange, and restore the former plug-in if none is in place.

    Raises OSError.
    """
    target = plugin_folder(profile)
    former = profile / f".{NAME}.former"
    if former.exists():
        if target.exists():
            remove(former)
        else:
            former.rename(target)
    for leftover in (f".{NAME}.new", f".{NAME}.gone"):
        remove(profile / leftover)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two folders in one step; return False if the system can't do this."""
    if sys.platform == "win32":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(two)
    try:
        if sys.platform == "darwin":
            # <sys/stdio.h>: RENAME_SWAP
            return bool(libc.renamex_np(*paths, 2) == 0)
        # <linux/fs.h>: RENAME_EXCHANGE; <fcntl.h>: AT_FDCWD
        return bool(libc.renameat2(-100, paths[0], -100, paths[1], 2) == 0)
    except AttributeError:
        return False


def _copy(folder: Path, pythons: Mapping[str, str]) -> None:
    main = CHECKOUT / MAIN
    if not main.is_file():
        raise Failure(f"{main} is missing: this checkout is not complete.")
    folder.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "locale")
    shutil.copytree(CHECKOUT / "plugin", folder / "plugin", ignore=skip)
    # With this copy, the plug-in can repair its worker's environment without the checkout.
    shutil.copytree(Path(__file__).parent, folder / "installer", ignore=skip)
    _compile_catalogues(folder / "locale")
    if (CHECKOUT / "LICENSE").is_file():
        shutil.copyfile(CHECKOUT / "LICENSE", folder / "LICENSE")
    lines = [f"{place}\t{python}" if place else python for place, python in pythons.items()]
    text = "".join(f"{line}\n" for line in lines)
    # Paths need not be valid UTF-8.
    (folder / WORKER_PYTHON).write_bytes(os.fsencode(text))
    # copyfile sets a new modification time. GIMP queries a plug-in again only if it has changed.
    shutil.copyfile(main, folder / MAIN)
    (folder / MAIN).chmod(0o755)


def _compile_catalogues(folder: Path) -> None:
    """Create the files `LANGUAGE/LC_MESSAGES/NAME.mo`, which GIMP and the worker read.

    Raises Failure if a catalogue has a syntax error.
    """
    ready = CHECKOUT / "locale"
    if ready.is_dir():
        # This code is part of an installed plug-in, which already has compiled catalogues.
        shutil.copytree(ready, folder)
        return
    folder.mkdir()
    for source in (CHECKOUT / "plugin" / "locale").glob("*.po"):
        place = folder / source.stem / "LC_MESSAGES"
        place.mkdir(parents=True)
        try:
            compiled = catalogue.compiled(source.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Failure(f"The catalogue {source} is damaged: {error}.") from error
        (place / f"{NAME}.mo").write_bytes(compiled)


def uninstall(profile: Path) -> bool:
    """Remove the plug-in from `profile`; return False if it wasn't there. Raises Failure.

    The settings that GIMP keeps for the plug-in's procedures are removed, too. Those of the window
    are also in our own settings.
    """
    target = plugin_folder(profile)
    gone = profile / f".{NAME}.gone"
    try:
        recover(profile)
        if not is_installed(profile):
            return False
        target.rename(gone)
        remove(gone)
        for memory in (profile / "plug-in-settings").glob("*dimilinks-*"):
            remove(memory)
    except OSError as error:
        raise Failure(
            f"{target} can't be removed: {error.strerror}. Close GIMP and try again."
        ) from error
    # A profile that GIMP created is never empty. If this one is, we created it for the plug-in.
    with contextlib.suppress(OSError):
        if not any(each != target.parent for each in profile.iterdir()):
            target.parent.rmdir()
            profile.rmdir()
    return True
