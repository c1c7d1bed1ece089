"""The plug-in's files: into a GIMP profile in one step, and out of it."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from . import catalogue
from .folders import CHECKOUT, Failure, remove

NAME = "dimilinks_gimp"
MAIN = f"{NAME}.py"
WORKER_PYTHON = "worker-python.txt"


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


def worker_python(profile: Path) -> str:
    """The interpreter noted for this profile's worker; empty if there is none."""
    try:
        note = plugin_folder(profile) / WORKER_PYTHON
        return note.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def install(profile: Path, python: str) -> None:
    """Put the checkout's plug-in into `profile`, with `python` noted as its worker's interpreter.

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
        _copy(fresh, python)
        if target.exists():
            target.rename(former)
        try:
            fresh.rename(target)
        except BaseException:
            recover(profile)
            raise
        remove(former)
    except OSError as error:
        raise Failure(f"The plug-in can't be written to {target}: {error.strerror}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def recover(profile: Path) -> None:
    """Bring the former plug-in back if an exchange was broken off in the middle."""
    target = plugin_folder(profile)
    former = profile / f".{NAME}.former"
    if former.exists():
        if target.exists():
            remove(former)
        else:
            former.rename(target)


def _copy(folder: Path, python: str) -> None:
    main = CHECKOUT / MAIN
    if not main.is_file():
        raise Failure(f"{main} is missing: this checkout is not complete.")
    folder.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "locale")
    shutil.copytree(CHECKOUT / "plugin", folder / "plugin", ignore=skip)
    _compile_catalogues(folder / "locale")
    if (CHECKOUT / "LICENSE").is_file():
        shutil.copyfile(CHECKOUT / "LICENSE", folder / "LICENSE")
    (folder / WORKER_PYTHON).write_text(f"{python}\n", encoding="utf-8")
    # A fresh modification time, not the checkout's: GIMP asks a plug-in again only when it changed.
    shutil.copyfile(main, folder / MAIN)
    (folder / MAIN).chmod(0o755)


def _compile_catalogues(folder: Path) -> None:
    """Make `LANGUAGE/LC_MESSAGES/NAME.mo`, where GIMP and the worker look for them."""
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
    """Remove the plug-in from `profile`; False if it wasn't there. Raises Failure."""
    recover(profile)
    target = plugin_folder(profile)
    if not is_installed(profile):
        return False
    gone = profile / f".{NAME}.gone"
    try:
        remove(gone)
        target.rename(gone)
        remove(gone)
    except OSError as error:
        raise Failure(f"{target} can't be removed: {error.strerror}.") from error
    # A profile that GIMP made is never empty: these are folders that we made for the plug-in.
    with contextlib.suppress(OSError):
        if not any(each != target.parent for each in profile.iterdir()):
            target.parent.rmdir()
            profile.rmdir()
    return True
