"""Copy the plug-in's files into a GIMP profile in one step, or remove them.

GIMP expects the file `plug-ins/NAME/NAME.py`, so an update exchanges the whole folder NAME for a
new one. Linux and macOS can exchange two folders with one system call. On other systems, the
exchange takes two renames. If the installer is killed between the two renames, the next run of the
installer repairs the profile.
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
"""The file with the paths of the worker's interpreters, one line for each place.

A place is where GIMP runs the plug-in: the machine itself, a Flatpak or a Snap. The line for the
machine is the path of the interpreter. The line for a Flatpak or Snap is `flatpak` or `snap`, a
tab, and the path.
"""


def plugin_folder(profile: Path) -> Path:
    """Return the plug-in's folder in `profile`, where GIMP expects `plug-ins/NAME/NAME.py`."""
    return profile / "plug-ins" / NAME


def is_installed(profile: Path) -> bool:
    return plugin_folder(profile).is_dir()


def version(folder: Path) -> str:
    """Return the plug-in's version, read from the code in `folder`.

    `folder` is the folder of an installed plug-in, or the checkout (the folder of this project's
    sources). Returns "unknown" if `folder` contains no version.
    """
    try:
        text = (folder / "plugin" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def worker_pythons(profile: Path) -> dict[str, str]:
    """Return the interpreters in WORKER_PYTHON of this profile, as a dictionary from place to path.

    A place is "flatpak", "snap", or "" for the machine itself. The dictionary is empty if the file
    can't be read.
    """
    try:
        lines = os.fsdecode((plugin_folder(profile) / WORKER_PYTHON).read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    parts = [line.strip().rpartition("\t") for line in lines if line.strip()]
    return {place: python for place, _tab, python in parts}


def install(profile: Path, pythons: Mapping[str, str]) -> None:
    """Install the checkout's plug-in in `profile`, with `pythons`, the interpreters by place.

    A plug-in that is already installed stays until the new files are complete. If the exchange
    fails, the former plug-in is restored. Raises Failure if the installer can't write to the
    profile.
    """
    target = plugin_folder(profile)
    # Both folders are next to the folder `plug-ins`, because GIMP would try to load them as
    # plug-ins if they were in it.
    fresh = profile / f".{NAME}.new"
    former = profile / f".{NAME}.former"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(profile)
        remove(fresh)
        _copy(fresh, pythons)
        # Flush the files before the rename. Otherwise the disk could have the new name but not the
        # files after a power failure.
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
    """Repair `profile` if an installer was interrupted while it exchanged or removed the plug-in.

    Restore the former plug-in if there is no new one, and remove the temporary folders. Raises
    OSError.
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
    """Exchange two folders in one step, and return whether the system could do this."""
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
    # Copy the installer, too, so that the plug-in can repair the worker's environment when there is
    # no checkout any more.
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "private")
    shutil.copytree(Path(__file__).parent, folder / "installer", ignore=skip)
    _compile_catalogues(folder / "locale")
    if (CHECKOUT / "LICENSE").is_file():
        shutil.copyfile(CHECKOUT / "LICENSE", folder / "LICENSE")
    lines = [f"{place}\t{python}" if place else python for place, python in pythons.items()]
    text = "".join(f"{line}\n" for line in lines)
    # Write bytes, because the paths need not be valid UTF-8.
    (folder / WORKER_PYTHON).write_bytes(os.fsencode(text))
    # copyfile gives the new file a new modification time. This makes GIMP load the updated plug-in
    # at the next start, because GIMP compares the time with the one in its list of plug-ins.
    shutil.copyfile(main, folder / MAIN)
    (folder / MAIN).chmod(0o755)


def _compile_catalogues(folder: Path) -> None:
    """Create the catalogues (translations) `LANGUAGE/LC_MESSAGES/NAME.mo` in `folder`.

    GIMP and the worker read these files. Raises Failure if a catalogue has a syntax error.
    """
    ready = CHECKOUT / "locale"
    if ready.is_dir():
        # CHECKOUT is an installed plug-in, because this installer is the copy in that plug-in. It
        # already has compiled catalogues.
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
    """Remove the plug-in from `profile`, and return whether it was installed there.

    Also remove the last values that GIMP keeps for the plug-in's procedures. The user loses no
    choices by this, because the plug-in's own settings contain the choices made in its window.
    Raises Failure.
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
    # A profile that GIMP created always contains other files. If this one contains none, the
    # installer created the profile for the plug-in, so remove it.
    with contextlib.suppress(OSError):
        if not any(each != target.parent for each in profile.iterdir()):
            target.parent.rmdir()
            profile.rmdir()
    return True
