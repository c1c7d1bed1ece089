"""A worker's environment that breaks after the installation: the window says so and repairs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gui_window import PLUG_IN, Image, Window, until

from installer import environment
from installer.payload import WORKER_PYTHON, plugin_folder
from installer.private.host import PrivateGimp
from plugin import settings

pytestmark = pytest.mark.gimp


@pytest.fixture(scope="module", params=["3.0", "3.2"])
def opened(request, photograph: Path, tmp_path_factory) -> Iterator[Window]:
    """Yield a window of a GIMP for these tests alone, because they change the plug-in."""
    folder = tmp_path_factory.mktemp(f"mend-{request.param}")
    with (
        PrivateGimp(request.param, [photograph.parent, folder]) as gimp,
        pytest.MonkeyPatch.context() as patch,
    ):
        window = Window(gimp, folder)
        patch.setenv("DIMILINKS_HOME", str(window.home))
        settings.save(base_url=settings.SANDBOX)
        try:
            yield window
        finally:
            window.close()


@pytest.fixture
def image(opened: Window, photograph: Path) -> Iterator[Image]:
    yield Image(opened, photograph)
    opened.clear()


@pytest.fixture
def place(opened: Window) -> Iterator[Path]:
    """Yield a working environment in the user's data folder, as an installation leaves it."""
    gimp = opened.private
    assert gimp.gimp.root
    inside = Path(environment.for_gimp(gimp.gimp)).parents[1]
    place = _data(gimp) / "environments" / inside.name
    source = gimp.gimp.root / inside.relative_to("/")
    shutil.copytree(source, place, symlinks=True, copy_function=os.link)
    yield place
    shutil.rmtree(_data(gimp))


def _data(gimp: PrivateGimp) -> Path:
    return gimp.home / ".local/share/dimilinks-gimp"


def no_interpreter(gimp: PrivateGimp) -> None:
    """Note an interpreter that doesn't exist, as after the home folder was moved."""
    (plugin_folder(gimp.profile) / WORKER_PYTHON).write_text("/home/former/python\n")


def no_packages(gimp: PrivateGimp) -> None:
    """Note an interpreter without the packages, as after an upgrade of the system's Python."""
    (plugin_folder(gimp.profile) / WORKER_PYTHON).write_text("/usr/bin/python3\n")


@pytest.mark.parametrize("breakage", [no_interpreter, no_packages])
def test_the_window_mends_a_broken_environment(opened, image, place, breakage) -> None:
    breakage(opened.private)
    opened.open_dialog()
    until(lambda: opened.shows("is missing or broken", PLUG_IN), "that it is broken")
    opened.press_in_dialog("Fix It")
    until(lambda: opened.shows("works again", PLUG_IN), "that it is mended", 120)
    noted = (plugin_folder(opened.profile) / WORKER_PYTHON).read_text()
    assert noted == f"{place}/bin/python\n"
    opened.desk.write(text="sepia")
    opened.edit_and_close()
    assert len(image.layers()) == 2


def test_what_can_not_be_mended_is_told_with_the_reason(opened, image) -> None:
    no_interpreter(opened.private)
    blocked = _data(opened.private)
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    opened.open_dialog()
    opened.press_in_dialog("Fix It")
    reason = until(lambda: opened.shows("The repair failed", PLUG_IN), "the reason")
    assert str(blocked) in reason and "Errno" not in reason
    assert "Try Again" in opened.buttons()
    opened.close_dialog()
    blocked.unlink()
