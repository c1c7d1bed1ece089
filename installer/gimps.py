"""Find the user's GIMP 3 installations of every kind, and the profiles that these GIMPs read.

A profile is the folder with GIMP's settings and plug-ins. Only Debian's GIMP is tested on a real
system. The other kinds are tested on simulated folders, so the comments name the sources of facts
about them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import programs
from .folders import NAME, config_folder, jobs_folder

SERIES = ("3.0", "3.2")

FLATPAK_ID = "org.gimp.GIMP"
SNAP_MOUNTS = (Path("/snap"), Path("/var/lib/snapd/snap"))
"""The folders in which snapd mounts snaps: the first on Debian and Ubuntu, the other on Fedora."""
APPLICATIONS = Path("/Applications")
NATIVE, FLATPAK, SNAP, APPIMAGE = "native", "Flatpak", "Snap", "AppImage"


@dataclass(frozen=True)
class Gimp:
    """An installed GIMP 3.

    `series` is a member of SERIES, `version` is, for example, "3.0.4", and `kind` says how GIMP was
    installed. `root` is the folder tree that contains a private GIMP, or None for a GIMP on the
    machine itself. `console` is the executable, or the option, that starts GIMP without a window.
    `starter` holds the words that must precede `console` on the command line.
    """

    series: str
    version: str
    console: str
    root: Path | None = None
    kind: str = NATIVE
    starter: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The place where GIMP's plug-ins run: "flatpak", "snap", or "" for the machine itself.

        Each place needs an interpreter of its own for the worker, because the interpreter of one
        place does not exist in another.
        """
        return self.kind.lower() if self.kind in (FLATPAK, SNAP) else ""

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that starts GIMP without a window, with `arguments`."""
        return [*self.starter, self.console, *arguments]

    def python(self, *arguments: str) -> list[str]:
        """Return the command line that runs the Python inside a Flatpak or Snap of GIMP."""
        if self.kind == FLATPAK:
            return ["flatpak", "run", "--command=python3", FLATPAK_ID, *arguments]
        # `snap run --shell` passes its arguments to a shell inside the snap. The second "python3"
        # becomes the shell's $0, so the shell passes only `arguments` on as "$@".
        inside = 'exec python3 "$@"'
        return ["snap", "run", "--shell", "gimp", "-c", inside, "python3", *arguments]


@dataclass(frozen=True)
class Profile:
    """A folder from which GIMP reads plug-ins and settings, and the GIMPs that read this folder.

    `named` is true if the user chose the folder. The installer then sets the environment variable
    GIMP3_DIRECTORY to the folder when it starts GIMP, so that GIMP uses the folder.
    """

    folder: Path
    gimps: tuple[Gimp, ...] = ()
    named: bool = False


# The next functions find GIMPs.


def machine_gimps() -> list[Gimp]:
    """Return the GIMPs on PATH: one of each supported series, if there is one, the newest last."""
    names = ("gimp-console", *(f"gimp-console-{series}" for series in SERIES))
    found = {}
    for path in filter(None, map(shutil.which, names)):
        for gimp in _described(path):
            found[gimp.series] = gimp
    return [found[series] for series in SERIES if series in found]


def all_gimps() -> list[Gimp]:
    """Return every GIMP of a supported series that this user has, the system's own first."""
    if sys.platform == "win32":
        return [gimp for path in _windows_consoles() for gimp in _described(str(path), "Windows")]
    found = machine_gimps()
    if sys.platform == "darwin":
        # GIMP's build scripts for macOS (gimp-macos-build) create a link named gimp-console in this
        # folder. Its name contains no version.
        for folder in (APPLICATIONS, Path.home() / "Applications"):
            for path in sorted(folder.glob("GIMP*.app/Contents/MacOS/gimp-console")):
                found += _described(str(path), "macOS")
        return found
    return [*found, *_flatpaks(), *_snaps(), *_appimages()]


def _described(console: str, kind: str = NATIVE) -> Iterator[Gimp]:
    """Yield the GIMP that the executable `console` starts, if GIMP's series is supported."""
    version = version_of(console)
    if series_of(version) in SERIES:
        yield Gimp(series_of(version), version, console, kind=kind)


def series_of(version: str) -> str:
    return ".".join(version.split(".")[:2])


def version_of(console: str, prefix: list[str] | None = None) -> str:
    """Return the version that GIMP's executable reports, such as "3.0.4", or "" if it doesn't run.

    `prefix` holds the words that must precede `console` on the command line.
    """
    return _version_in(_answer([*(prefix or []), console, "--version"]))


