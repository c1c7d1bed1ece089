"""Fixtures for all tests: an empty home folder, real photographs, and a service on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring.core
import pytest
import skimage
from PIL import Image

from plugin.worker.sandbox import Sandbox


@pytest.fixture(scope="session", autouse=True)
def english() -> Iterator[None]:
    """Use English, the language of the sources, whatever the user's language is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES"):
            patch.delenv(name, raising=False)
        patch.setenv("LANG", "C.UTF-8")
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, to which DIMILINKS_HOME is set.

    The plug-in's other variables are removed, and the user's keyring is disabled.
    """
    for name in ("DIMILINKS_API_KEY", "DIMILINKS_BASE_URL", "DIMILINKS_ROUTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(keyring.core, "_keyring_backend", None)
    folder = tmp_path / "home"
    monkeypatch.setenv("DIMILINKS_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def photo_files() -> Path:
    """Return a folder of photographs: coffee.png, chelsea.png, astronaut.png, rocket.jpg, …"""
    return Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="session")
def coffee(photo_files: Path) -> Image.Image:
    """Return a photograph, 600×400, RGB."""
    with Image.open(photo_files / "coffee.png") as picture:
        return picture.convert("RGB")


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Run a sandbox, with the environment variables set to its address and to a valid key."""
    with Sandbox(keys={"test-key"}) as running:
        monkeypatch.setenv("DIMILINKS_BASE_URL", running.base_url)
        monkeypatch.setenv("DIMILINKS_API_KEY", "test-key")
        yield running
