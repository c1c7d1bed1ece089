"""What may happen before a result arrives: a cancelled or failed edit, a changed selection."""

from __future__ import annotations

import pytest
from gui_service import SlowService, use_service
from gui_window import PATIENCE, PLUG_IN, Image, Window, until

from plugin import history, job

pytestmark = pytest.mark.gimp


def test_dialog_cancelled(window: Window, image: Image) -> None:
    before, jobs = image.state(), len(history.all_jobs())
    window.prompt("sepia")
    window.close_dialog()
    window.prompt("sepia")
    window.desk.key(name="Escape")
    window.wait_for_plug_in()
    assert image.state() == before
    assert len(history.all_jobs()) == jobs


def test_error_is_shown(window: Window, image: Image) -> None:
    before = image.state()
    use_service(window, "http://127.0.0.1:1/v1")
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    # The worker tries again for a while first, and the window says so.
    until(lambda: window.shows("can't be reached yet", PLUG_IN), "why it takes longer")
    until(lambda: "Try Again" in window.buttons(), "the end of the tries", 2 * PATIENCE)
    message = window.shows("can't be reached", PLUG_IN)
    assert "127.0.0.1:1" in message
    assert "Traceback" not in message
    assert "Try Again" in window.buttons()
    window.close_dialog()
    assert image.state() == before


def test_cancelled_in_the_status_bar(window: Window, image: Image, slow: SlowService) -> None:
    before = image.state()
    jobs = {each.id for each in history.all_jobs()}
    use_service(window, slow.base_url)
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    assert slow.asked.wait(PATIENCE)
    (made,) = [each for each in history.all_jobs() if each.id not in jobs]
    assert made.read_state().name == job.Status.SENT

    window.cancel_in_the_status_bar()
    assert image.state() == before
    # GIMP itself still works.
    window.open_dialog()
    window.close_dialog()

    assert window.workers()
    assert made.read_state().name == job.Status.SENT
    slow.answer.set()
    until(lambda: not window.workers(), "the end of the worker")
    assert made.read_state().name == job.Status.RECEIVED
    assert not made.find_imported()
    assert image.state() == before


def test_selection_changed_meanwhile(window: Window, image: Image, slow: SlowService) -> None:
    selected = image.state()
    seen, inside = image.view(), image.selected()
    use_service(window, slow.base_url)
    window.prompt("sepia", result="Replace")
    window.press_in_dialog("Edit")
    assert slow.asked.wait(PATIENCE)
    window.key("ctrl+shift+a")
    until(lambda: image.state() != selected, "an empty selection")
    meanwhile = image.state()
    slow.answer.set()
    window.wait_for_edits()

    # The answer has another ratio, and the window says so.
    assert window.shows("proportions", PLUG_IN)
    window.close_dialog()
    after = image.state()
    assert after["selection"] == meanwhile["selection"]
    changed = (image.view() != seen).any(axis=1)
    assert not changed[~inside].any()
    assert changed[inside].any()
    image.undo(meanwhile)
    image.redo(after)
