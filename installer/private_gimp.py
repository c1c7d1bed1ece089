"""A GIMP 3 of our own for machines that have none: a small Debian tree in the cache, fetched once.

Debian 13 carries GIMP 3.0 and its successor GIMP 3.2. The tree also has what GUI tests need
(a virtual X server, accessibility, fonts).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import programs
from .folders import Failure, cache_folder, locked, remove, say
from .launch import unshare
from .profiles import Gimp, machine_gimps, version_of
from .progress import CommandFailed, run_with_progress

SUITES = {"3.0": "trixie", "3.2": "forky"}
DEFAULT_SERIES = "3.0"
PACKAGES = (
    *("gimp", "gir1.2-gimp-3.0", "python3-gi", "gir1.2-gtk-3.0", "locales"),
    *("xvfb", "xdotool", "openbox", "dbus-x11", "imagemagick", "at-spi2-core", "gir1.2-atspi-2.0"),
    *("fonts-dejavu-core", "fonts-droid-fallback"),
)
LOCALE = "en_US.UTF-8"
"""GIMP speaks other languages (variable LANGUAGE) only where LANG names a real locale."""
MISSING = (
    "GIMP 3 is not installed here, and fetching a private one needs {}. "
    "Install GIMP 3.0 or 3.2 (gimp.org, or your system's package gimp) and try again."
)


@contextlib.contextmanager
def obtain(series: str | None) -> Iterator[Gimp]:
    """The GIMP to run: the machine's own if it has this series, else one in the cache.

    A fetched one can't be replaced by other runs meanwhile. Raises Failure with a sentence that
    says what to install.
    """
    own = [gimp for gimp in machine_gimps() if series in (None, gimp.series)]
    if own:
        yield own[-1]
        return
    wanted = series or DEFAULT_SERIES
    folder = cache_folder() / f"gimp-{wanted}"
    lock = folder.with_suffix(folder.suffix + ".lock")
    while True:
        with locked(lock, shared=True, waiting=f"Waiting for another run that fetches {folder} …"):
            if _complete(folder):
                _make_locale(folder / "root")
                yield _describe(wanted, folder)
                return
        with locked(lock, waiting=f"Waiting for other runs that use {folder} …"):
            if not _complete(folder):
                _fetch(wanted, folder)


def _recipe() -> str:
    return "\n".join(PACKAGES) + "\n"


def _complete(folder: Path) -> bool:
    try:
        return (folder / "packages.txt").read_text(encoding="utf-8") == _recipe()
    except OSError:
        return False


def _describe(series: str, folder: Path) -> Gimp:
    root = folder / "root"
    version = (folder / "version.txt").read_text(encoding="utf-8").strip()
    return Gimp(series, version, f"/usr/bin/gimp-console-{series}", root)


def _fetch(series: str, folder: Path) -> None:
    """Make the tree under a temporary name, and rename it when it is complete."""
    if not shutil.which("apt-get"):
        raise Failure(MISSING.format("apt (Debian or Ubuntu)"))
    if os.geteuid() != 0:
        raise Failure(MISSING.format("root"))
    if not shutil.which("mmdebstrap"):
        apt_install("mmdebstrap", "debian-archive-keyring")
    for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
        remove(leftover)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        partial.chmod(0o755)
        root = partial / "root"
        say(f"Fetching GIMP {series} from Debian {SUITES[series]} into {folder}, once (850 MB) …")
        _mmdebstrap(SUITES[series], root)
        version = version_of(f"/usr/bin/gimp-console-{series}", ["chroot", str(root)])
        if not version:
            raise Failure(f"Debian {SUITES[series]} has no GIMP {series} that runs here.")
        (partial / "version.txt").write_text(f"{version}\n", encoding="utf-8")
        (partial / "packages.txt").write_text(_recipe(), encoding="utf-8")
        remove(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_locale(root: Path) -> None:
    """Have the tree know LOCALE, which Debian leaves to be made; others may be using it."""
    locales = Path("/usr/lib/locale")
    place = root / locales.relative_to("/") / LOCALE.replace("UTF-8", "utf8")
    if place.is_dir():
        return
    partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
    language, charset = LOCALE.split(".")
    make = ["localedef", "--no-archive", "-i", language, "-f", charset]
    chroot = ["chroot", str(root), *make, str(locales / partial.name)]
    made = programs.run(chroot)
    # A run at the same time may have come first.
    with contextlib.suppress(OSError):
        if made.returncode == 0:
            partial.rename(place)
    shutil.rmtree(partial, ignore_errors=True)
    if not place.is_dir():
        raise Failure(f"The locale {LOCALE} could not be made: {made.stderr.strip()}.")


def _mmdebstrap(suite: str, root: Path) -> None:
    command = [
        # What mmdebstrap mounts must be gone when it was killed: leftovers are removed.
        *unshare(),
        "mmdebstrap",
        "--variant=minbase",
        # A suite that is still moving may be seen past the date that it names.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        f"--include={','.join(PACKAGES)}",
        suite,
        str(root),
    ]
    try:
        run_with_progress(command)
    except CommandFailed as error:
        raise Failure(
            f"GIMP could not be fetched: {error}. Its messages are above; "
            "is the network there, and enough room on the disk?"
        ) from error


def apt_install(*packages: str) -> None:
    """Install Debian packages on the machine, with the lists refreshed if need be."""
    say(f"Installing {' and '.join(packages)} with apt-get …")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    try:
        if programs.run(["apt-get", "--simulate", *install[1:]]).returncode:
            run_with_progress(["apt-get", "update"])
        run_with_progress(install)
    except CommandFailed as error:
        raise Failure(
            f"apt-get could not install {' '.join(packages)}. Its messages are above."
        ) from error
