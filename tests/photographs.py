"""Photographs of nature for the benches, larger than those in scikit-image."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from installer.folders import cache_folder

_PACKAGE = "mate-backgrounds"
"""A Debian package. It is downloaded once, and not installed."""


def nature() -> Path:
    """Return a folder with Wood.jpg (2560×1920), Blinds.jpg (1920×1200), Storm.jpg, Dune.jpg, …

    The photographs are downloaded with apt-get if they are not there.
    """
    place = cache_folder() / "photographs"
    if not (place / "Wood.jpg").is_file():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            # apt-get downloads as a user of its own, which must have access to the folder.
            Path(name).chmod(0o755)
            download = ["apt-get", "download", _PACKAGE]
            subprocess.run(download, cwd=name, check=True, capture_output=True)
            package = next(Path(name).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, name], check=True)
            for file in sorted(Path(name).glob("usr/share/backgrounds/mate/nature/*.jpg")):
                (place / file.name).write_bytes(file.read_bytes())
    return place