def _version_in(text: str) -> str:
    found = re.search(r"\b(\d+\.\d+\.\d+)\b", text)
    return found.group(1) if found else ""


def _answer(command: list[str]) -> str:
    try:
        return programs.run(command, programs.environ_of_gimp(), timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _flatpaks() -> Iterator[Gimp]:
    """Yield the Flatpak `org.gimp.GIMP`, if it is installed.

    The output of `flatpak info` has a line such as `Version: 3.0.6`. The executable inside the
    Flatpak is gimp-console-SERIES, as in every installation of GIMP.
    """
    if not shutil.which("flatpak"):
        return
    line = re.search(r"^\s*Version: *(\S+)", _answer(["flatpak", "info", FLATPAK_ID]), re.MULTILINE)
    version = _version_in(line[1]) if line else ""
    series = series_of(version)
    if series in SERIES:
        console = f"gimp-console-{series}"
        starter = ("flatpak", "run", f"--command={console}", FLATPAK_ID)
        yield Gimp(series, version, console, kind=FLATPAK, starter=starter)


def _snaps() -> Iterator[Gimp]:
    """Yield the Snap `gimp`, if it is installed.

    The version is in `meta/snap.yaml`, a file that every mounted snap contains. The snap offers
    only the command `gimp`, which runs `usr/bin/gimp` (source: GIMP's
    build/linux/snap/snapcraft.yaml). So the option --no-interface replaces gimp-console.
    """
    for mount in SNAP_MOUNTS:
        try:
            about = (mount / "gimp/current/meta/snap.yaml").read_text(encoding="utf-8")
        except OSError:
            continue
        line = re.search(r"^version: *(.+)", about, re.MULTILINE)
        version = _version_in(line[1]) if line else ""
        series = series_of(version)
        if series in SERIES and shutil.which("snap"):
            starter = ("snap", "run", "gimp")
            yield Gimp(series, version, "--no-interface", kind=SNAP, starter=starter)
            return


def _appimages() -> Iterator[Gimp]:
    """Yield the AppImages of GIMP in the folders where people usually keep such files.

    The files have names like `GIMP-3.0.4-x86_64.AppImage`. The program AppRun in an AppImage passes
    all arguments to GIMP. GIMP's plug-ins run on the machine itself, because an AppImage is not
    confined.
    """
    home = Path.home()
    seen = set()
    for folder in ("Applications", "AppImages", "bin", ".local/bin", "Downloads", "Desktop", ""):
        for path in sorted((home / folder).glob("GIMP-3*.AppImage")):
            version = _version_in(path.name)
            series = series_of(version)
            if series in SERIES and version not in seen and os.access(path, os.X_OK):
                seen.add(version)
                yield Gimp(series, version, "--no-interface", kind=APPIMAGE, starter=(str(path),))


def _windows_consoles() -> Iterator[Path]:
    """Yield the executables, installed by GIMP's Windows installer, that run without a window.

    The executables are called `bin\\gimp-console-SERIES.exe`. The registry names GIMP's folder
    under `GIMP-3_is1` (the AppID of GIMP's installer). By default, the folder is `GIMP 3` in
    Program Files or, if GIMP was installed for a single user, in %LOCALAPPDATA%\\Programs (Inno
    Setup's {autopf}). The source is GIMP's build/windows/installer/base_gimp3264.iss.
    """
    folders = [*_windows_registry()]
    for variable in ("ProgramFiles", "ProgramW6432", "LOCALAPPDATA"):
        if base := os.environ.get(variable):
            programs = Path(base) / ("Programs" if variable == "LOCALAPPDATA" else "")
            folders += sorted(programs.glob("GIMP 3*"))
    seen = set()
    for folder in folders:
        for series in SERIES:
            path = folder / "bin" / f"gimp-console-{series}.exe"
            if path not in seen and path.is_file():
                seen.add(path)
                yield path


def _windows_registry() -> Iterator[Path]:
    try:
        import winreg
    except ImportError:
        return
    name = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\GIMP-3_is1"
    for root in ("HKEY_CURRENT_USER", "HKEY_LOCAL_MACHINE"):
        try:
            with winreg.OpenKey(getattr(winreg, root), name) as key:  # type: ignore[attr-defined]
                yield Path(winreg.QueryValueEx(key, "InstallLocation")[0])  # type: ignore[attr-defined]
        except OSError:
            continue


# The next functions find profiles.


def profile_folder(gimp: Gimp) -> Path:
    """Return the folder of the profile that `gimp` reads by default.

    Outside Flatpak and Snap, the profile is the folder GIMP/SERIES in the platform's configuration
    folder (source: GIMP's libgimpbase/gimpenv.c).
    """
    if gimp.kind == FLATPAK:
        return _flatpak_profiles() / gimp.series
    if gimp.kind == SNAP:
        return _snap_profiles() / gimp.series
    return config_folder() / "GIMP" / gimp.series


def _flatpak_profiles() -> Path:
    """Return the folder that contains the profiles of the Flatpak.

    The Flatpak's manifest has `--filesystem=xdg-config/GIMP`. Therefore Flatpak mounts the folder
    ~/.config/GIMP, if it exists, in place of the Flatpak's own configuration folder (sources:
    flathub/org.gimp.GIMP issue 72, flatpak-builder-lint issue 232).
    """
    own = Path.home() / ".var/app" / FLATPAK_ID / "config/GIMP"
    shared = config_folder() / "GIMP"
    return shared if shared.is_dir() else own


def _snap_profiles() -> Path:
    """Return the folder that contains the profiles of the Snap.

    In the snap, XDG_CONFIG_HOME is $SNAP_USER_DATA/.config. snapd makes a new copy of the folder
    $SNAP_USER_DATA at each update, and lets the link `current` lead to the newest copy (source:
    snapcrafters/gimp issue 45).
    """
    return Path.home() / "snap/gimp/current/.config/GIMP"


def _store_profiles() -> Iterator[Path]:
    """Yield the folders that contain the profiles of the Microsoft Store's GIMP.

    Windows redirects the files that this GIMP writes to %APPDATA% into a folder of GIMP's package,
    because the package's AppxManifest.xml has no capability that prevents this. The installer can't
    start this GIMP to query it.
    """
    if base := os.environ.get("LOCALAPPDATA"):
        yield from (Path(base) / "Packages").glob("*GIMP*_*/LocalCache/Roaming/GIMP")


def _parents() -> Iterator[Path]:
    """Yield the folders in which GIMPs create their profiles, each named after a series.

    The installer looks there for profiles of GIMPs that it does not find. The folders need not
    exist.
    """
    yield config_folder() / "GIMP"
    if sys.platform == "win32":
        yield from _store_profiles()
    elif sys.platform != "darwin":
        yield _flatpak_profiles()
        yield _snap_profiles()


def named_profile(folder: Path) -> Profile:
    """Return the profile in `folder`, which the user chose, with the GIMPs that are to use it.

    These are all GIMPs that read `folder` by default. If there are none, it is one GIMP outside
    Flatpak and Snap: if the folder is named after a series, a GIMP of that series, and otherwise
    the newest GIMP. The profile has no GIMPs if there is no such GIMP either.
    """
    folder = folder.expanduser().absolute()
    gimps = all_gimps()
    own = [gimp for gimp in gimps if profile_folder(gimp) == folder]
    if own:
        return Profile(folder, tuple(own), named=True)
    fitting = [gimp for gimp in gimps if not gimp.place and gimp.series == folder.name]
    if folder.name not in SERIES:
        fitting = sorted((g for g in gimps if not g.place), key=lambda gimp: gimp.series)
    return Profile(folder, tuple(fitting[-1:]), named=True)


def find_profiles() -> list[Profile]:
    """Return the profiles of every GIMP 3 that is installed or was used by this user.

    If the environment variable GIMP3_DIRECTORY is set, return only the profile that it names.
    """
    own = os.environ.get("GIMP3_DIRECTORY")
    if own:
        # A relative path is relative to the home folder, as for GIMP.
        return [named_profile(Path.home() / Path(own).expanduser())]
    read: dict[Path, list[Gimp]] = {}
    for gimp in all_gimps():
        read.setdefault(profile_folder(gimp), []).append(gimp)
    for parent in _parents():
        for series in SERIES:
            if (parent / series).is_dir():
                read.setdefault(parent / series, [])
    return [Profile(folder, tuple(gimps)) for folder, gimps in read.items()]


def homes() -> list[Path]:
    """Return the folders in which the plug-in keeps the key, settings and jobs.

    These are the machine's folder and, if they exist, the folders inside the Flatpak and the Snap.
    The latter differ from the machine's, because both set XDG_DATA_HOME to a folder of their own.
    """
    inside = (
        Path.home() / ".var/app" / FLATPAK_ID / "data" / NAME,
        Path.home() / "snap/gimp/current/.local/share" / NAME,
    )
    return [jobs_folder(), *(folder for folder in inside if folder.is_dir())]
