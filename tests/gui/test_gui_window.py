"""The edit window, which stays open: edits, variations, cancelling, errors, and earlier edits."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from gui_service import SlowService, use_service
from gui_window import PATIENCE, PLUG_IN, Image, Window, until

from plugin import history, job, settings
from plugin.worker.sandbox import Sandbox

pytestmark = pytest.mark.gimp

# A box outside of the ellipse that is selected in the photograph.
ASIDE = [20, 280, 120, 90]


def test_first_edit(window: Window, image: Image) -> None:
    before, seen = image.state(), image.view()
    window.open_dialog()
    window.desk.write(text="black and white")
    window.desk.key(name="ctrl+Return")
    # No other key is necessary.
    until(lambda: len(image.layers()) == 2, "the result's layer")
    window.wait_for_edits()
    assert_only_added(before, image.state())
    assert image.state()["layers"][0]["name"] == "black and white (sandbox)"
    assert_changed_in(image, seen, image.selected())
    window.close_dialog()
    image.undo(before)


@pytest.mark.both_series
def test_by_keyboard(window: Window, image: Image) -> None:
    before = image.state()
    window.open_dialog()
    window.desk.write(text="sepia")
    # A combo box doesn't report that it has the focus: this is the empty name.
    for name in ("Past Prompts", "Settings…", "Only the selection", "", "Variations"):
        window.desk.key(name="Tab")
        if name:
            until(lambda name=name: window.focus(PLUG_IN)[1] == name, f"{name} after Tab")
    for key, role, name in [
        ("alt+p", "text", "Prompt"),
        ("alt+v", "spin button", "Variations"),
    ]:
        window.desk.key(name=key)
        until(lambda role=role, name=name: window.focus(PLUG_IN) == (role, name), name)
    window.desk.key(name="alt+m")
    until(lambda: window.thing("toggle button", "More choices")["on"], "the other choices")
    window.desk.key(name="alt+m")
    until(lambda: not window.thing("toggle button", "More choices")["on"], "them folded")
    window.desk.key(name="alt+y")
    until(lambda: not window.thing("check box", "Only the selection")["on"], "the whole layer")
    window.desk.key(name="alt+y")
    until(lambda: window.thing("check box", "Only the selection")["on"], "the selection")
    window.desk.key(name="alt+v")
    window.desk.key(name="ctrl+a")
    window.desk.write(text="2\t")
    window.desk.key(name="alt+e")
    window.wait_for_edits()
    once = image.state()
    assert [len(layer["children"]) for layer in once["layers"]] == [2, 0]
    # The prompt has the focus again, so that the keyboard is enough for the next step.
    until(lambda: window.focus(PLUG_IN) == ("text", "Prompt"), "the prompt")
    window.desk.key(name="alt+k")
    until(lambda: not image.layers()[0]["children"], "one variation alone")
    assert_only_added(before, image.state())
    window.desk.key(name="Escape")
    window.wait_for_plug_in()
    image.undo(once, removal=True)
    image.undo(before)


def test_by_mouse(window: Window, image: Image) -> None:
    before, seen = image.state(), image.view()
    settings.save(choices={"variations": 2})
    window.open_dialog()
    window.click("Prompt", "text")
    window.desk.write(text="vintage film")
    window.click("Edit")
    window.wait_for_edits()
    window.click("Variation 2", "radio button")
    until(lambda: shown(image) == [False, True], "the second variation")
    window.click("Keep")
    until(lambda: not image.layers()[0]["children"], "one variation alone")
    assert_only_added(before, image.state())
    assert_changed_in(image, seen, image.selected())
    window.click("Close")
    window.wait_for_plug_in()


@pytest.mark.both_series
def test_variations(window: Window, image: Image) -> None:
    before, seen, inside = image.state(), image.view(), image.selected()
    settings.save(choices={"variations": 3})
    window.prompt("warmer")
    window.press_in_dialog("Edit")
    window.wait_for_edits()
    three = image.state()
    assert_only_added(before, three)
    group = three["layers"][0]
    assert group["name"] == "warmer (sandbox)"
    assert [child["name"] for child in group["children"]] == [
        f"warmer {number} (sandbox)" for number in (1, 2, 3)
    ]
    assert shown(image) == [True, False, False]
    assert window.thing("radio button", "Variation 1")["on"]

    window.press_in_dialog("Variation 2", "radio button")
    until(lambda: shown(image) == [False, True, False], "the second variation")
    assert_changed_in(image, seen, inside)
    second = image.state()
    image.undo(three)
    image.redo(second)

    window.press_in_dialog("Keep")
    until(lambda: not image.layers()[0]["children"], "one variation alone")
    kept = image.state()
    assert_only_added(before, kept)
    assert kept["layers"][0]["id"] == second["layers"][0]["children"][1]["id"]
    image.undo(second, removal=True)
    image.redo(kept)

    # A variation that was removed from the image can be brought back.
    until(lambda: "Keep" not in window.buttons(), "no more to choose between")
    window.press_in_dialog("Variation 3", "radio button")
    until(
        lambda: sorted(layer["visible"] for layer in image.layers()) == [False, True, True],
        "the third variation alone",
    )
    third = image.state()
    assert {**third, "layers": []} == {**before, "layers": []}
    (new,) = [layer for layer in third["layers"] if layer["id"] not in ids(kept)]
    assert new["visible"] and new["name"] == "warmer 3 (sandbox)"
    assert_changed_in(image, seen, inside)
    window.close_dialog()
    image.undo(kept)


@pytest.mark.parametrize("result", ["New layer", "Replace"])
def test_compare(window: Window, image: Image, result: str) -> None:
    before, seen = image.state(), image.view()
    window.prompt("black and white", result)
    window.press_in_dialog("Edit")
    window.wait_for_edits()
    after, edited = image.state(), image.view()
    assert (edited != seen).any()

    window.hold("Compare")
    until(lambda: (image.view() == seen).all(), "the image as it was before")
    assert image.state()["selected"] == before["selected"]
    window.desk.release()
    until(lambda: (image.view() == edited).all(), "the result again")
    assert image.state() == after

    # The window is closed while the button is held down.
    window.hold("Compare")
    until(lambda: (image.view() == seen).all(), "the image as it was before")
    window.desk.key(name="Escape")
    window.wait_for_plug_in()
    window.desk.release()
    assert image.state() == after
    image.undo(before)
    image.redo(after)


def test_discard(window: Window, image: Image) -> None:
    before = image.state()
    settings.save(choices={"variations": 2})
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    window.wait_for_edits()
    after = image.state()
    (made,) = history.all_jobs()

    window.click("Discard")
    until(lambda: window.shows("Discard “sepia”?", PLUG_IN), "the question")
    window.desk.key(name="Escape")
    until(lambda: not window.shows("Discard “sepia”?", PLUG_IN), "the window")
    assert image.state() == after
    assert made.folder.exists()

    window.click("Discard")
    window.agree("Discard")
    until(lambda: not made.folder.exists(), "the end of the job")
    until(lambda: "Discard" not in window.buttons(), "the end of its row")
    assert image.state() == before
    window.close_dialog()
    image.undo(after, removal=True)


def test_cancel_before_anything_is_sent(window: Window, image: Image, slow: SlowService) -> None:
    before = image.state()
    use_service(window, slow.base_url)
    window.prompt("sepia")
    (worker,) = until(window.workers, "the worker that is ready")
    os.kill(worker, signal.SIGSTOP)
    window.press_in_dialog("Edit")
    (made,) = until(history.all_jobs, "the job")
    assert made.read_state().name == job.Status.PREPARED
    window.press_in_dialog("Cancel")
    until(lambda: "Cancel" not in window.buttons(), "the row without Cancel")
    os.kill(worker, signal.SIGCONT)
    until(lambda: not window.workers(), "the end of the worker")
    until(lambda: not made.folder.exists(), "the end of the job")
    until(lambda: "Discard" not in window.buttons(), "the end of its row")
    window.close_dialog()
    assert slow.posts == 0
    assert image.state() == before


def test_worker_killed_before_anything_is_sent(
    window: Window, image: Image, slow: SlowService
) -> None:
    use_service(window, slow.base_url)
    window.prompt("sepia")
    (worker,) = until(window.workers, "the worker that is ready")
    os.kill(worker, signal.SIGSTOP)
    window.press_in_dialog("Edit")
    until(history.all_jobs, "the job")
    until(lambda: "Cancel" in window.buttons(), "the edit under way")
    os.kill(worker, signal.SIGKILL)
    until(lambda: window.shows("before anything was sent", PLUG_IN), "what became of it")
    slow.answer.set()
    window.press_in_dialog("Try Again")
    until(lambda: len(image.layers()) == 2, "the result")
    window.wait_for_edits()
    window.close_dialog()
    assert slow.posts == 1


def test_cancel_while_waiting(window: Window, image: Image, slow: SlowService) -> None:
    before, seen = image.state(), image.view()
    use_service(window, slow.base_url)
    begin(window, slow, "sepia")
    stop_waiting(window)
    until(lambda: not progress(window), "no progress in the status bar")
    assert window.workers()
    slow.answer.set()
    until(lambda: "Put into Image" in window.buttons(), "the offer")
    assert image.state() == before
    (made,) = history.all_jobs()
    assert not made.find_imported()

    put_in(window)
    after = image.state()
    assert_only_added(before, after)
    assert_changed_in(image, seen, image.selected())
    assert made.find_imported()
    window.close_dialog()
    assert slow.posts == 1
    image.undo(before)


def test_wait_again(window: Window, image: Image, slow: SlowService) -> None:
    before, seen = image.state(), image.view()
    use_service(window, slow.base_url)
    begin(window, slow, "sepia", result="Replace")
    window.press_in_dialog("Cancel")
    window.press_in_dialog("Keep Waiting")
    until(lambda: "Cancel" in window.buttons(), "the row as it was")
    slow.answer.set()
    window.wait_for_edits()
    assert len(image.state()["layers"]) == 1
    assert_changed_in(image, seen, image.selected())
    window.close_dialog()
    image.undo(before)


def test_failed_after_cancel(window: Window, image: Image, slow: SlowService) -> None:
    before = image.state()
    use_service(window, slow.base_url)
    slow.status = 500
    begin(window, slow, "sepia")
    window.press_in_dialog("Cancel")
    slow.answer.set()
    until(lambda: window.shows("may have been charged", PLUG_IN), "what may have been")
    assert "Try Again" not in window.buttons()
    assert [each.read_state().name for each in history.all_jobs()] == [job.Status.FAILED]
    window.close_dialog()

    slow.status = 429
    slow.asked.clear()
    slow.answer.clear()
    begin(window, slow, "warmer")
    window.press_in_dialog("Cancel")
    slow.answer.set()
    # The service refused the edit, and the user has cancelled it, so its job is removed.
    until(lambda: len(history.all_jobs()) == 1, "the end of the second")
    window.close_dialog()
    assert slow.posts == 2
    assert image.state() == before


def test_discard_while_waiting(window: Window, image: Image, slow: SlowService) -> None:
    before = image.state()
    use_service(window, slow.base_url)
    begin(window, slow, "sepia")
    (made,) = history.all_jobs()
    window.press_in_dialog("Cancel")
    until(lambda: "Discard" in window.buttons(), "Discard")
    window.click("Discard")
    window.agree("Discard")
    until(lambda: not window.workers(), "the end of the worker")
    until(lambda: "Discard" not in window.buttons(), "the end of its row")
    assert not made.folder.exists()
    window.close_dialog()
    assert image.state() == before
    assert slow.posts == 1


def test_cancel_while_fetching(window: Window, image: Image, slow: SlowService) -> None:
    before, seen = image.state(), image.view()
    use_service(window, slow.base_url)
    slow.by_link = True
    slow.answer.set()
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    assert slow.fetched.wait(PATIENCE)
    until(lambda: window.shows("Fetching the result", PLUG_IN), "the phase")
    stop_waiting(window)
    slow.deliver.set()
    put_in(window)
    assert_only_added(before, image.state())
    assert_changed_in(image, seen, image.selected())
    window.close_dialog()
    assert slow.posts == 1


def test_what_was_not_sent_yet_is_gone_after_cancel(
    window: Window, image: Image, slow: SlowService
) -> None:
    before = begin_two_layers(window, image, slow)
    window.press_in_dialog("Cancel")
    until(lambda: "Keep Waiting" in window.buttons(), "the row without Cancel")
    slow.answer.set()
    until(lambda: not window.workers(), "the end of the worker")
    until(lambda: "Put into Image" in window.buttons(), "the offer")
    assert [each.read_state().name for each in history.all_jobs()] == [job.Status.RECEIVED]
    assert slow.posts == 3
    window.close_dialog()
    assert image.state() == before


def test_cancel_in_the_status_bar(window: Window, image: Image, slow: SlowService) -> None:
    before, seen = image.state(), image.view()
    use_service(window, slow.base_url)
    begin(window, slow, "sepia")
    window.cancel_in_the_status_bar()
    assert image.state() == before
    assert window.workers()

    window.open_dialog()
    until(lambda: window.shows("This edit was sent and is in progress", PLUG_IN), "the edit")
    slow.answer.set()
    put_in(window)
    assert_only_added(before, image.state())
    assert_changed_in(image, seen, image.selected())
    window.close_dialog()
    assert slow.posts == 1
    # A result that is in the image is not offered again.
    window.open_dialog()
    assert "Discard" not in window.buttons()
    window.close_dialog()
    image.undo(before)


def test_layers_come_and_go_meanwhile(window: Window, image: Image) -> None:
    window.open_dialog()
    plug_in = window.plug_in()
    window.gimp.come_and_go(image=image.id, times=80)
    assert window.plug_in() == plug_in
    window.desk.write(text="warmer")
    window.press_in_dialog("Edit")
    window.wait_for_edits()
    window.close_dialog()


def test_closed_while_waiting(window: Window, image: Image, slow: SlowService) -> None:
    before = image.state()
    use_service(window, slow.base_url)
    begin(window, slow, "sepia", result="Replace")
    window.close_dialog()
    assert window.workers()
    until(lambda: not progress(window), "no progress in the status bar")
    slow.answer.set()
    until(lambda: not window.workers(), "the end of the worker")
    assert image.state() == before
    window.open_dialog()
    # It becomes a new layer, because the layer that was to be replaced may have changed.
    put_in(window)
    assert_only_added(before, image.state())
    window.close_dialog()


@pytest.mark.both_series
def test_image_closed_while_waiting(window: Window, image: Image, slow: SlowService) -> None:
    use_service(window, slow.base_url)
    begin(window, slow, "sepia")
    (made,) = history.all_jobs()
    window.gimp.close_images()
    until(lambda: window.shows("The image was closed", PLUG_IN), "the window knows it")
    slow.answer.set()
    words = until(lambda: window.shows("its image was closed", PLUG_IN), "what became of it")
    assert str(made.folder / "placed-1.png") in words
    window.press_in_dialog("Put into Image")
    until(lambda: window.shows("Open it again", PLUG_IN), "what to do")
    window.press_in_dialog("Close")
    window.wait_for_plug_in()
    assert window.gimp.images() == []
    assert not window.shows(
        "Most likely a plug-in is trying to work on an image that doesn't exist"
    )


def test_two_at_once(window: Window, image: Image, slow: SlowService) -> None:
    before, seen, first = image.state(), image.view(), image.selected()
    use_service(window, slow.base_url)
    begin(window, slow, "sepia")
    window.gimp.select(image=image.id, box=ASIDE)
    second, selection = image.selected(), image.state()["selection"]
    window.press_in_dialog("Edit")
    until(lambda: slow.posts == 2, "the second edit at the service")
    until(lambda: window.buttons().count("Cancel") == 2, "both in the window")
    assert progress(window)
    slow.answer.set()
    until(lambda: len(image.layers()) == 3, "both results")
    window.wait_for_edits()
    after = image.state()
    assert_only_added({**before, "selection": selection}, after)
    assert len(after["layers"]) == 3
    assert_changed_in(image, seen, first | second)
    window.close_dialog()
    window.key("ctrl+z")
    until(lambda: len(image.layers()) == 2, "one of the two")
    window.key("ctrl+z")
    until(lambda: len(image.layers()) == 1, "none of the two")
    assert (image.view() == seen).all()


def test_a_press_that_comes_twice_is_one_edit(
    window: Window, image: Image, slow: SlowService
) -> None:
    use_service(window, slow.base_url)
    window.prompt("sepia")
    for _press in range(2):
        window.desk.key(name="ctrl+Return")
    assert slow.asked.wait(PATIENCE)
    slow.answer.set()
    until(lambda: len(image.layers()) == 2, "the result")
    window.wait_for_edits()
    window.close_dialog()
    assert slow.posts == len(history.all_jobs()) == 1


def test_a_key_that_is_held_is_one_edit(window: Window, image: Image, slow: SlowService) -> None:
    use_service(window, slow.base_url)
    window.prompt("sepia")
    for _press in range(6):
        window.desk.key(name="ctrl+Return")
        time.sleep(1)
    slow.answer.set()
    until(lambda: len(image.layers()) == 2, "the result")
    window.wait_for_edits()
    window.close_dialog()
    assert slow.posts == len(history.all_jobs()) == 1


def test_an_image_closed_under_a_question_ends_no_other_edit(
    window: Window, image: Image, slow: SlowService
) -> None:
    use_service(window, slow.base_url)
    begin(window, slow, "sepia")
    plug_in = window.plug_in()
    window.key("ctrl+shift+a")
    until(lambda: not image.selected().any(), "the loss of the selection")
    window.press_in_dialog("Edit")
    until(lambda: "Edit All of It" in window.buttons(), "the question")
    window.gimp.close_images()
    window.agree("Edit All of It")
    until(lambda: window.shows("closed", PLUG_IN), "why there is no edit")
    assert window.plug_in() == plug_in
    slow.answer.set()
    until(lambda: window.shows("its image was closed", PLUG_IN), "what became of the first")
    window.press_in_dialog("Close")
    window.wait_for_plug_in()
    assert slow.posts == 1


def test_what_waits_in_a_window_that_is_closed_leaves_no_job(
    window: Window, image: Image, slow: SlowService
) -> None:
    begin_two_layers(window, image, slow)
    window.close_dialog()
    assert [each.read_state().name for each in history.all_jobs()] == [job.Status.SENT]
    slow.answer.set()
    until(lambda: not window.workers(), "the end of the worker")
    assert slow.posts == 3


def test_wrong_key(window: Window, image: Image) -> None:
    before = image.state()
    with Sandbox(keys={"another"}) as service:
        use_service(window, service.base_url)
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        until(lambda: window.shows("doesn't accept the API key", PLUG_IN), "the sentence")
        assert "test-key" not in window.shows("doesn't accept the API key", PLUG_IN)
        # One button is beside the prompt, and one in the row.
        assert window.buttons().count("Settings…") == 2
        assert {"Show Files", "Try Again"} <= set(window.buttons())
        service.keys = None
        window.press_in_dialog("Try Again")
        until(lambda: len(image.layers()) == 2, "the result")
        window.wait_for_edits()
        assert len(history.all_jobs()) == 1
        window.close_dialog()
    image.undo(before)


def test_service_down(window: Window, image: Image, photograph: Path) -> None:
    before = image.state()
    with contextlib.closing(SlowService(photograph.with_name("chelsea.png"))) as service:
        use_service(window, service.base_url)
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        until(lambda: window.shows("can't be reached", PLUG_IN), "the sentence")
        window.press_in_dialog("Try Again")
        until(lambda: "Try Again" in window.buttons(), "it is down still")
        service.answer.set()
        service.start()
        window.press_in_dialog("Try Again")
        until(lambda: len(image.layers()) == 2, "the result")
        window.wait_for_edits()
        assert_only_added(before, image.state())
        assert not window.shows("can't be reached", PLUG_IN)
        window.close_dialog()
        assert service.posts == 1


def test_outcome_unknown(window: Window, image: Image) -> None:
    before = image.state()
    with Sandbox(answers=[(500, {}, b"oops")]) as service:
        use_service(window, service.base_url)
        window.prompt("sepia")
        window.press_in_dialog("Edit")
        words = until(lambda: window.shows("no usable answer", PLUG_IN), "the sentence")
        assert "may have been charged" in words
        assert "Try Again" not in window.buttons()
        window.close_dialog()
        window.open_dialog()
        window.close_dialog()
        assert service.posts == 1
    assert image.state() == before


def test_no_key(window: Window, image: Image) -> None:
    before = image.state()
    settings.save(base_url="")
    window.open_dialog()
    offer = {"Enter the Key…", "Try the Sandbox"}
    assert window.shows("There is no API key yet", PLUG_IN)
    assert offer <= set(window.buttons())
    window.desk.write(text="sepia")
    window.desk.key(name="ctrl+Return")
    until(lambda: window.shown_prompt() == "sepia" and offer <= set(window.buttons()), "the offer")
    assert window.shows("There is no API key yet", PLUG_IN)
    assert history.all_jobs() == []

    window.press_in_dialog("Try the Sandbox")
    until(lambda: not offer & set(window.buttons()), "no offer any more")
    until(lambda: window.focus(PLUG_IN) == ("text", "Prompt"), "the prompt")
    window.desk.key(name="ctrl+Return")
    window.wait_for_edits()
    after = image.state()
    assert_only_added(before, after)
    assert after["layers"][0]["name"] == "sepia (sandbox)"
    window.close_dialog()


def test_references(window: Window, photograph: Path) -> None:
    file = photograph.parent / "chelsea.png"
    settings.save(reference_files=[str(file), "/nowhere.png"])
    other = Image(window, photograph.parent / "astronaut.png")
    window.gimp.add_layer(image=other.id, box=[0, 0, 64, 48])
    image = Image(window, photograph, beside=True)
    before = image.state()
    with Sandbox() as service:
        use_service(window, service.base_url)
        window.prompt("palette of the others")
        window.press_in_dialog("More choices", "toggle button")
        assert window.thing("label", "chelsea.png")
        window.press_in_dialog("Add Layer", "toggle button")
        # This layer is in the other image.
        window.press_in_dialog("white", "menu item")
        assert window.thing("label", "white")
        window.press_in_dialog("Edit")
        window.wait_for_edits()
        window.close_dialog()
        (edit,) = service.edits
    pictures = [each for each in edit.files if each.field.startswith("image")]
    source, *sizes = [PIL.Image.open(io.BytesIO(each.data)).size for each in pictures]
    assert source == (409, 328)
    with PIL.Image.open(file) as chosen:
        assert sizes == [chosen.size, (64, 48)][::-1]
    assert_only_added(before, image.state())
    assert settings.load()["reference_files"] == [str(file)]
    window.gimp.close_images()


def test_restart(window: Window, image: Image) -> None:
    before, seen = image.state(), image.view()
    saved = window.folder / "edited.xcf"
    window.prompt("sepia")
    window.edit_and_close()
    after, edited = image.state(), image.view()
    window.gimp.save(image=image.id, path=str(saved))
    folder = window.folder / "anew"
    folder.mkdir()
    with contextlib.closing(Window(window.private, folder, home=window.home)) as anew:
        again = Image(anew, saved)
        assert (again.view() == edited).all()
        anew.open_dialog()
        anew.press_in_dialog("Earlier edits", "toggle button")
        until(lambda: "Compare" in anew.buttons(), "the result is known again")
        anew.hold("Compare")
        until(lambda: (again.view() == seen).all(), "the image as it was before")
        anew.desk.release()
        until(lambda: (again.view() == edited).all(), "the result again")

        anew.gimp.remove_layer(image=again.id, number=0)
        put_in(anew)
        assert (again.view() == edited).all()
        back, wanted = again.state()["layers"][0], after["layers"][0]
        assert {**back, "id": 0} == {**wanted, "id": 0}
        assert not anew.shows("was placed on top", PLUG_IN)
        anew.close_dialog()
    assert image.state() == after
    image.undo(before)


def test_preview_follows(window: Window, image: Image) -> None:
    def figures() -> str:
        return window.shows("pixels of", PLUG_IN)

    window.open_dialog()
    first = until(figures, "the figures")
    assert "“Background”" in first
    window.gimp.select(image=image.id, box=[300, 100, 200, 200])
    second = until(lambda: (now := figures()) != first and now, "other figures")
    window.key("ctrl+shift+a")
    until(lambda: "600×400 pixels of" in figures(), "the whole layer")
    window.gimp.add_layer(image=image.id, box=[0, 0, 64, 48])
    until(lambda: "64×48 pixels of “white”" in figures(), "the other layer")
    window.gimp.select(image=image.id, box=[300, 100, 200, 200])
    until(lambda: window.shows("doesn't touch the layer “white”", PLUG_IN), "the reason")
    window.gimp.remove_layer(image=image.id, number=0)
    until(lambda: figures() == second, "the figures of before")
    window.press_in_dialog("Only the selection", "check box")
    until(lambda: "600×400 pixels of" in figures(), "the whole layer by choice")
    window.close_dialog()


def test_remembered(window: Window, image: Image) -> None:
    window.prompt("sepia")
    for layers, name in ((2, "warmer"), (3, "black and white")):
        window.press_in_dialog("Edit")
        until(lambda count=layers: len(image.layers()) == count, "the result")
        window.wait_for_edits()
        window.desk.key(name="ctrl+a")
        window.desk.write(text=name)
    window.desk.key(name="alt+v")
    window.desk.key(name="ctrl+a")
    window.desk.write(text="2\t")
    until(lambda: window.thing("spin button", "Variations")["text"] == "2", "two variations")
    window.close_dialog()

    window.open_dialog()
    assert window.shown_prompt() == "black and white"
    assert window.thing("spin button", "Variations")["text"] == "2"
    window.press_in_dialog("Past Prompts", "toggle button")
    window.press_in_dialog("sepia", "menu item")
    until(lambda: window.shown_prompt() == "sepia", "the past prompt")
    # Repeat uses the choices of the last edit, also while the window of this edit is open.
    window.press_in_dialog("Edit")
    window.wait_for_edits()
    once = image.state()
    window.key("ctrl+f")
    until(lambda: len(image.layers()) == len(once["layers"]) + 1, "a further result")
    until(lambda: len(window.plug_in()) == 1, "the end of the repeated edit")
    new, *_earlier = image.layers()
    assert new["name"].startswith("sepia (sandbox)")
    assert len(new["children"]) == 2
    window.close_dialog()
    image.undo(once)


def begin(window: Window, slow: SlowService, prompt: str, result: str = "New layer") -> None:
    """Start an edit, and return when the service has it."""
    window.prompt(prompt, result)
    window.press_in_dialog("Edit")
    assert slow.asked.wait(PATIENCE)
    until(lambda: window.shows("Waiting for the service", PLUG_IN), "the phase in the row")


def begin_two_layers(window: Window, image: Image, slow: SlowService) -> dict[str, Any]:
    """Begin so many edits that the second layer's wait for the first layer's to end.

    Returns the state of the image before.
    """
    window.gimp.add_layer(image=image.id, box=[0, 0, 600, 400], also=True)
    before = image.state()
    use_service(window, slow.base_url)
    settings.save(choices={"variations": 3})
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    window.agree("Edit")
    until(lambda: slow.posts == 3, "three edits at the service")
    assert len(history.all_jobs()) == 2
    return before


def stop_waiting(window: Window) -> None:
    """Press Cancel, and return when the row says what happens to the edit."""
    window.press_in_dialog("Cancel")
    until(lambda: window.shows("You stopped waiting", PLUG_IN), "what becomes of it")


def put_in(window: Window) -> None:
    """Press Put into Image, and return when the result is in the image."""
    window.press_in_dialog("Put into Image")
    until(lambda: "Compare" in window.buttons(), "the result in the image")


def progress(window: Window) -> bool:
    """Return whether the status bar shows progress, which it does with a Cancel button."""
    things = window.desk.look(app="gimp")
    return any((t["role"], t["name"]) == ("button", "Cancel") for t in things)


def ids(state: dict[str, Any]) -> set[int]:
    return {layer["id"] for layer in state["layers"]}


def shown(image: Image) -> list[bool]:
    """Return for each variation in the topmost group whether it is visible."""
    return [child["visible"] for child in image.layers()[0]["children"]]


def assert_only_added(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check that there are new layers on top of the old ones, and that nothing else changed."""
    assert len(after["layers"]) > len(before["layers"])
    assert after["layers"][-len(before["layers"]) :] == before["layers"]
    assert {**after, "layers": []} == {**before, "layers": []}


def assert_changed_in(image: Image, seen: np.ndarray, inside: np.ndarray) -> None:
    """Check that the view differs from `seen` in much of `inside`, and nowhere else."""
    changed = (image.view() != seen).any(axis=1)
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.3
