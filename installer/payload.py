"""The plug-in's files: into a GIMP profile in one step, and out of it.

GIMP wants `plug-ins/NAME/NAME.py`, so the folder is exchanged as a whole: by one call of the system
where it has one (Linux, macOS), else by two renames. What a kill leaves between these is mended by
the next run of any command.
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
"""The interpreters of the worker, a line for each place that the plug-in may run in: the path for
the machine itself; `flatpak` or `snap`, a tab and the path for a sandbox."""


def plugin_folder(profile: Path) -> Path:
    """Where the plug-in lies in a profile: GIMP wants `plug-ins/NAME/NAME.py`."""
    return profile / "plug-ins" / NAME


def is_installed(profile: Path) -> bool:
    return plugin_folder(profile).is_dir()


def version(folder: Path) -> str:
    """The plug-in's version by the code in `folder` (a plug-in folder or the checkout)."""
    try:
        text = (folder / "plugin" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def worker_pythons(profile: Path) -> dict[str, str]:
    """The interpreters noted for this profile's worker, by place ("" is the machine itself)."""
    try:
        lines = os.fsdecode((plugin_folder(profile) / WORKER_PYTHON).read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    parts = [line.strip().rpartition("\t") for line in lines if line.strip()]
    return {place: python for place, _tab, python in parts}


def install(profile: Path, pythons: Mapping[str, str]) -> None:
    """Put the checkout's plug-in into `profile`, with the interpreters of its worker, by place.

    What was there stays in place until the new files are complete, and comes back if the
    exchange fails. Raises Failure if the profile can't be written.
    """
    target = plugin_folder(profile)
    # Both lie beside `plug-ins`, not in it: GIMP would take them for plug-ins.
    fresh = profile / f".{NAME}.new"
    former = profile / f".{NAME}.former"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(profile)
        remove(fresh)
        _copy(fresh, pythons)
        # Before it counts as the plug-in: a rename may outlive a power cut and the files not.
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
    """Clear up after an exchange that was broken off, and bring the former plug-in back if need be.

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
    """Let two folders change places in one step; False where that can't be had."""
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
    # By it the plug-in mends its worker's environment, wherever the checkout has gone.
    shutil.copytree(Path(__file__).parent, folder / "installer", ignore=skip)
    _compile_catalogues(folder / "locale")
    if (CHECKOUT / "LICENSE").is_file():
        shutil.copyfile(CHECKOUT / "LICENSE", folder / "LICENSE")
    lines = [f"{place}\t{python}" if place else python for place, python in pythons.items()]
    text = "".join(f"{line}\n" for line in lines)
    # The bytes of a path need not be UTF-8.
    (folder / WORKER_PYTHON).write_bytes(os.fsencode(text))
    # A fresh modification time, not the checkout's: GIMP asks a plug-in again only when it changed.
    shutil.copyfile(main, folder / MAIN)
    (folder / MAIN).chmod(0o755)


def _compile_catalogues(folder: Path) -> None:
    """Make `LANGUAGE/LC_MESSAGES/NAME.mo`, where GIMP and the worker look for them."""
    ready = CHECKOUT / "locale"
    if ready.is_dir():
        # This is an installed plug-in, which installs itself elsewhere.
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
    """Remove the plug-in from `profile`; False if it wasn't there. Raises Failure.

    What GIMP keeps of the plug-in's window goes too; it is in our own settings besides.
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
    # A profile that GIMP made is never empty: these are folders that we made for the plug-in.
    with contextlib.suppress(OSError):
        if not any(each != target.parent for each in profile.iterdir()):
            target.parent.rmdir()
            profile.rmdir()
    return True
