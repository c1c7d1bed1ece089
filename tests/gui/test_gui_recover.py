"""After plug-in and worker were killed: what was paid for comes back, and nothing is sent again."""

from __future__ import annotations

import os
import signal

import pytest
from gui_service import SlowService, use_service
from gui_window import PLUG_IN, Image, Window, until

from plugin import job, settings
from plugin.worker.sandbox import Sandbox

pytestmark = pytest.mark.gimp


def test_a_task_is_asked_for_again(window: Window, image: Image) -> None:
    before = image.state()
    with Sandbox(keys={"test-key"}, thinking=4) as service:
        use_service(window, service.base_url)
        settings.save(route=settings.ASYNC)
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        made = until(lambda: job.all_jobs(), "a job")[-1]
        until(lambda: made.state.name == job.ACCEPTED, "the task's name on the disk")
        kill_all(window)
        assert image.state() == before

        window.open_dialog()
        until(lambda: "Put into Image" in window.buttons(), "the result")
        window.press_in_dialog("Put into Image")
        until(lambda: len(image.layers()) == 2, "the result in the image")
        window.close_dialog()
        assert service.posts == 1
    assert made.imported
    image.undo(before)


def test_an_unknown_outcome_is_explained(window: Window, image: Image, slow: SlowService) -> None:
    before = image.state()
    use_service(window, slow.base_url)
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    assert slow.asked.wait(30)
    kill_all(window)

    until(
        lambda: window.desk.press(app="gimp", role="menu item", name="Recover Results…"),
        "the menu's item",
    )
    until(lambda: window.shows("may have been made and billed", PLUG_IN), "the explanation")
    assert "Put into Image" not in window.buttons()
    window.close_dialog()
    assert slow.posts == 1
    assert image.state() == before


def kill_all(window: Window) -> None:
    """End plug-in and workers as a crash would do it."""
    until(
        lambda: window.desk.press(app="gimp", role="button", name="Cancel"),
        "the status bar's Cancel",
    )
    window.wait_for_plug_in()
    for process in window.workers():
        os.kill(process, signal.SIGKILL)
    until(lambda: not window.workers(), "the end of the workers")
