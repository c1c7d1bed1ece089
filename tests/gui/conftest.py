"""Fixtures for tests in real windows: one GIMP of each series, and a new image for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage

from installer.private.host import PrivateGimp
from plugin import history, settings

pytest.register_assert_rewrite("gui_window")
from gui_service import SlowService  # noqa: E402
from gui_window import Image, Window, until  # noqa: E402

PHOTOGRAPH = Path(skimage.data_dir) / "coffee.png"


@pytest.fixture(scope="session", params=["3.0", "3.2"])
def session(request, tmp_path_factory) -> Iterator[Window]:
    """Yield a GIMP on a desktop of its own. At the end, none of its processes may be left."""
    folder = tmp_path_factory.mktemp(f"gimp-{request.param}")
    with PrivateGimp(request.param, [folder, PHOTOGRAPH.parent]) as gimp:
        window = Window(gimp, folder)
        try:
            yield window
        finally:
            window.close()
        until(lambda: not window.processes(), "the end of everything that was started")


@pytest.fixture
def window(session: Window, monkeypatch) -> Iterator[Window]:
    """Yield the window with the sandbox as its service, without images and without jobs.

    Only one image may be open at the end of a test.
    """
    monkeypatch.setenv("DIMILINKS_HOME", str(session.home))
    for variable in ("DIMILINKS_BASE_URL", "DIMILINKS_API_KEY", "DIMILINKS_ROUTE"):
        monkeypatch.delenv(variable, raising=False)
    # The service is set in the settings file, not in a variable: tests change it while GIMP runs.
    (session.home / "settings.json").unlink(missing_ok=True)
    choices = {"output": "new-layer", "variations": 1, "use-selection": True}
    settings.save(base_url=settings.SANDBOX, choices=choices)
    (session.home / "key").unlink(missing_ok=True)
    for each in history.all_jobs():
        each.discard()
    yield session
    images = session.gimp.images()
    session.clear()
    assert len(images) <= 1


@pytest.fixture
def image(window: Window) -> Image:
    """Open a photograph in the window, with an ellipse selected."""
    return Image(window, PHOTOGRAPH)


@pytest.fixture(scope="session")
def photograph() -> Path:
    return PHOTOGRAPH


@pytest.fixture
def slow(photograph: Path) -> Iterator[SlowService]:
    """Yield a service that answers when it is told to, with another photograph.

    With the same photograph, an edit would change nothing.
    """
    service = SlowService(photograph.with_name("chelsea.png"))
    service.start()
    yield service
    service.close()
