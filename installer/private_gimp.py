"""A private GIMP 3 for machines that have none: a small Debian system in our cache folder.

It is downloaded once. Debian 13 (trixie) has GIMP 3.0, and its successor has GIMP 3.2. The system
also contains what the GUI tests need: a virtual X server, accessibility tools and fonts.
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
"""A locale for LANG. GIMP uses the language in LANGUAGE only if LANG names an existing locale."""
MISSING = (
    "GIMP 3 is not installed here, and fetching a private one needs {}. "
    "Install GIMP 3.0 or 3.2 (gimp.org, or your system's package gimp) and try again."
)


@contextlib.contextmanager
def obtain(series: str | None) -> Iterator[Gimp]:
    """Yield a GIMP of `series`: the machine's own if it has one, or else one in the cache folder.

    Without `series`, it is the machine's newest or else DEFAULT_SERIES. Other runs can't replace a
    GIMP in the cache folder while the context lasts. Raises Failure, which says what to install.
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
    """Create the folder tree under a temporary name, and rename it when it is complete.

    Raises Failure.
    """
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
    """Compile LOCALE in the folder tree, because Debian doesn't include it. Raises Failure.

    Other runs may be using the tree at the same time.
    """
    locales = Path("/usr/lib/locale")
    place = root / locales.relative_to("/") / LOCALE.replace("UTF-8", "utf8")
    if place.is_dir():
        return
    partial = place.with_name(f"{place.name}.partial-{os.getpid()}")
    language, charset = LOCALE.split(".")
    make = ["localedef", "--no-archive", "-i", language, "-f", charset]
    chroot = ["chroot", str(root), *make, str(locales / partial.name)]
    made = programs.run(chroot)
    # Another run may have created it in the meantime.
    with contextlib.suppress(OSError):
        if made.returncode == 0:
            partial.rename(place)
    shutil.rmtree(partial, ignore_errors=True)
    if not place.is_dir():
        raise Failure(f"The locale {LOCALE} could not be made: {made.stderr.strip()}.")


def _mmdebstrap(suite: str, root: Path) -> None:
    command = [
        # If mmdebstrap is killed, its mounts must vanish, because the next run removes its files.
        *unshare(),
        "mmdebstrap",
        "--variant=minbase",
        # A suite that still changes may already be past the date until which it says it is valid.
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
    """Install Debian packages on the machine, after `apt-get update` if needed. Raises Failure."""
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
