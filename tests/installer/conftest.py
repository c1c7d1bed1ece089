"""Fixtures for tests of the installer, which run its commands as users do."""

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
# With these variables, pip can't reach the network.
OFFLINE = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_RETRIES": "0",
    "PIP_FIND_LINKS": "",
}


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that is shared by all processes in which the tests run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def made_data(common: Path) -> Path:
    """Create a data folder with the worker's environment, once for all tests."""
    folder = common / "data"
    # If another process is creating the environment, this waits for it.
    subprocess.run(
        [sys.executable, "-m", "installer", "python"],
        cwd=CHECKOUT,
        env={**os.environ, "XDG_DATA_HOME": str(folder)},
        check=True,
    )
    return folder


@pytest.fixture(scope="session")
def wheels(common: Path) -> Path:
    """Create a folder of all packages for this Python with the installer, once for all tests."""
    folder = common / "wheels" / "a folder é"
    with locked(common / "wheels.lock"):
        if not folder.exists():
            command = [sys.executable, "-m", "installer", "wheels", folder]
            subprocess.run(command, cwd=CHECKOUT, check=True)
    return folder


@pytest.fixture
def data(tmp_path: Path, made_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the user's data folder, with the environment in it."""
    folder = tmp_path / "data home é"
    shutil.copytree(made_data, folder, symlinks=True, copy_function=os.link)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


@pytest.fixture
def user(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the home folder of a user who has no GIMP yet."""
    folder = tmp_path / "user"
    folder.mkdir()
    # Keep the cache, so that nothing is downloaded again.
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder().parent))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GIMP3_DIRECTORY", raising=False)
    return folder


@pytest.fixture
def installer() -> Run:
    """Return a function that runs a command of the installer."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "installer", *map(str, arguments)],
            **{"cwd": CHECKOUT, "capture_output": True, "text": True, "timeout": 500, **options},
        )

    return run
