"""Recovering earlier edits, as after a crash: paid results come back, and nothing is sent twice."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal

import pytest
from gui_service import SlowService, use_service
from gui_window import PLUG_IN, Image, Window, until

from plugin import history, job, lock, settings, storage
from plugin.worker.sandbox import Sandbox

pytestmark = pytest.mark.gimp


@pytest.mark.both_series
def test_a_task_is_asked_for_again(window: Window, image: Image) -> None:
    before = image.state()
    with Sandbox(keys={"test-key"}, thinking=4) as service:
        use_service(window, service.base_url)
        settings.save(route=settings.ASYNC)
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        made = until(lambda: history.all_jobs(), "a job")[-1]
        until(lambda: made.read_state().name == job.Status.ACCEPTED, "the task's name on the disk")
        kill_all(window)
        assert image.state() == before

        window.open_dialog()
        until(lambda: "Put into Image" in window.buttons(), "the result")
        window.press_in_dialog("Put into Image")
        until(lambda: len(image.layers()) == 2, "the result in the image")
        window.close_dialog()
        assert service.posts == 1
    assert made.find_imported()
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
    until(lambda: window.shows("may have been charged", PLUG_IN), "the explanation")
    assert "Put into Image" not in window.buttons()
    window.close_dialog()
    assert slow.posts == 1
    assert image.state() == before


def test_a_task_is_asked_for_again_as_often_as_the_user_likes(window: Window, image: Image) -> None:
    before = image.state()
    page = base64.b64encode(b"<html>Sign in to this network</html>").decode("ascii")
    unusable = (200, {}, {"status": "succeeded", "data": [{"b64_json": page}]})
    with Sandbox(keys={"test-key"}, task_answers=[(401, {}, {}), unusable, unusable]) as service:
        use_service(window, service.base_url)
        settings.save(route=settings.ASYNC)
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        until(lambda: window.shows("doesn't accept the API key", PLUG_IN), "the refusal")
        # One button is beside the prompt, and one in the row.
        until(lambda: window.buttons().count("Settings…") == 2, "the settings")
        window.press_in_dialog("Try Again")
        until(lambda: window.shows("can't be used", PLUG_IN), "what came in place of a picture")
        window.close_dialog()

        window.open_dialog()
        window.press_in_dialog("Earlier edits", "toggle button")
        window.press_in_dialog("Try Again")
        until(lambda: not service.task_answers, "the same once more")
        until(lambda: "Try Again" in window.buttons(), "the offer to go on")
        assert image.state() == before
        window.press_in_dialog("Try Again")
        window.press_in_dialog("Put into Image")
        until(lambda: len(image.layers()) == 2, "the result in the image")
        window.close_dialog()
        assert service.posts == 1
    image.undo(before)


def test_an_unusable_picture_is_fetched_anew(window: Window, image: Image) -> None:
    before = image.state()
    nothing = (200, {}, {"status": "succeeded", "data": []})
    with Sandbox(keys={"test-key"}, task_answers=[nothing]) as service:
        use_service(window, service.base_url)
        settings.save(route=settings.ASYNC, choices={"variations": 2})
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        # Only one of the two variations has arrived.
        until(lambda: window.shows("without a picture", PLUG_IN), "what went wrong")
        until(lambda: "Compare" in window.buttons(), "the other one")
        (made,) = history.all_jobs()
        (missing,) = [n for n, post in enumerate(made.read_state().posts, 1) if not post.placed]
        window.press_in_dialog("Try Again")
        until(lambda: "Try Again" not in window.buttons(), "both")
        window.wait_for_edits()
        window.press_in_dialog(f"Variation {missing}", "radio button")
        until(lambda: len(image.layers()) == 3, "the second result in the image")
        window.close_dialog()
        assert service.posts == 2
    assert image.state()["selected"] == before["selected"]


def test_what_a_dead_window_did_not_send_can_be_sent(window: Window, image: Image) -> None:
    before = image.state()
    with Sandbox(keys={"test-key"}) as service:
        use_service(window, service.base_url)
        window.prompt("sepia")
        window.edit_and_close()
        (made,) = history.all_jobs()
        # A job as it is before a worker starts, whose creator has ended.
        unsent = made.folder.with_name("20990101-000000-aaaaaa")
        shutil.copytree(made.folder, unsent)
        left = "state.json", "imported-1", "result-1.png", "placed-1.png"
        for name in (*left, "maker"):
            (unsent / name).unlink()
        window.open_dialog()
        assert "Try Again" not in window.buttons()
        window.press_in_dialog("Earlier edits", "toggle button")
        until(lambda: window.shows("This edit was not sent.", PLUG_IN), "what became of it")
        window.press_in_dialog("Try Again")
        until(lambda: job.Job(unsent).read_state().name == job.Status.RECEIVED, "its result")
        window.press_in_dialog("Put into Image")
        until(lambda: len(image.layers()) == 3, "the result in the image")
        window.close_dialog()
        assert service.posts == 2
    assert image.state()["selected"] == before["selected"]


def test_a_paid_result_is_offered_however_many_edits_came_since(
    window: Window, image: Image
) -> None:
    window.prompt("sepia")
    window.edit_and_close()
    (made,) = history.all_jobs()
    for number in range(25):
        shutil.copytree(made.folder, made.folder.with_name(f"20990101-0000{number:02}-aaaaaa"))
    paid = job.Job(made.folder.with_name("20000101-000000-aaaaaa"))
    shutil.copytree(made.folder, paid.folder)
    _renamed(paid, "the paid one")
    (paid.folder / "imported-1").unlink()
    _renamed(made, "the oldest one")
    window.open_dialog()
    until(lambda: window.shows("the paid one", PLUG_IN), "the result that is in no image")
    window.press_in_dialog("Earlier edits", "toggle button")

    def reached() -> bool:
        # The button is far below the visible part of the list.
        window.desk.key(name="shift+Tab")
        return window.focus(PLUG_IN)[1] == "Show More"

    until(reached, "the button for the rest")
    window.desk.key(name="space")

    def seen() -> str:
        window.desk.key(name="shift+Tab")
        return window.shows("the oldest one", PLUG_IN)

    until(seen, "all of them")
    window.close_dialog()


def _renamed(made: job.Job, prompt: str) -> None:
    path = made.folder / "request.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "prompt": prompt}), "utf-8")


def test_what_another_window_has_not_sent_is_not_sent_by_this_one(
    window: Window, image: Image, slow: SlowService
) -> None:
    """One variation has arrived. The other one waits in the other window to be sent."""
    use_service(window, slow.base_url)
    slow.answer.set()
    settings.save(choices={"variations": 2})
    window.prompt("sepia")
    window.edit_and_close()
    assert slow.posts == 2
    (made,) = history.all_jobs()
    state = made.read_state()
    state.posts[0].placed, state.posts[1] = "", job.Post()
    made.save_state(state)
    for name in ("imported-1", "imported-2", "placed-1.png", "placed-2.png", "result-2.png"):
        (made.folder / name).unlink()
    (made.folder / "result-1.png").write_bytes(b"damaged")
    name = f"maker-{'a' * 12}"
    (made.folder / "maker").write_text(name)
    with lock.held(storage.locks_folder() / name):
        window.open_dialog()
        until(lambda: window.shows("sepia", PLUG_IN), "its row")
        window.press_in_dialog("Try Again")
        until(lambda: window.shows("can't be used", PLUG_IN), "what came of it")
        until(lambda: not window.workers(), "the end of the worker")
        assert slow.posts == 2 and made.read_state().posts[1].state == job.Status.PREPARED
        # A paid result is discarded only if the user confirms this.
        window.press_in_dialog("Discard")
        window.agree("Cancel")
        assert made.folder.exists()
    window.close_dialog()


def test_damaged_jobs_stand_in_nobodys_way(window: Window, image: Image) -> None:
    window.prompt("sepia")
    window.edit_and_close()
    (made,) = history.all_jobs()
    request, place, state = (
        json.loads((made.folder / name).read_text("utf-8"))
        for name in ("request.json", "place.json", "state.json")
    )
    for number, (name, damaged, imported) in enumerate(
        [
            ("request.json", {"prompt": "lost"}, False),
            ("request.json", {**request, "created": "yesterday", "prompt": "dateless"}, True),
            ("request.json", {**request, "region": 7, "prompt": "homeless"}, True),
            ("state.json", {**state, "posts": 5}, False),
            ("place.json", {**place, "on_canvas": "here"}, False),
        ]
    ):
        copy = made.folder.with_name(f"20990101-00000{number}-aaaaaa")
        shutil.copytree(made.folder, copy)
        (copy / name).write_text(json.dumps(damaged), "utf-8")
        if not imported:
            (copy / "imported-1").unlink()
    window.open_dialog()
    assert window.buttons().count("Put into Image") == 1
    window.press_in_dialog("Put into Image")
    until(lambda: window.shows("no longer knows where", PLUG_IN), "what is wrong with it")
    window.press_in_dialog("Discard")
    window.agree("Discard")
    until(lambda: "Discard" not in window.buttons(), "the end of its row")
    window.press_in_dialog("Earlier edits", "toggle button")
    for prompt in ("dateless", "homeless"):
        until(lambda prompt=prompt: window.shows(prompt, PLUG_IN), "what can be read")
    # The job becomes unreadable while it is shown.
    (made.folder / "state.json").write_text("{")
    until(lambda: window.shows("damaged", PLUG_IN), "what became of it")
    window.close_dialog()


def kill_all(window: Window) -> None:
    """Kill plug-in and workers, as a crash would."""
    window.cancel_in_the_status_bar()
    for process in window.workers():
        os.kill(process, signal.SIGKILL)
    until(lambda: not window.workers(), "the end of the workers")
