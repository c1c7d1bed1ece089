"""Edits in the window: the results in the image, and the one undo step that reverts them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from gui_window import PLUG_IN, Image, Window, until

from plugin import history, job, lock, settings, storage
from plugin.worker.sandbox import Sandbox

pytestmark = pytest.mark.gimp


@pytest.mark.both_series
def test_new_layer(window: Window, image: Image) -> None:
    before, seen = image.state(), image.view()
    window.prompt("make it black and white")
    window.edit_and_close()

    after = image.state()
    new, old = after["layers"]
    assert new["mask"]
    assert old == before["layers"][0]
    assert {**after, "layers": []} == {**before, "layers": []}
    assert_changed_inside_only(image, seen)
    image.undo(before)
    image.redo(after)


def test_of_three_variations_the_first_is_shown(window: Window, image: Image) -> None:
    before, seen = image.state(), image.view()
    settings.save(choices={"variations": 3})
    window.prompt("sepia")
    window.edit_and_close()

    after = image.state()
    group, old = after["layers"]
    assert [each["visible"] for each in group["children"]] == [True, False, False]
    assert group["visible"]
    assert old == before["layers"][0]
    assert_changed_inside_only(image, seen)
    image.undo(before)
    image.redo(after)


@pytest.mark.both_series
def test_replace(window: Window, image: Image) -> None:
    before, seen = image.state(), image.view()
    window.prompt("vintage film", result="Replace")
    until(lambda: window.shows("replace", PLUG_IN), "the choice in the dialog")
    # The prompt still has the focus.
    window.desk.key(name="ctrl+Return")
    window.wait_for_edits()
    window.close_dialog()

    after = image.state()
    assert after["layers"][0]["pixels"] != before["layers"][0]["pixels"]
    assert without_pixels(after) == without_pixels(before)
    assert_changed_inside_only(image, seen)
    image.undo(before)
    image.redo(after)


@pytest.mark.parametrize(
    ("precision", "kind", "output"),
    [
        ("u16", "", "new-layer"),
        ("u16", "", "replace"),
        ("u8", "indexed", "replace"),
        ("u8", "alpha lock", "replace"),
        ("u32", "mask", "replace"),
        ("u32", "gray", "new-layer"),
        ("float", "group", "replace"),
        # GIMP 3.0 doesn't undo everything that is done to copies.
        ("u8", "copied image", "replace"),
        ("u8", "copied layer", "replace"),
        ("u8", "filter", "replace"),
        ("float", "mask", "new-layer"),
    ],
)
def test_one_undo_in_every_kind_of_image(
    window: Window, photograph: Path, precision: str, kind: str, output: str
) -> None:
    image = Image(window, photograph, precision, feather=40, kind=kind)
    before, seen = image.state(), image.view()
    status, words = image.edit(prompt="pencil sketch", output=output)
    assert status == "success", words

    after = image.state()
    assert len(after["layers"]) == (1 if output == "replace" else 2)
    assert {**after, "layers": []} == {**before, "layers": []}
    assert_changed_inside_only(image, seen)
    image.undo(before)
    image.redo(after)


def test_what_cannot_be_replaced_is_offered_a_new_layer(window: Window, photograph: Path) -> None:
    image = Image(window, photograph, kind="text")
    before = image.state()
    window.prompt("sepia", result="Replace")
    window.press_in_dialog("Edit")
    until(lambda: window.shows("can't be replaced", PLUG_IN), "the question")
    # Escape leads back to the window, which still has the prompt.
    window.desk.key(name="Escape")
    until(lambda: not window.shows("can't be replaced", PLUG_IN), "the window")
    assert window.shown_prompt() == "sepia"
    window.press_in_dialog("Edit")
    until(lambda: window.shows("can't be replaced", PLUG_IN), "the question again")
    window.press_in_dialog("Put It into a New Layer")
    window.wait_for_edits()
    window.close_dialog()
    after = image.state()
    assert len(after["layers"]) == 3 and after["layers"][1:] == before["layers"]
    image.undo(before)


def test_a_reason_not_to_begin_leaves_the_window_open(window: Window, photograph: Path) -> None:
    Image(window, photograph, kind="floating")
    window.prompt("sepia")
    window.press_in_dialog("Edit")
    until(lambda: window.shows("anchor it", PLUG_IN), "the reason")
    assert window.shown_prompt() == "sepia"
    window.close_dialog()


def test_a_layer_is_replaced_by_one_result_however_many_are_chosen(
    window: Window, image: Image
) -> None:
    settings.save(choices={"variations": 3})
    window.prompt("sepia", result="Replace")
    window.edit_and_close()
    assert len(image.state()["layers"]) == 1
    assert len(history.all_jobs()[-1].read_state().posts) == 1


def test_the_price_is_seen_before_it_is_paid(window: Window, image: Image) -> None:
    with Sandbox(keys={"test-key"}) as service:
        choices = {"variations": 2, "output": "new-layer"}
        settings.save(base_url=service.base_url, choices=choices)
        storage.write_private(window.home / "key", "test-key")
        window.open_dialog()
        until(lambda: window.shows("2 pictures × 0.08 = 0.16", PLUG_IN), "the price of two")
        assert window.shows("5:4 at 1k, 960×768", PLUG_IN)
        assert service.posts == 0
        window.close_dialog()
    (window.home / "key").unlink()


def test_chinese_prompt(window: Window, image: Image) -> None:
    before = {each.id for each in history.all_jobs()}
    prompt = "复古胶片，保留主体 sepia tone, and leave the client out of it"
    window.prompt(prompt)
    window.edit_and_close()

    new, _old = image.state()["layers"]
    title = "复古胶片，保留主体 sepia tone, and leave the cli…"
    assert new["name"] == f"{title} (sandbox)"
    (made,) = [each for each in history.all_jobs() if each.id not in before]
    assert made.read_request().prompt == prompt
    assert made.read_state().name == job.Status.RECEIVED
    assert made.find_imported()

    path = window.folder / "saved.xcf"
    window.gimp.save(image=image.id, path=str(path))
    saved = path.read_bytes()
    # The file contains what GIMP remembers of the last run: the choices, but not the prompt. Only
    # the layer's name contains the beginning of the prompt.
    assert b"dimilinks-edit" in saved
    assert b"new-layer" in saved
    encodings = ("utf-8", "utf-16-le", "unicode-escape")
    assert [name for name in encodings if "client out".encode(name) in saved] == []
    assert saved.count("复古".encode()) == saved.count(title.encode()) > 0


@pytest.mark.both_series
def test_repeat(window: Window, image: Image, photograph: Path) -> None:
    settings.save(reference_files=[str(photograph)])
    window.prompt("warmer")
    window.edit_and_close()
    once = image.state()
    before = {each.id for each in history.all_jobs()}

    window.key("ctrl+f")
    until(lambda: len(image.state()["layers"]) == 3, "a second result")
    window.wait_for_plug_in()
    (made,) = [each for each in history.all_jobs() if each.id not in before]
    assert made.read_request().prompt == "warmer"
    assert made.read_request().references == ("reference-1.png",)
    # The second result is on top, because the first one would hide it.
    assert image.state()["layers"][1:] == once["layers"]
    image.undo(once)


def test_repeat_asks_before_many_edits(window: Window, image: Image) -> None:
    settings.save(choices={"variations": 3})
    window.prompt("warmer")
    window.edit_and_close()
    before = {each.id for each in history.all_jobs()}
    layers = len(image.layers())
    window.gimp.add_layer(image=image.id, box=[100, 50, 200, 200], also=True)

    window.key("ctrl+f")
    until(lambda: window.shows("6 edits at once", PLUG_IN), "the question")
    window.agree("Cancel")
    window.wait_for_plug_in()
    assert {each.id for each in history.all_jobs()} == before

    # Within two seconds, another press would count as the same.
    time.sleep(2.5)
    window.key("ctrl+f")
    window.agree("Edit")
    until(lambda: len(image.layers()) == layers + 3, "the results of both layers")
    window.wait_for_plug_in()
    made = [each for each in history.all_jobs() if each.id not in before]
    assert [len(each.read_state().posts) for each in made] == [3, 3]


def test_a_held_key_repeats_once(window: Window, image: Image) -> None:
    window.prompt("warmer")
    window.edit_and_close()
    before = {each.id for each in history.all_jobs()}

    window.key("ctrl+f")
    for _time in range(5):
        window.desk.key(name="ctrl+f")
    until(lambda: len(image.layers()) == 3, "a second result")
    window.wait_for_plug_in()
    assert len({each.id for each in history.all_jobs()} - before) == 1
    assert len(image.layers()) == 3


@pytest.mark.parametrize("stopped", ["at its start", "at its export"])
def test_a_press_that_comes_late_is_no_second_one(
    window: Window, image: Image, stopped: str
) -> None:
    """While a large picture is exported, GIMP is busy for seconds, and the next press waits."""
    window.prompt("warmer")
    window.edit_and_close()
    before = {each.id for each in history.all_jobs()}
    exporting = storage.locks_folder() / "repeating"

    window.key("ctrl+f")
    until(window.workers, "the worker that it starts first", pause=0.001)
    (first,) = window.plug_in()
    if stopped == "at its export":
        until(lambda: lock.is_held(exporting), "its export", pause=0.001)
    os.kill(first, signal.SIGSTOP)
    assert {each.id for each in history.all_jobs()} == before
    if stopped == "at its export":
        time.sleep(2.5)
    window.desk.key(name="ctrl+f")
    until(lambda: len(window.plug_in()) == 2, "the second press")
    time.sleep(2.5)
    os.kill(first, signal.SIGCONT)
    until(lambda: len(image.layers()) == 3, "a second result")
    window.wait_for_plug_in()
    assert len({each.id for each in history.all_jobs()} - before) == 1
    assert len(image.layers()) == 3


def test_a_lost_selection_is_asked_about(window: Window, image: Image) -> None:
    """An accidental click removes the selection. An edit of the whole layer costs more."""
    window.prompt("warmer")
    window.key("ctrl+shift+a")
    until(lambda: not image.selected().any(), "the loss of the selection")
    window.press_in_dialog("Edit")
    window.agree("Cancel")
    assert not history.all_jobs()

    window.press_in_dialog("Edit")
    window.agree("Edit All of It")
    window.wait_for_edits()
    (made,) = history.all_jobs()
    assert not (made.folder / "mask.png").exists()
    window.close_dialog()


def assert_changed_inside_only(image: Image, seen) -> None:
    """Check that the view differs from `seen` in most of the selection, and nowhere else."""
    changed = (image.view() != seen).any(axis=1)
    inside = image.selected()
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5


def without_pixels(state):
    return {**state, "layers": [{**layer, "pixels": ""} for layer in state["layers"]]}
