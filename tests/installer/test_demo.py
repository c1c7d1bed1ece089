"""The demo, as a new user runs it."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from installer.folders import Failure
from installer.private import debian, demo

# The script can only be imported inside GIMP.
_SOURCE = Path(demo.SCRIPT).read_text(encoding="utf-8")
SELECTED = ast.literal_eval(re.findall(r"^SAUCER = (.+)$", _SOURCE, re.MULTILINE)[0])


@pytest.mark.gimp
@pytest.mark.parametrize("series", ["3.0", "3.2"])
def test_the_demo_edits_the_selection_alone(installer, series, tmp_path):
    out = tmp_path / "out folder"
    done = installer("demo", "--gimp", series, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Outside the selection 0 of" in done.stdout
    assert f"GIMP {series}." in done.stdout
    with Image.open(out / "before.png") as before, Image.open(out / "after.png") as after:
        changed = ImageChops.difference(before.convert("RGB"), after.convert("RGB")).getbbox()
    assert changed is not None
    left, top, right, bottom = changed
    x, y, width, height = SELECTED
    assert left >= x and top >= y and right <= x + width and bottom <= y + height
    assert (out / "edited.xcf").read_bytes().startswith(b"gimp xcf")


def test_without_apt_a_sentence_says_what_to_install(user, installer, tmp_path, monkeypatch):
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = installer("demo")
    assert done.returncode == 1
    assert "Install GIMP 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_windows_hears_what_to_install(tmp_path, monkeypatch):
    """Windows has no apt, and Python has no os.geteuid there."""
    monkeypatch.delattr(os, "geteuid")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(debian, "machine_gimps", list)
    with pytest.raises(Failure, match="Install GIMP 3"), debian.obtain("3.2"):
        pass
