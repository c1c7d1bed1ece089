"""For all tests: which of them run, an empty home folder, photographs, and a service on loopback.

Without `--all`, tests in a GIMP run in 3.2 only, unless they are marked with `both_series`, and the
slices of campaigns, which are marked with `campaign`, don't run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring.core
import pytest
import skimage
from PIL import Image

from plugin.worker.sandbox import Sandbox

_FURTHER_SERIES = "3.0"
"""The series of GIMP in which only some tests run without `--all`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="run all tests in both series of GIMP, and slices of the campaigns",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return

    def is_further(item: pytest.Item) -> bool:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        in_further_series = _FURTHER_SERIES in given and not item.get_closest_marker("both_series")
        return in_further_series or item.get_closest_marker("campaign") is not None

    further: list[pytest.Item] = []
    chosen: list[pytest.Item] = []
    for item in items:
        (further if is_further(item) else chosen).append(item)
    config.hook.pytest_deselected(items=further)
    items[:] = chosen


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
