"""The settings window: what is typed and chosen there is stored at once, in the right place."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gui_window import Window, until

from plugin import history, job, settings
from plugin.job import Job, JobRequest, Post, State, Status
from plugin.worker.sandbox import Sandbox

pytestmark = pytest.mark.gimp

APP = "dimilinks-settings"
TITLE = "Dimilinks Settings"
KEY = "sk-planted-key"


@pytest.fixture
def opened(window: Window) -> Iterator[Window]:
    """Open the settings without any image, and remove settings and jobs afterwards."""
    _open(window)
    yield window
    if window.plug_in():
        window.desk.key(name="Escape")
    window.wait_for_plug_in()
    (window.home / "settings.json").unlink()
    (window.home / "key").unlink(missing_ok=True)
    for left in history.all_jobs():
        left.discard()


def test_a_key_lands_in_a_private_file_and_nowhere_else(opened: Window) -> None:
    # The first field has the focus as long as there is no key.
    assert opened.focus(APP) == ("password text", "API key")
    opened.desk.write(text=KEY)
    opened.desk.key(name="alt+s")
    message = until(lambda: opened.shows("now in a private file", APP), "where the key went")
    file = opened.home / "key"
    assert str(file) in message
    assert file.read_text().strip() == KEY and stat.S_IMODE(file.stat().st_mode) == 0o600
    _close(opened)
    _open(opened)
    assert opened.focus(APP) == ("button", "Close")
    assert _press(opened, "button", "Forget")
    until(lambda: opened.shows("The API key was removed", APP), "the key's end")
    _close(opened)
    assert _files_with(KEY.encode(), opened.folder, opened.profile) == []


def test_what_can_be_no_key_is_said_at_once(opened: Window) -> None:
    opened.desk.write(text="two words")
    opened.desk.key(name="Return")
    until(lambda: opened.shows("characters that no key has", APP), "the reason")
    assert not (opened.home / "key").exists()


def test_the_connection_is_tested_with_what_was_typed(opened: Window) -> None:
    with Sandbox(keys={"right-key"}) as service:
        _type(opened, "alt+a", service.base_url)
        _type(opened, "alt+k", "wrong-key")
        assert _press(opened, "button", "Test Connection")
        until(lambda: opened.shows("doesn't accept the API key", APP), "the refusal")
        assert settings.load()["base_url"] == service.base_url
        _type(opened, "alt+k", "right-key")
        assert _press(opened, "button", "Test Connection")
        until(lambda: opened.shows("accepts the API key.", APP), "the good news")
        assert service.served[-1].headers["Authorization"] == "Bearer right-key"
        assert service.posts == 0
    # The service has ended. The window can be used while it tries to connect.
    assert _press(opened, "button", "Test Connection")
    until(lambda: opened.shows("can't be reached", APP), "the bad news")


def test_an_address_that_can_not_be_is_never_kept(opened: Window) -> None:
    _type(opened, "alt+a", "http://service.example/v1")
    until(lambda: opened.shows("must begin with https://", APP), "the reason")
    opened.desk.key(name="Tab")
    _close(opened)
    assert settings.load()["base_url"] == settings.SANDBOX
    _open(opened)
    _type(opened, "alt+a", "https://service.example/v1")
    _close(opened)
    assert settings.load()["base_url"] == "https://service.example/v1"


def test_choices_apply_at_once(opened: Window) -> None:
    for address in (*settings.DOCUMENTED_BASE_URLS, settings.SANDBOX):
        assert _press(opened, "menu item", address)
        until(lambda chosen=address: settings.base_url() == chosen, address)
    until(lambda: opened.shows("with simple effects", APP), "what the sandbox is")
    assert _press(opened, "button", "Test Connection")
    until(lambda: opened.shows("always available", APP), "the sandbox's answer")
    assert opened.shows("one long connection", APP)
    assert _press(opened, "menu item", "In two steps")
    until(lambda: settings.route() == settings.ASYNC, "the way of sending")
    until(lambda: opened.shows("can be fetched again", APP), "what the way of sending does")
    assert _press(opened, "menu item", "2k")
    until(lambda: settings.ceiling() == "2k", "the ceiling")
    assert opened.shows(settings.MASK_LINE, APP)
    assert _press(opened, "check box", "Explain the mask to the service")
    until(settings.explains_mask, "the mask's line")
    _type(opened, "alt+p", "0\t")
    until(lambda: settings.keep_days() == 0, "the days")


def test_clearing_keeps_what_was_paid_for(window: Window) -> None:
    gone, kept = _job(imported=True), _job(imported=False)
    _open(window)
    until(lambda: window.shows("take up 2.", APP), "the room that they take")
    assert _press(window, "button", "Clear Now…")
    until(lambda: window.shows("paid for", APP), "the question")
    window.desk.key(name="Escape")
    until(lambda: not window.shows("paid for", APP), "the window")
    assert len(history.all_jobs()) == 2
    assert _press(window, "button", "Clear Now…")
    until(lambda: window.shows("paid for", APP), "the question")
    assert _press(window, "button", "Remove")
    until(lambda: window.shows("take up 1.", APP), "the room that is left")
    assert [each.id for each in history.all_jobs()] == [kept.id] and not gone.folder.exists()
    _close(window)
    kept.discard()


def test_settings_that_can_not_be_read_are_kept_until_the_user_decides(window: Window) -> None:
    file = window.home / "settings.json"
    file.write_text('{"base_url": "https://service.example/v1",}')
    _open(window)
    until(lambda: window.shows("can't be read", APP), "the reason")
    assert window.shows(str(file), APP)
    # Settings that could not be read are not overwritten by a choice.
    _type(window, "alt+a", settings.SANDBOX)
    _close(window)
    assert file.read_text() == '{"base_url": "https://service.example/v1",}'
    _open(window)
    assert _press(window, "button", "Start Over")
    until(lambda: not window.shows("can't be read", APP), "the window anew")
    _type(window, "alt+a", settings.SANDBOX)
    _close(window)
    assert settings.load() == {"base_url": settings.SANDBOX}
    (aside,) = window.home.glob("settings.json.damaged-*")
    assert aside.read_text() == '{"base_url": "https://service.example/v1",}'
    aside.unlink()


def _job(imported: bool) -> Job:
    """Create a job that is a day old, with a result of one megabyte."""
    with job.prepare() as folder:
        made = job.publish(folder, JobRequest("x", "gpt-image-2", None))
    made.save_state(State([Post(Status.RECEIVED, result="result-1.png")]))
    (made.folder / "result-1.png").write_bytes(bytes(1_000_000))
    if imported:
        made.mark_imported([1])
    then = time.time() - 90_000
    os.utime(made.folder / "request.json", (then, then))
    return made


def _open(window: Window) -> None:
    until(
        lambda: window.desk.press(app="gimp", role="menu item", name="Settings…"),
        "the menu's item",
    )
    until(lambda: window.desk.active_window() == TITLE, "the settings in front")
    until(lambda: window.focus(APP)[0], "a focus in the settings")


def _close(window: Window) -> None:
    window.desk.key(name="Escape")
    window.wait_for_plug_in()


def _press(window: Window, role: str, name: str) -> bool:
    return window.desk.press(app=APP, role=role, name=name)


def _type(window: Window, mnemonic: str, text: str) -> None:
    """Go to a field by its mnemonic, and replace its text."""
    window.desk.key(name=mnemonic)
    window.desk.key(name="ctrl+a")
    window.desk.write(text=text)


def _files_with(secret: bytes, *folders: Path) -> list[Path]:
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return [file for file in files if secret in file.read_bytes()]
