"""The earlier version that benches compare this one with, in the same run."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

COMMIT = "2034c57"
_CHECKOUT = Path(__file__).resolve().parent.parent


def unpack(folder: Path) -> None:
    """Write the files of that version to `folder`."""
    archive = subprocess.run(
        ["git", "archive", COMMIT], cwd=_CHECKOUT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
