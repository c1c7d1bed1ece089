"""The windows in every language on a small screen: all texts are translated, and they fit."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from gui_language import Language
from gui_window import PLUG_IN, Image, Window, until

from installer.private.host import PrivateGimp
from plugin import settings, storage
from tests import catalogues

pytestmark = pytest.mark.gimp

SCREEN = (1366, 768)
# At twice the scale, this is the smallest screen that people have.
SMALL = {"SCREEN": f"{SCREEN[0]}x{SCREEN[1]}", "GDK_SCALE": "2"}
# Two English words. A single one may be a name.
_ENGLISH = re.compile(r"[A-Za-z]{2,} [a-z]{2,}")


@pytest.fixture(scope="module", params=catalogues.languages())
def say(request) -> Language:
    return Language(request.param)


@pytest.fixture(scope="module")
def session(say: Language, tmp_path_factory, photograph) -> Iterator[Window]:
    """Yield a GIMP for this language, which can't change after the start."""
    folder = tmp_path_factory.mktemp(f"gimp-{say.code}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in say.environ.items():
            patch.setenv(name, value)
        with PrivateGimp("3.2", [folder, photograph.parent]) as gimp:
            window = Window(gimp, folder, {**say.environ, **SMALL})
            try:
                yield window
            finally:
                window.close()


def test_all_words_are_translated(window: Window, image: Image, say: Language) -> None:
    settings.save(base_url=settings.DOCUMENTED_BASE_URLS[0], prompt="~")
    open_window(window, say)
    until(lambda: window.shows(say("Try t_he Sandbox"), PLUG_IN), "the ways on without a key")
    assert_translated(window)
    assert_on_screen(window)
    window.press_in_dialog(say("Try t_he Sandbox"))
    until(lambda: window.shows(say("Sandbox: free, but not AI"), PLUG_IN), "its price")

    settings.save(base_url="http://127.0.0.1:1/v1")
    storage.write_private(window.home / "key", "test-key")
    window.press_in_dialog(say("_Edit"))
    until(lambda: window.shows(say("T_ry Again"), PLUG_IN), "the error")
    assert_translated(window)
    assert_on_screen(window)
    window.desk.press(app=PLUG_IN, role="toggle button", name=say("_More choices"))
    assert_on_screen(window)
    window.press_in_dialog(say("_Close"))
    window.wait_for_plug_in()
    (window.home / "key").unlink()


def test_settings_are_translated(window: Window, image: Image, say: Language) -> None:
    item = say("_Settings…")
    until(lambda: window.desk.press(app="gimp", role="menu item", name=item), "the menu's item")
    title = say("Dimilinks Settings")
    until(lambda: window.desk.active_window() == title, "the settings in front")
    assert_translated(window, but=settings.MASK_LINE)
    assert_on_screen(window)
    window.desk.key(name="Escape")
    window.wait_for_plug_in()


def open_window(window: Window, say: Language) -> None:
    """Choose the menu item, and return when the window is ready."""
    item = say("_Edit with AI…")
    until(lambda: window.desk.press(app="gimp", role="menu item", name=item), "the menu's item")
    until(lambda: window.desk.active_window() == say("Edit with AI"), "the window in front")
    until(lambda: window.focus(PLUG_IN)[0], "a focus in the window")


def assert_translated(window: Window, but: str = "") -> None:
    """Check that nothing in the window, visible or not, is English, apart from `but`."""
    own = english_words()
    for thing in window.desk.look(app=PLUG_IN, hidden=True):
        for line in f"{thing['name']}\n{thing['text']}".replace(but or "\0", "").splitlines():
            assert line not in own
            assert not _ENGLISH.search(line), thing


def english_words() -> set[str]:
    """Return the texts of the source code that differ in every translation."""
    sources = Language("en")
    texts = {m.id for m in catalogues.sources() if isinstance(m.id, str) and m.id}
    return {sources(text) for text in texts} - {"OK", "“{name}”"}


def assert_on_screen(window: Window) -> None:
    def seen() -> bool:
        x, y, width, height = window.desk.area()
        return x >= 0 and y >= 0 and x + width <= SCREEN[0] and y + height <= SCREEN[1]

    # The window takes its new size a moment later.
    until(seen, f"a window on the screen: {window.desk.area()}", 5)
