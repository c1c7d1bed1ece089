"""Which GIMP 3 this user has, however it came to the machine, and which profiles these read.

Where a fact about a foreign platform comes from stands with it. What runs here for real is Debian's
GIMP; the others are tested on faked trees.
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
"""Where snapd mounts its packages: the first on Debian and Ubuntu, the other on Fedora."""
APPLICATIONS = Path("/Applications")
NATIVE, FLATPAK, SNAP, APPIMAGE = "native", "Flatpak", "Snap", "AppImage"


@dataclass(frozen=True)
class Gimp:
    """A GIMP 3. `root` is the folder tree that it lives in, or None for one on the machine itself.

    `console` is what starts it without a window, `starter` what has to stand before that.
    """

    series: str
    version: str
    console: str
    root: Path | None = None
    kind: str = NATIVE
    starter: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where its plug-ins run: "" for the machine itself, "flatpak" or "snap" for a sandbox.

        Interpreters are noted by it: what runs inside one sandbox doesn't exist outside.
        """
        return self.kind.lower() if self.kind in (FLATPAK, SNAP) else ""

    def command(self, *arguments: str) -> list[str]:
        """The command line that starts it without a window."""
        return [*self.starter, self.console, *arguments]

    def python(self, *arguments: str) -> list[str]:
        """The command line for the Python that its plug-ins run in, inside its sandbox."""
        if self.kind == FLATPAK:
            return ["flatpak", "run", "--command=python3", FLATPAK_ID, *arguments]
        # `snap run --shell` hands its arguments to the shell inside.
        inside = 'exec python3 "$@"'
        return ["snap", "run", "--shell", "gimp", "-c", inside, "python3", *arguments]


@dataclass(frozen=True)
class Profile:
    """A folder that GIMP reads plug-ins and settings from, and the GIMPs that do.

    `named`: given by hand, so that GIMP has to be led there.
    """

    folder: Path
    gimps: tuple[Gimp, ...] = ()
    named: bool = False


# Which GIMPs there are


def machine_gimps() -> list[Gimp]:
    """The GIMPs of the system's packages, of the series that we know, newest series last."""
    names = ("gimp-console", *(f"gimp-console-{series}" for series in SERIES))
    found = {}
    for path in filter(None, map(shutil.which, names)):
        for gimp in _described(path):
            found[gimp.series] = gimp
    return [found[series] for series in SERIES if series in found]


def all_gimps() -> list[Gimp]:
    """Every GIMP 3 of this user, the system's own first."""
    if sys.platform == "win32":
        return [gimp for path in _windows_consoles() for gimp in _described(str(path), "Windows")]
    found = machine_gimps()
    if sys.platform == "darwin":
        # gimp-macos-build links the console without its version in there.
        for folder in (APPLICATIONS, Path.home() / "Applications"):
            for path in sorted(folder.glob("GIMP*.app/Contents/MacOS/gimp-console")):
                found += _described(str(path), "macOS")
        return found
    return [*found, *_flatpaks(), *_snaps(), *_appimages()]


def _described(console: str, kind: str = NATIVE) -> Iterator[Gimp]:
    """The GIMP behind an executable, if it is one of the series that we know."""
    version = version_of(console)
    if series_of(version) in SERIES:
        yield Gimp(series_of(version), version, console, kind=kind)


def series_of(version: str) -> str:
    return ".".join(version.split(".")[:2])


def version_of(console: str, prefix: list[str] | None = None) -> str:
    """The version that the executable reports, such as `3.0.4`; empty if it doesn't run."""
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
    """The Flatpak `org.gimp.GIMP`: by `flatpak info`, whose answer has a line `Version: 3.0.6`.

    Which executable to ask for: GIMP installs gimp-console-SERIES everywhere.
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
    """The Snap `gimp`: its version is in `meta/snap.yaml`, as in every mounted snap.

    It has one app, `gimp` (GIMP's build/linux/snap/snapcraft.yaml), which runs `usr/bin/gimp`.
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
    """AppImages where people keep them, such as `GIMP-3.0.4-x86_64.AppImage`.

    That is how GIMP names them; its AppRun hands all arguments to GIMP. They run unconfined.
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
    """The consoles of GIMP's installer for Windows.

    GIMP's build/windows/installer/base_gimp3264.iss: the folder is `GIMP 3` in Program Files or,
    for this user only, in %LOCALAPPDATA%\\Programs (Inno Setup's {autopf}), or what the registry
    says under `GIMP-3_is1` (its AppID); the executable is `bin\\gimp-console-SERIES.exe`.
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


# Which profiles they read


def profile_folder(gimp: Gimp) -> Path:
    """The profile that this GIMP reads where nothing else is said.

    GIMP's libgimpbase/gimpenv.c: the configuration folder, then GIMP/SERIES.
    """
    if gimp.kind == FLATPAK:
        return _flatpak_profiles() / gimp.series
    if gimp.kind == SNAP:
        return _snap_profiles() / gimp.series
    return config_folder() / "GIMP" / gimp.series


def _flatpak_profiles() -> Path:
    """The Flatpak's manifest asks for `--filesystem=xdg-config/GIMP`: where the user has a folder
    ~/.config/GIMP already, Flatpak mounts that in place of the app's own (flathub/org.gimp.GIMP
    issue 72; flatpak-builder-lint issue 232).
    """
    own = Path.home() / ".var/app" / FLATPAK_ID / "config/GIMP"
    shared = config_folder() / "GIMP"
    return shared if shared.is_dir() else own


def _snap_profiles() -> Path:
    """The snap sees XDG_CONFIG_HOME=$SNAP_USER_DATA/.config, and `current` leads to that; snapd
    copies it at each refresh (snapcrafters/gimp issue 45).
    """
    return Path.home() / "snap/gimp/current/.config/GIMP"


def _store_profiles() -> Iterator[Path]:
    """The Microsoft Store's GIMP keeps what it writes to %APPDATA% in its package's own folder, as
    it is not exempt from that (its AppxManifest.xml has no such capability), and can't be asked.
    """
    if base := os.environ.get("LOCALAPPDATA"):
        yield from (Path(base) / "Packages").glob("*GIMP*_*/LocalCache/Roaming/GIMP")


def _parents() -> Iterator[Path]:
    """The folders that profiles lie in, by their series, whether their GIMP is found or not."""
    yield config_folder() / "GIMP"
    if sys.platform == "win32":
        yield from _store_profiles()
    elif sys.platform != "darwin":
        yield _flatpak_profiles()
        yield _snap_profiles()


def named_profile(folder: Path) -> Profile:
    """The profile of a folder given by hand, with the GIMPs that read it, or would.

    The latter by the folder's name, else the newest.
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
    """The profiles of every GIMP 3 that is installed here or was used by this user."""
    own = os.environ.get("GIMP3_DIRECTORY")
    if own:
        # GIMP takes a relative one from the home folder.
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
    """Where the plug-in keeps key, settings and jobs: on the machine, and in each sandbox.

    Flatpak and Snap set XDG_DATA_HOME to a folder of the app's own.
    """
    inside = (
        Path.home() / ".var/app" / FLATPAK_ID / "data" / NAME,
        Path.home() / "snap/gimp/current/.local/share" / NAME,
    )
    return [jobs_folder(), *(folder for folder in inside if folder.is_dir())]
