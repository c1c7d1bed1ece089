"""The zip to hand out: what a user without git unpacks, and runs as it is.

The same sources give the same bytes anywhere: sorted, without the times and owners of the files,
and stored, as compressors differ.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from . import payload
from .folders import CHECKOUT, Failure

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name."""
_PARTS = {
    "plugin": ("*.py", "*.po"),
    "installer": ("*.py", "*.txt", "*.in"),
    "docs": ("*.md", "*.png", "*.jpg"),
}
_STARTER = "installer/install.cmd"
"""Lies on top in the zip, to be double-clicked on Windows."""


def build(folder: Path) -> Path:
    """Write `dimilinks-gimp-VERSION.zip` into `folder`, and return where it is. Raises Failure."""
    version = payload.version(CHECKOUT)
    top = f"dimilinks-gimp-{version}"
    target = folder / f"{top}.zip"
    partial = target.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w") as archive:
            for name, path in sorted(_files()):
                about = zipfile.ZipInfo(f"{top}/{name}", _LONG_AGO)
                # By what it is, not by the machine that packs.
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
    """What is in it, by name from the top."""
    for name in (payload.MAIN, "README.md", "LICENSE"):
        yield name, CHECKOUT / name
    yield Path(_STARTER).name, CHECKOUT / _STARTER
    for part, patterns in _PARTS.items():
        for pattern in patterns:
            for path in (CHECKOUT / part).rglob(pattern):
                yield path.relative_to(CHECKOUT).as_posix(), path
