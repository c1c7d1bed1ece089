"""Which GIMP 3 this machine has, and which profile folders this user has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .folders import config_folder

SERIES = ("3.0", "3.2")


@dataclass(frozen=True)
class Gimp:
    """A GIMP 3. `root` is the folder tree that it lives in, or None for the machine's own."""

    series: str
    version: str
    console: str
    root: Path | None = None


@dataclass(frozen=True)
class Profile:
    """A folder that GIMP reads plug-ins and settings from, and the GIMP that does."""

    folder: Path
    gimp: Gimp | None


def profile_folders(series: str) -> list[Path]:
    """The profile folders that GIMP of this series may read, by kind of installation.

    Flatpak, Snap, Windows and macOS have theirs elsewhere: each is one more line here.
    """
    return [
        config_folder() / "GIMP" / series,  # native Linux
    ]


def version_of(console: str, prefix: list[str] | None = None) -> str:
    """The version that the executable reports, such as `3.0.4`; empty if it doesn't run."""
    try:
        answer = subprocess.run(
            [*(prefix or []), console, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\b(\d+\.\d+\.\d+)\b", answer.stdout)
    return found.group(1) if found else ""


def machine_gimps() -> list[Gimp]:
    """The machine's own GIMPs of the series that we know, newest series last."""
    gimps: dict[str, Gimp] = {}
    for name in ("gimp-console", *(f"gimp-console-{series}" for series in SERIES)):
        path = shutil.which(name)
        version = version_of(path) if path else ""
        series = ".".join(version.split(".")[:2])
        if path and series in SERIES:
            gimps[series] = Gimp(series, version, path)
    return [gimps[series] for series in SERIES if series in gimps]


def gimp_for(folder: Path) -> Gimp | None:
    """The machine's GIMP that would read this profile: by the folder's name, else the newest."""
    gimps = machine_gimps()
    named = [gimp for gimp in gimps if gimp.series == folder.name]
    if folder.name in SERIES:
        return named[0] if named else None
    return gimps[-1] if gimps else None


def find_profiles() -> list[Profile]:
    """The profiles of every GIMP 3 that is installed here or was used by this user."""
    own = os.environ.get("GIMP3_DIRECTORY")
    if own:
        folder = Path(own).expanduser().absolute()
        return [Profile(folder, gimp_for(folder))]
    gimps = {gimp.series: gimp for gimp in machine_gimps()}
    return [
        Profile(folder, gimps.get(series))
        for series in SERIES
        for folder in profile_folders(series)
        if series in gimps or folder.is_dir()
    ]
