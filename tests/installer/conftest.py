"""The installer as users run it: its commands in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from installer.folders import cache_folder, locked

CHECKOUT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
# What pip would reach the network by leads nowhere.
OFFLINE = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_RETRIES": "0",
    "PIP_FIND_LINKS": "",
}


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that pass the tests at the same time."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def made_data(common: Path) -> Path:
    """A data folder with the worker's environment in it, made once for all tests."""
    folder = common / "data"
    # Waits for another process that makes it, and then finds it there.
    subprocess.run(
        [sys.executable, "-m", "installer", "python"],
        cwd=CHECKOUT,
        env={**os.environ, "XDG_DATA_HOME": str(folder)},
        check=True,
    )
    return folder


@pytest.fixture(scope="session")
def wheels(common: Path) -> Path:
    """A folder of all packages for this Python, as the command makes it, once for all tests."""
    folder = common / "wheels" / "a folder é"
    with locked(common / "wheels.lock"):
        if not folder.exists():
            command = [sys.executable, "-m", "installer", "wheels", folder]
            subprocess.run(command, cwd=CHECKOUT, check=True)
    return folder


@pytest.fixture
def data(tmp_path: Path, made_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder, with the environment made already."""
    folder = tmp_path / "data home é"
    shutil.copytree(made_data, folder, symlinks=True, copy_function=os.link)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


@pytest.fixture
def user(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user who has no GIMP yet."""
    folder = tmp_path / "user"
    folder.mkdir()
    # What was fetched already needn't be fetched again.
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder().parent))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GIMP3_DIRECTORY", raising=False)
    return folder


@pytest.fixture
def installer() -> Run:
    """Run a command of the installer."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "installer", *map(str, arguments)],
            **{"cwd": CHECKOUT, "capture_output": True, "text": True, "timeout": 500, **options},
        )

    return run
