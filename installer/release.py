"""Build the release zip, which users unpack and run without git.

The same sources give the same bytes on every machine. For this purpose, the zip contains the files
in sorted order, without their times and owners, and uncompressed, because compressors differ.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from . import payload
from .folders import CHECKOUT, Failure

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip. It is the earliest time that the zip format allows."""
_PARTS = {
    "plugin": ("*.py", "*.po"),
    "installer": ("*.py", "*.txt", "*.in"),
    "docs": ("*.md", "*.png", "*.jpg"),
}
_DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")
_STARTER = "installer/install.cmd"
"""The script that users of Windows double-click to install. In the zip, it is in the top folder."""


def build(folder: Path) -> Path:
    """Write `dimilinks-gimp-VERSION.zip` into `folder`, and return its path. Raises Failure."""
    version = payload.version(CHECKOUT)
    top = f"dimilinks-gimp-{version}"
    target = folder / f"{top}.zip"
    partial = target.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w") as archive:
            for name, path in sorted(_files()):
                about = zipfile.ZipInfo(f"{top}/{name}", _LONG_AGO)
                # Set the system (3 is Unix) and the permissions, because the default values would
                # depend on this machine.
                about.create_system = 3
                mode = 0o755 if name == payload.MAIN else 0o644
                about.external_attr = (0o100000 | mode) << 16
                archive.writestr(about, path.read_bytes())
        partial.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise Failure(f"{target} can't be written: {error.strerror}.") from error
    return target


def _files() -> Iterator[tuple[str, Path]]:
    """Yield, for each file of the zip, its name in the top folder and its path in the checkout."""
    for name in (payload.MAIN, *_DOCUMENTS):
        yield name, CHECKOUT / name
    yield Path(_STARTER).name, CHECKOUT / _STARTER
    for part, patterns in _PARTS.items():
        for pattern in patterns:
            for path in (CHECKOUT / part).rglob(pattern):
                yield path.relative_to(CHECKOUT).as_posix(), path
