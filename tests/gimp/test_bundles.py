"""GIMPs that bring their own libraries, or share a profile with a GIMP in a Flatpak."""

from __future__ import annotations

from pathlib import Path

from installer.payload import WORKER_PYTHON, plugin_folder
from installer.private.host import PrivateGimp
from tests.installer.roots import EDIT


def test_the_worker_of_an_appimage_is_the_machines(gimp: PrivateGimp, tmp_path: Path) -> None:
    """An AppImage makes programs load its libraries, but the worker must use the machine's."""
    note = plugin_folder(gimp.profile) / WORKER_PYTHON
    former = note.read_text()
    seen, python, script = (tmp_path / name for name in ("seen", "python", "script.py"))
    python.write_text(f'#!/bin/sh\nenv > "{seen}"\nexec {former.strip()} "$@"\n')
    python.chmod(0o755)
    script.write_text(EDIT)
    # The first path is for a GIMP in a Flatpak, and must not be used here.
    note.write_text(f"flatpak\t/nowhere/python\n{python}\n")
    try:
        code = gimp.script(
            script,
            env={
                "DIMILINKS_BASE_URL": "sandbox",
                "DIMILINKS_HOME": str(tmp_path / "home"),
                "APPDIR": str(tmp_path),
                "LD_PRELOAD": "libm.so.6",
                "LD_LIBRARY_PATH": "/nowhere",
                "PYTHONPATH": "/nowhere",
            },
            shares=[tmp_path],
        )
    finally:
        note.write_text(former)
    assert code == 0
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert "PATH" in names
    assert not names & {"LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH"}
