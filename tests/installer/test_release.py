"""The zip of a release: it is reproducible, and sufficient to install the plug-in."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the checkout, without hidden files and caches."""
    folder = tmp_path / "checkout"
    skip = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(CHECKOUT, folder, ignore=skip)
    return folder


def build(checkout: Path, out: Path, **environ: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "installer", "release", "--out", out],
        cwd=checkout,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def test_a_second_build_has_the_same_bytes(checkout, tmp_path):
    first = build(checkout, tmp_path / "one")
    for path in checkout.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (checkout / "plugin/__pycache__").mkdir(exist_ok=True)
    (checkout / "plugin/__pycache__/job.pyc").write_bytes(b"left by python")
    (checkout / "plugin/job.py").chmod(0o600)
    second = build(checkout, tmp_path / "two", TZ="Asia/Tokyo", LANG="C")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_who_unpacks_it_can_install(user, tmp_path, installer):
    zip_file = build(CHECKOUT, tmp_path)
    # A download folder contains files of others. Python must not import this one to unpack.
    (tmp_path / "zipfile.py").write_text("open('planted', 'w')")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    unpack = set(re.findall(r"^ {4}(python3 .*-m zipfile .*)$", text, re.MULTILINE))
    assert len(unpack) == 1
    environ = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", *unpack], cwd=tmp_path, env=environ, check=True)
    assert not (tmp_path / "planted").exists()
    with zipfile.ZipFile(zip_file) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    place = zip_file.with_suffix("")
    assert {path.name for path in place.iterdir()} == {
        *("dimilinks_gimp.py", "plugin", "installer", "docs"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
        "install.cmd",
    }
    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o644, 0o755}
    profile = tmp_path / "profile"
    assert installer("--gimp-dir", profile, cwd=place).returncode == 0
    assert (profile / "plug-ins/dimilinks_gimp/locale/zh_CN/LC_MESSAGES").is_dir()
    assert installer("doctor", "--gimp-dir", profile, cwd=place).returncode == 0


def test_where_nothing_can_be_written_a_sentence_says_so(tmp_path, installer):
    (tmp_path / "file").write_text("")
    done = installer("release", "--out", tmp_path / "file")
    assert done.returncode == 1
    assert "can't be written" in done.stderr and "Traceback" not in done.stderr
