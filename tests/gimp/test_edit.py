"""Edits in real GIMPs, on real photographs: the promise, the arguments and the errors."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from installer.private.host import PrivateGimp
from plugin import history
from plugin.worker.sandbox import Sandbox
from tests.gimp.conftest import Inside

pytestmark = pytest.mark.gimp

EXECUTION_ERROR, CALLING_ERROR, SUCCESS = 0, 1, 3


@pytest.mark.both_series
def test_nothing_changes_outside_the_selection(inside: Inside) -> None:
    cases = inside("main_job")
    assert len(cases) == 6
    for name, case in cases.items():
        assert case["outside"] == 0, name
        if name.startswith("replace"):
            assert case["inside"] > 0.5, name
            assert len(case["stack"]) == 1, name
            assert case["same object"]
            changed = {part for part, kept in case["kept"].items() if not kept}
            assert changed == {"layers"}, name
        else:
            assert case["inside"] == 0, name
            assert case["seen outside"] == 0 and case["seen inside"] > 10_000, name
            assert case["mask outside"] == 0 and case["mask inside"] == 0, name
            assert len(case["stack"]) == 2 and case["stack"][0].endswith("(sandbox)"), name
            assert {p for p, kept in case["kept"].items() if not kept} == {"layers"}, name


def test_what_the_service_does_to_the_picture_is_undone(inside: Inside) -> None:
    for name, ((plain, beyond), (repaired, still)) in inside("misbehaving").items():
        assert beyond == still == 0, name
        # The prompt asks for no change, so every difference comes from the service.
        assert plain > 6, name
        assert repaired < 0.35 * plain, (name, plain, repaired)


def test_the_choices_do_what_they_say(inside: Inside) -> None:
    found = inside("choices")
    message, stack, count = found["variations"]
    assert (message, count, len(stack)) == ("", 3, 4)
    assert [name.split()[-2] for name in stack[:3]] == ["1", "2", "3"]
    assert found["variations differ in place"] == 1
    assert found["references"] == ["", 1, 0]
    message, parents, above = found["several layers"]
    assert (message, [parent for _, parent in parents], above) == ("", [False, True], True)
    message, count, position, on_top, _ = found["visible"]
    assert (message, count, position, on_top) == ("", 1, 0, True)
    before, ramp, middle, after = found["blend"]
    assert (before, middle, after) == (0, 255, 0)
    assert ramp == sorted(ramp) and ramp[0] < 30 and ramp[-1] == 255
    outside, edge, middle, beyond = found["blended replace"]
    assert outside == beyond == 0 and edge < middle
    assert found["whole layer"] == ["", True, [600, 400, 0, 0], True]
    message, alpha, colour, selected, channels, locked = found["whole replace"]
    assert (message, alpha, selected, channels, locked) == ("", True, 100, [], False)
    assert colour <= 3


def test_variations_share_a_group_that_changes_nothing_outside(inside: Inside) -> None:
    for name, case in inside("grouped").items():
        assert case["outside"] == 0 and case["changed"] > 10_000, name
        assert case["shown"] == [True, False], name
        assert case["group"] == ["black and white (sandbox)", 0], name
        assert case["known"] == [1, 2], name
        assert case["kept"] == ["black and white 2 (sandbox)"], name


def test_what_the_user_does_meanwhile_harms_nothing(inside: Inside) -> None:
    found = inside("while_waiting")
    for output in ("new-layer", "replace"):
        case = found[output]
        assert case["outside"] == 0 and case["selection kept"], output
        assert (case["channels"], case["chosen"]) == (0, ["renamed"]), output
        assert (case["inside"] > 5000) == (output == "replace"), output
    assert found["new-layer"]["place"] == [17, -9]
    assert found["new-layer"]["mask kept"]
    assert len(found["gone"]) == 12
    for name, (layers, message, kept, imported, untouched) in found["gone"].items():
        assert layers == [] and kept in message and not imported and untouched, name
        assert "Open as Layers" in message, name
    assert len(found["reshaped"]) == 16 * 3
    for name, case in found["reshaped"].items():
        assert case["missing"] == [] and case["selection"] and case["chosen"], (name, case)
        if "replace" in name:
            assert [case["changed"], case["changed to"]] == [[110, 70], [169, 119]], (name, case)
        else:
            assert (case["place"], case["changed"]) == ([0, 0], []), (name, case)
        assert case["parent"], name
    masks, names, places = found["two layers"]
    assert masks == [True, True] and len(names) == 4 and places[0] != places[1]
    for outside, changed, selection_kept in found["extended"]:
        assert (outside, changed, selection_kept) == (0, True, True)
    assert found["off canvas"] == [0, True]
    assert found["one of two"] == [1, 1, [True, False]]
    assert found["channel"] == ["mine"]
    status, message, no_job_left = found["second layer missed"]
    assert status == EXECUTION_ERROR and "“beside”" in message and no_job_left


def test_what_the_user_does_between_two_calls_harms_nothing(inside: Inside) -> None:
    found = inside("between_calls")
    assert len(found["captured"]) == 4 * 20
    for name, wrong in found["captured"].items():
        assert not wrong or ("closed" in wrong and name.endswith("close")), (name, wrong)
    assert len(found["placed"]) == 9 * 20 + 2 * 14
    for name, case in found["placed"].items():
        # After these two actions, the tile that is being written can't be put back exactly, because
        # GIMP doesn't convert a copy in the same way as the layer. A palette that is made after the
        # result was written depends on the result, too.
        if not ("written" in name and name.endswith(("make_indexed", "to_profile"))):
            assert case["outside"] == 0 or name.endswith("update, make_indexed"), (name, case)
        assert case["state"], (name, case)
        assert case["left"] == [] and case["images"] == 0, (name, case)
        assert case["imported"] == bool(case["placed"]) == (not case["missing"]), (name, case)
        assert case.get("mask", True), (name, case)
        gone = name.endswith(("delete", "close"))
        locked = name.endswith(("lock_pixels", "locked_group"))
        lost = "update" not in name and (locked or name.endswith("cut"))
        lost = lost and not name.startswith("new")
        lost |= "written" in name and name.endswith("to_profile")
        if name != "new-layer, above_earlier, delete":
            # In this case, the place of the result is known already, and it is put there.
            assert case["placed"] == (0 if gone or lost else 1), (name, case)
        if not name.startswith("new") and case["placed"] and not name.endswith(("extend", "cut")):
            assert case["inside"] > 5000, (name, case)
        for sentence in case["missing"]:
            assert "placed-1.png" in sentence, (name, sentence)


@pytest.mark.both_series
def test_what_is_painted_beside_the_selection_stays_while_a_result_is_written(
    inside: Inside,
) -> None:
    for kind, (there, made, written) in inside("painted_meanwhile").items():
        assert there == made > 20 and written, kind


def test_nothing_is_paid_for_that_nobody_would_see(
    inside: Inside, tmp_path: Path, coffee: Image.Image
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    coffee.save(tmp_path / "turned.jpg", exif=exif)
    found = inside("promises_kept")
    assert len(found["hidden"]) == 11
    for name, (status, message, jobs) in found["hidden"].items():
        assert status == EXECUTION_ERROR and jobs == 0, (name, status, message)
        assert "visible" in message or "opacity" in message, (name, message)
    assert set(found["seen"].values()) == {SUCCESS}, found["seen"]
    assert found["hidden group"] == [SUCCESS, SUCCESS]
    assert len(found["clipped"]) == 5
    for name, (difference, modes) in found["clipped"].items():
        assert difference <= 1 and modes == [True, True], (name, difference)
    assert found["rotated"] == [coffee.height, coffee.width]
    assert found["undo"] == [True, True, False, ["Background"]]
    assert found["filter"] == [0, True, True, ["blur"], True]


def test_an_edit_that_changes_nothing_changes_nothing(inside: Inside, sandbox: Sandbox) -> None:
    found = inside("echo", DIMILINKS_BASE_URL=sandbox.base_url, DIMILINKS_API_KEY="test-key")
    assert len(found["unchanged"]) == 16
    for name, difference in found["unchanged"].items():
        assert difference <= 1, name
    assert found["indexed"] == [True, True]
    assert len(found["grid"]) == 8 and not any(found["grid"]), found["grid"]
    # The purest green of Adobe RGB becomes the purest green of sRGB, as docs/guide.md says.
    assert found["green"] == [[0, 255, 2], [144, 255, 60]]
    assert found["gray"][0] == found["gray"][1]


@pytest.mark.both_series
def test_special_layers_are_sent_as_they_are_seen(
    inside: Inside, sandbox: Sandbox, tmp_path: Path
) -> None:
    found = inside(
        "special_layers", DIMILINKS_BASE_URL=sandbox.base_url, DIMILINKS_API_KEY="test-key"
    )
    uploads = [
        np.asarray(Image.open(io.BytesIO(edit.files[0].data)).convert("RGB"), np.int16)
        for edit in sandbox.edits
    ]
    for name, width, height in found["expected"]:
        shown = np.fromfile(tmp_path / name, np.uint8).reshape(height, width, 3).astype(np.int16)
        near = [u for u in uploads if u.shape == shown.shape and np.abs(u - shown).max() <= 1]
        assert near, name
    assert len(found["expected"]) == 8
    assert found["filters"] == {"new layer": 0, "replaced": [SUCCESS, 0, 0], "filters": 1}
    masks = found["masks"]
    assert masks["whole"] <= 1 and masks["hidden"] == [True, 0] and masks["not applied"] == 255
    assert masks["replaced"] == [SUCCESS, 0, True]
    smaller, place, apart = found["part"]
    assert smaller and place == [-90, 35] and apart <= 1
    assert found["mask shown"] == [SUCCESS, ""]
    for alpha, kept, colours in found["locked alpha"]:
        assert alpha <= 1 and kept and colours <= 3, found["locked alpha"]
    assert found["group"] == [True, True, True, ["Background copy", "Background"]]
    assert found["inherited"] == [[40, True], [100, True]]
    assert found["invisible"] == [True, False]
    assert found["empty"] == [SUCCESS, 255]
    for made, size, refused, message, untouched in found["without pixels"]:
        assert (made, size, refused, untouched) == (SUCCESS, True, EXECUTION_ERROR, True)
        assert "can't be replaced" in message


def test_script_fu_calls_it_too(inside: Inside) -> None:
    status, layers = inside("script_fu")
    assert status == SUCCESS
    assert len(layers) == 2 and layers[0][1]


SENTENCES = {
    "empty prompt": "prompt is empty",
    "blank prompt": "prompt is empty",
    "unseen prompt": "invisible characters",
    "no layer": "no layer",
    "no image": "no layer",
    "a channel": "is a channel",
    "a layer of another image": "another image",
    "too many references": "at most 7 reference pictures",
    "selection misses the layer": "doesn't touch",
    "impossible size": "size",
    "replace by several": "variations",
    "replace by visible": "visible",
    "replace a group": "a layer group",
    "replace locked": "locked",
    "replace text": "a text layer",
    "a floating selection": "anchor it",
    "visible under a floating selection": "anchor it",
    "all hidden by the mask": "unlock the alpha",
    "all transparent and locked": "unlock the alpha",
    "missing reference": "at all.png",
}


def test_bad_input_is_told_and_touches_nothing(inside: Inside, tmp_path: Path) -> None:
    found = inside("bad_input")
    assert found.keys() == SENTENCES.keys()
    for name, (status, message, layers, untouched) in found.items():
        assert status in (EXECUTION_ERROR, CALLING_ERROR), name
        assert SENTENCES[name] in message, name
        assert layers == [] and untouched, name
    assert not list((tmp_path / "home" / "jobs").iterdir()), "nothing was prepared, nothing sent"


def _plain_error(inside: Inside, **environment: str) -> str:
    (status, message, _layers, untouched) = inside("bad_input", "plain", **environment)["plain"]
    assert status == EXECUTION_ERROR and untouched
    return str(message)


def test_the_settings_are_for_people(inside: Inside) -> None:
    status, message = inside("settings")
    assert status == CALLING_ERROR and "DIMILINKS_API_KEY" in message


def test_no_key_and_no_address(inside: Inside) -> None:
    message = _plain_error(inside, DIMILINKS_BASE_URL="")
    assert "no API key" in message and "sandbox" in message


def test_a_home_that_can_not_be_used(inside: Inside, tmp_path: Path) -> None:
    service = {"DIMILINKS_BASE_URL": "http://127.0.0.1:1/v1", "DIMILINKS_API_KEY": ""}
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    assert "nobody else may write to" in _plain_error(inside, **service)
    (tmp_path / "home").chmod(0o700)
    (tmp_path / "home" / "settings.json").write_text("{")
    assert "Nothing is sent" in _plain_error(inside, **service)


def test_a_service_that_cannot_be_reached(inside: Inside) -> None:
    message = _plain_error(
        inside, DIMILINKS_BASE_URL="http://127.0.0.1:1/v1", DIMILINKS_API_KEY="k"
    )
    assert "can't be reached" in message


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "invalid_api_key", "API key"),
        (402, "insufficient_balance", "balance"),
        (400, "moderation_blocked", "refused"),
    ],
)
def test_the_services_own_words(inside: Inside, status: int, code: str, words: str) -> None:
    said = f"the service says {code} 不行"
    answer = (status, {}, {"error": {"message": said, "type": "x", "code": code}})
    with Sandbox(answers=[answer]) as service:
        message = _plain_error(
            inside, DIMILINKS_BASE_URL=service.base_url, DIMILINKS_API_KEY="test-key"
        )
        assert service.posts == 1
    assert said in message and words in message


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_nothing_is_left_behind(
    inside: Inside, gimp: PrivateGimp, tmp_path: Path, photo_files: Path
) -> None:
    before = _files(gimp.home) | _files(gimp.temporary)
    inside("script_fu")
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.iterdir()}
    assert written == {"home", "found.json"}
    assert (_files(gimp.home) | _files(gimp.temporary)) - before == set()
    running = [_command_line(process) for process in Path("/proc").glob("[0-9]*")]
    assert any("pytest" in line for line in running)
    assert not [line for line in running if str(tmp_path) in line]
    assert [j.find_imported() for j in history.all_jobs()] == [{1}]
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path / "home")) == ["jobs", "locks"]


def test_no_secret_is_in_what_gimp_keeps(
    inside: Inside, gimp: PrivateGimp, tmp_path: Path, coffee: Image.Image
) -> None:
    key, prompt = "sk-planted-secret-key", "a wish that is nobody's business"
    reference = tmp_path / "confidential-reference.png"
    coffee.resize((60, 40)).save(reference)
    refusal = (401, {}, {"error": {"message": f"no {key} ?exp=1&sig=abcdefgh"}})
    with Sandbox(keys={key}) as service:
        told = inside(
            "no_secret",
            prompt,
            str(reference),
            DIMILINKS_BASE_URL=service.base_url,
            DIMILINKS_API_KEY=key,
        )
        service.answers.append(refusal)
        again = inside(
            "no_secret",
            prompt,
            str(reference),
            DIMILINKS_BASE_URL=service.base_url,
            DIMILINKS_API_KEY=key,
        )
    assert [status for status, _, _ in told] == [SUCCESS] * 3, told
    assert again[0][0] == EXECUTION_ERROR and "no …" in again[0][1], again
    image = (tmp_path / "edited.xcf").read_bytes()
    assert len(image) > 100_000
    left = {path: path.read_bytes() for path in _files(gimp.home) | _files(gimp.temporary)}
    left |= {path: path.read_bytes() for path in _files(tmp_path / "home")}
    left[tmp_path / "edited.xcf"] = image
    for path, data in left.items():
        for secret in (key, "sig=", "abcdefgh"):
            assert secret.encode() not in data, (path, secret)
        if not path.is_relative_to(tmp_path / "home"):
            assert prompt.encode() not in data and reference.name.encode() not in data, path
    modes = {path.stat().st_mode & 0o777 for path in _files(tmp_path / "home")}
    assert modes == {0o600}


def test_a_home_that_all_may_write_to_is_told(inside: Inside, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    message = _plain_error(inside)
    assert "nobody else may write to" in message and str(home) in message
    assert os.listdir(home) == []
