"""A private GIMP 3 for machines that have none: a small Debian system in our cache folder.

The installer downloads this system once. Debian 13 (trixie) has GIMP 3.0, and the successor of
Debian 13 (forky) has GIMP 3.2. The system also contains the programs that the tests of GIMP's
windows use: a virtual X server, accessibility tools and fonts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import programs
from ..folders import Failure, cache_folder, locked, remove, say
from ..gimps import Gimp, machine_gimps, version_of
from ..inside import unshare
from ..programs import CommandFailed, run_with_progress

SUITES = {"3.0": "trixie", "3.2": "forky"}
DEFAULT_SERIES = "3.0"
PACKAGES = (
    *("gimp", "gir1.2-gimp-3.0", "python3-gi", "gir1.2-gtk-3.0", "locales"),
    *("xvfb", "xdotool", "openbox", "dbus-x11", "imagemagick", "at-spi2-core", "gir1.2-atspi-2.0"),
    *("fonts-dejavu-core", "fonts-droid-fallback"),
)
LOCALE = "en_US.UTF-8"
"""The locale to which the environment variable LANG can be set.

GIMP uses the language in the variable LANGUAGE only if LANG names an existing locale.
"""
MISSING = (
    "GIMP 3 is not installed here, and fetching a private one needs {}. "
    "Install GIMP 3.0 or 3.2 (gimp.org, or your system's package gimp) and try again."
)


@contextlib.contextmanager
def obtain(series: str | None) -> Iterator[Gimp]:
    """Yield a GIMP of `series`: the machine's own if there is one, or else one in the cache folder.

    Without `series`, yield the machine's newest GIMP or else a GIMP of DEFAULT_SERIES. A lock keeps
    other runs from replacing the GIMP in the cache folder during the `with` block. If there is no
    GIMP, raises Failure, whose message says what to install.
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
    """Download a Debian system with a GIMP of `series` into `folder`.

    The folder has a temporary name until the download is complete. Raises Failure.
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
    """Compile LOCALE in the folder tree `root`, because Debian doesn't include it compiled.

    Other runs possibly use the tree, or compile LOCALE in it, at the same time. Raises Failure.
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
    # Ignore a failure of the rename: it means that another run has created the locale meanwhile.
    with contextlib.suppress(OSError):
        if made.returncode == 0:
            partial.rename(place)
    shutil.rmtree(partial, ignore_errors=True)
    if not place.is_dir():
        raise Failure(f"The locale {LOCALE} could not be made: {made.stderr.strip()}.")


def _mmdebstrap(suite: str, root: Path) -> None:
    command = [
        # Run mmdebstrap in a mount namespace of its own, so that its mounts vanish if it is killed:
        # the next run removes the folder with everything that is mounted there.
        *unshare(),
        "mmdebstrap",
        "--variant=minbase",
        # Ignore the date until which a suite (a Debian release) says that it is valid, because this
        # date can already be past in a suite that Debian still develops.
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
    """Install Debian packages on the machine, after `apt-get update` if apt doesn't know them.

    Raises Failure.
    """
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
