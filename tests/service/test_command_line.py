"""The command line: input files that change, results that can't be written, output, Ctrl+C."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plugin import history, job
from plugin.errors import Kind
from plugin.worker.pictures import colours, png_files
from plugin.worker.sandbox import Sandbox
from tests.service.raw_server import Got, RawServer, Reply, http
from tests.service.workers import CHECKOUT, command, prepared_job, until


def _answer(image: Image.Image) -> dict[str, Any]:
    return {"data": [{"b64_json": base64.b64encode(png_files.encoded(image)).decode()}]}


@pytest.fixture
def meanwhile(
    coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[], object]], RawServer]]:
    """Return a function that starts a service.

    The service calls the function's argument, and then answers the edit with a red picture.
    """
    servers = []
    body = json.dumps(_answer(Image.new("RGB", coffee.size, "red"))).encode()

    def start(deed: Callable[[], object]) -> RawServer:
        def answer(got: Got) -> Reply:
            deed()
            return http(200, body, "Content-Type: application/json")

        server = RawServer(answer)
        servers.append(server.__enter__())
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        monkeypatch.setenv("DIMILINKS_API_KEY", "k")
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def _with_a_disk(
    folder: Path, options: str, then: str, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run the command line with a small disk mounted at `folder`.

    `options` are those of mount. The shell command `then` runs before, in `folder`.
    """
    alone = ["unshare", "--mount"] + ["--map-root-user"] * (os.geteuid() != 0)
    script = f'mount -t tmpfs -o "$2" none "$1" && cd "$1" && {then} && cd "$3" && shift 3 && "$@"'
    words = ["sh", "-c", script, "sh", folder, options, CHECKOUT, sys.executable, "-m", "plugin"]
    return subprocess.run([*alone, *words, *arguments], capture_output=True, text=True)


# --- where results go ---------------------------------------------------------------------------


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def _dangling(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


UNWRITABLE: list[tuple[str, Callable[[Path], Path], str]] = [
    ("a file", _file, "Not a directory"),
    ("below a file", lambda folder: _file(folder) / "below", "Not a directory"),
    ("a dangling link", _dangling, "Not a directory"),
    ("no place for folders", lambda folder: Path("/proc/results"), "No such file or directory"),
]


@pytest.mark.parametrize(("_name", "made", "why"), UNWRITABLE, ids=[u[0] for u in UNWRITABLE])
def test_where_nothing_can_be_written_nothing_is_sent(
    sandbox: Sandbox,
    photo: Path,
    tmp_path: Path,
    _name: str,
    made: Callable[[Path], Path],
    why: str,
) -> None:
    out = made(tmp_path)
    done = command("edit", photo, "--prompt", "echo", "--out", out)
    assert (done.returncode, done.stdout, sandbox.posts) == (1, "", 0)
    for words in (str(out), why, "--out", "Nothing was sent"):
        assert words in done.stderr
    assert history.all_jobs() == []


def test_a_name_too_long_for_the_result_is_told_before_anything_is_sent(
    sandbox: Sandbox, coffee: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / f"{'n' * 248}.png"
    coffee.save(path)
    done = command("edit", path, "--prompt", "echo")
    assert done.returncode == 1 and sandbox.posts == 0
    assert "rename" in done.stderr and "Nothing was sent" in done.stderr


@pytest.mark.slow
def test_a_picture_on_a_read_only_medium_needs_another_folder(
    sandbox: Sandbox, photo: Path, tmp_path: Path
) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    mounted = (medium, "size=9m", f"cp '{photo}' photo.png && mount -o remount,ro .")
    words = ("edit", medium / "photo.png", "--prompt", "echo")
    done = _with_a_disk(*mounted, *words)
    assert (done.returncode, done.stdout, sandbox.posts) == (1, "", 0), done.stderr
    for said in (str(medium), "Read-only file system", "--out", "Nothing was sent"):
        assert said in done.stderr
    done = _with_a_disk(*mounted, *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path / "out" and sandbox.posts == 1


@pytest.mark.slow
def test_a_disk_without_room_for_the_results_is_told_before_anything_is_sent(
    sandbox: Sandbox, photo: Path, tmp_path: Path
) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    words = ("edit", photo, "--prompt", "echo", "--out", medium, "--variations")
    done = _with_a_disk(medium, "size=1m", "true", *words, "2")
    assert (done.returncode, done.stdout, sandbox.posts) == (1, "", 0), done.stderr
    for said in (str(medium), "MB", "--out", "Nothing was sent"):
        assert said in done.stderr
    done = _with_a_disk(medium, "size=1m", "true", *words, "1")
    assert done.returncode == 0, done.stderr


def test_looking_whether_results_can_be_written_leaves_no_file(
    sandbox: Sandbox, photo: Path, tmp_path: Path
) -> None:
    sandbox.answers.append((402, {}, {"error": {"message": "No money"}}))
    out = tmp_path / "new" / "folder"
    assert command("edit", photo, "--prompt", "echo", "--out", out).returncode == 1
    assert sandbox.posts == 1 and list(out.iterdir()) == []


def test_a_result_that_can_not_be_written_is_kept_and_written_later(
    meanwhile: Callable[[Callable[[], object]], RawServer], photo: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"

    def replace_folder() -> None:
        out.rmdir()
        out.write_text("")

    server = meanwhile(replace_folder)
    done = command("edit", photo, "--prompt", "x", "--out", out)
    (only,) = history.all_jobs()
    for failed in (done, command("resume", only.id)):
        assert (failed.returncode, failed.stdout) == (1, "")
        fitted = str(only.folder / "placed-1.png")
        for words in (str(out), "Not a directory", f"resume {only.id}", "--out", fitted):
            assert words in failed.stderr
        assert not only.find_imported()
    done = command("resume", only.id, "--out", elsewhere)
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    assert Path(path).parent == elsewhere
    assert Image.open(path).getpixel((5, 5)) == (255, 0, 0)
    assert only.find_imported() and server.posts == 1


def test_a_former_folder_that_works_again_gets_the_result(
    meanwhile: Callable[[Callable[[], object]], RawServer], photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server = meanwhile(lambda: (out.rmdir(), out.write_text("")))
    assert command("edit", photo, "--prompt", "x", "--out", out).returncode == 1
    out.unlink()
    (only,) = history.all_jobs()
    done = command("resume", only.id)
    assert done.returncode == 0 and Path(done.stdout.strip()).parent == out
    assert server.posts == 1


def test_an_edit_that_was_not_sent_looks_again_before_it_is(
    sandbox: Sandbox, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepared = prepared_job(photo, monkeypatch, "--out", out)
    out.rmdir()
    out.write_text("")
    done = command("resume", prepared.id)
    assert done.returncode == 1 and sandbox.posts == 0
    assert "--out" in done.stderr and "Nothing was sent" in done.stderr
    done = command("resume", prepared.id, "--out", tmp_path / "other")
    assert done.returncode == 0 and Path(done.stdout.strip()).parent == tmp_path / "other"


def test_a_folder_for_results_that_are_written_already_is_no_silent_success(
    sandbox: Sandbox, photo: Path, tmp_path: Path
) -> None:
    assert command("edit", photo, "--prompt", "echo").returncode == 0
    (only,) = history.all_jobs()
    done = command("resume", only.id, "--out", tmp_path / "other")
    assert done.returncode == 1 and "--out" in done.stderr
    assert done.stdout.splitlines() == [str(only.folder / "placed-1.png")]


# --- files that change while an edit runs -------------------------------------------------------


def _red_inside(path: str, before: Image.Image, inside: np.ndarray) -> None:
    """Check that the result is red where `inside` is true, and like `before` elsewhere."""
    after = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(after[~inside], np.asarray(before.convert("RGB"))[~inside])
    assert (after[inside] == (255, 0, 0)).all()


def _another_picture(photo: Path) -> None:
    Image.new("RGB", (600, 400), "blue").save(photo)


def _overwritten_in_place(photo: Path) -> None:
    """Overwrite the file itself, as some programs do. A hard link to it would change, too."""
    with open(photo, "r+b") as file:
        file.write(bytes(1000))


CHANGES: list[Callable[[Path], object]] = [
    _another_picture,
    _overwritten_in_place,
    lambda photo: Image.new("RGB", (300, 500), "blue").save(photo),
    lambda photo: photo.unlink(),
    lambda photo: photo.rename(photo.with_name("moved.png")),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.slow
def test_the_result_lies_in_the_picture_that_was_sent(
    meanwhile: Callable[[Callable[[], object]], RawServer],
    photo: Path,
    mask: Path,
    coffee: Image.Image,
    change: Callable[[Path], object],
    masked: bool,
) -> None:
    hard = Image.open(mask).point(lambda value: 255 * (value == 255))
    hard.save(mask)
    meanwhile(lambda: change(photo))
    done = command("edit", photo, "--prompt", "x", *(["--mask", mask] * masked))
    assert done.returncode == 0, done.stderr
    inside = np.asarray(hard) > 0 if masked else np.ones((400, 600), bool)
    _red_inside(done.stdout.strip(), coffee, inside)


def test_the_mask_that_was_sent_counts(
    meanwhile: Callable[[Callable[[], object]], RawServer],
    photo: Path,
    mask: Path,
    coffee: Image.Image,
) -> None:
    hard = Image.open(mask).point(lambda value: 255 * (value == 255))
    hard.save(mask)
    meanwhile(lambda: Image.new("L", coffee.size, 255).save(mask))
    done = command("edit", photo, "--prompt", "x", "--mask", mask)
    assert done.returncode == 0, done.stderr
    _red_inside(done.stdout.strip(), coffee, np.asarray(hard) > 0)


@pytest.mark.slow
def test_an_answer_is_used_as_it_came_without_repair(
    sandbox: Sandbox, photo: Path, mask: Path, coffee: Image.Image
) -> None:
    selected = np.asarray(Image.open(mask)) > 0
    off = []
    for switch in ([], ["--no-repair"]):
        words = ["--prompt", "echo\nmisbehave: zooming", "--mask", mask, *switch]
        done = command("edit", photo, *words)
        assert done.returncode == 0, done.stderr
        after = np.asarray(Image.open(done.stdout.strip()), np.int16)
        off.append(np.abs(after - np.asarray(coffee))[selected].mean())
    repaired, as_it_came = off
    assert repaired < 0.3 * as_it_came


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.slow
def test_an_edit_that_goes_on_later_has_its_picture(
    meanwhile: Callable[[Callable[[], object]], RawServer],
    photo: Path,
    mask: Path,
    coffee: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
) -> None:
    meanwhile(lambda: None)
    prepared = prepared_job(photo, monkeypatch, "--mask", mask)
    selected = np.asarray(Image.open(mask))
    change(photo)
    mask.unlink()
    done = command("resume", prepared.id)
    assert done.returncode == 0, done.stderr
    after = np.asarray(Image.open(done.stdout.strip()))
    assert np.array_equal(after[selected == 0], np.asarray(coffee)[selected == 0])
    assert (after[selected == 255] == (255, 0, 0)).all()


@pytest.mark.slow
def test_the_pictures_copy_goes_with_the_last_result(
    sandbox: Sandbox, photo: Path, coffee: Image.Image
) -> None:
    refused = (402, {}, {"error": {"message": "No money"}})
    sandbox.answers += [(200, {}, _answer(coffee)), refused]
    assert command("edit", photo, "--prompt", "x", "--variations", 2).returncode == 1
    (only,) = history.all_jobs()
    copy = only.folder / "original"
    assert copy.read_bytes() == photo.read_bytes() and copy.stat().st_mode & 0o777 == 0o600
    assert command("edit", photo, "--prompt", "x", "--variations", 2).returncode == 0
    # Jobs of the same second are in no particular order.
    (done,) = (each for each in history.all_jobs() if each != only)
    assert not (done.folder / "original").exists()


@pytest.mark.slow
def test_a_job_of_a_former_version_is_finished_with_the_picture_itself(
    sandbox: Sandbox,
    photo: Path,
    mask: Path,
    coffee: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = prepared_job(photo, monkeypatch, "--mask", mask)
    (prepared.folder / "original").unlink()
    _another_picture(photo)
    sandbox.answers.append((200, {}, _answer(Image.new("RGB", (600, 400), "red"))))
    done = command("resume", prepared.id)
    assert done.returncode == 1 and done.stdout == "" and sandbox.posts == 0
    assert str(photo) in done.stderr
    coffee.save(photo)
    assert command("resume", prepared.id).returncode == 0


@pytest.mark.slow
def test_what_came_for_a_former_versions_job_is_kept_when_the_picture_has_changed(
    sandbox: Sandbox, photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    assert command("resume", prepared.id).returncode == 0
    for marker in prepared.folder.glob("imported*"):
        marker.unlink()
    before = list(photo.parent.glob("*-edit-*"))
    _another_picture(photo)
    done = command("resume", prepared.id)
    assert done.returncode == 1 and done.stdout == ""
    assert str(photo) in done.stderr and str(prepared.folder / "placed-1.png") in done.stderr
    assert list(photo.parent.glob("*-edit-*")) == before and not prepared.find_imported()
    coffee.save(photo)
    assert command("resume", prepared.id).returncode == 0 and prepared.find_imported()
    assert sandbox.posts == 1


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/mem", "/"])
def test_what_is_no_picture_is_not_copied(sandbox: Sandbox, path: str, tmp_path: Path) -> None:
    done = command("edit", path, "--prompt", "x", "--out", tmp_path)
    assert done.returncode == 1 and path in done.stderr and "Traceback" not in done.stderr
    assert history.all_jobs() == [] and sandbox.posts == 0


def test_a_broken_picture_is_named_as_the_user_knows_it(sandbox: Sandbox, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:50_000])
    done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and str(photo) in done.stderr and "original" not in done.stderr


# --- transparent parts of an answer -------------------------------------------------------------


def _holes(coffee: Image.Image) -> Image.Image:
    """Return an answer that is opaque red on the left and transparent green on the right.

    Its opacity decreases between the two.
    """
    across = np.clip((400 - np.arange(600)) * 1.275, 0, 255)
    alpha = np.tile(np.rint(across).astype(np.uint8), (400, 1))
    red = np.where(alpha[..., None] > 0, (255, 0, 0), (0, 255, 0)).astype(np.uint8)
    answer = Image.fromarray(red)
    answer.putalpha(Image.fromarray(alpha))
    return answer


def _source(coffee: Image.Image, mode: str) -> Image.Image:
    image = coffee.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(coffee.size))
    return coffee.quantize(64) if mode == "P" else image.convert(mode)


def _laid_over(image: Image.Image, share: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return `colour` with the opacity `share` over `image`, as in GIMP's normal mode.

    The result is RGBA with straight alpha, (height, width, 4), 0 to 255.
    """
    below = np.asarray(image.convert("RGBA"), float)
    alpha = share + below[..., 3] / 255 * (1 - share)
    weight = np.divide(share, alpha, out=np.zeros_like(share), where=alpha > 0)[..., None]
    colours = colour * weight + below[..., :3] * (1 - weight)
    return np.dstack([np.where(alpha[..., None] > 0, colours, below[..., :3]), 255 * alpha])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.slow
def test_transparent_parts_of_an_answer_are_laid_over_what_was_there(
    sandbox: Sandbox,
    coffee: Image.Image,
    mask: Path,
    tmp_path: Path,
    mode: str,
    repair: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = _source(coffee, mode)
    path = tmp_path / "odd.png"
    image.save(path)
    prepared = prepared_job(path, monkeypatch, "--mask", mask)
    request = json.loads((prepared.folder / "request.json").read_text())
    content = request["region"]["content"]
    box = (content["x"], content["y"])
    area = (*box, box[0] + content["width"], box[1] + content["height"])
    (prepared.folder / "request.json").write_text(json.dumps({**request, "repair": repair}))
    # Outside the mask, the answer shows the picture, as real answers do. It is aligned by that.
    answer = colours.on_white(image.convert("RGBA")).convert("RGBA")
    answer.paste(_holes(coffee), (0, 0), Image.open(mask).point(lambda value: 255 * (value > 0)))
    answer = answer.crop(area)
    sandbox.answers.append((200, {}, _answer(answer)))
    done = command("resume", prepared.id)
    assert done.returncode == 0, done.stderr
    after = Image.open(done.stdout.strip())
    before = image.convert("RGB") if mode == "P" else image
    assert after.mode == before.mode
    selected = np.asarray(Image.open(mask)) / 255
    share = np.asarray(_holes(coffee).getchannel("A")) / 255 * selected
    red = np.array([76, 76, 76] if mode in ("L", "LA") else [255, 0, 0])
    wanted = _laid_over(before, share, red)
    got = np.asarray(after.convert("RGBA"), float)
    seen = wanted[..., 3] > 8
    assert np.abs(got[..., 3] - wanted[..., 3]).max() <= 2
    assert np.abs(got[..., :3] - wanted[..., :3])[seen].max() <= 2 + 255 / 8
    assert np.abs(got[..., :3] - wanted[..., :3])[wanted[..., 3] > 128].max() <= 4
    untouched = share == 0
    assert np.array_equal(np.asarray(after)[untouched], np.asarray(before)[untouched])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.slow
def test_a_transparent_answer_changes_nothing_and_that_is_told(
    sandbox: Sandbox, coffee: Image.Image, mask: Path, tmp_path: Path, mode: str, masked: bool
) -> None:
    image = _source(coffee, mode)
    path = tmp_path / "odd.png"
    image.save(path)
    sandbox.answers.append((200, {}, _answer(Image.new("RGBA", (600, 400), (9, 9, 9, 0)))))
    done = command("edit", path, "--prompt", "x", *(["--mask", mask] * masked))
    assert done.returncode == 0, done.stderr
    after = Image.open(done.stdout.strip())
    before = image.convert("RGB") if mode == "P" else image
    assert after.mode == before.mode and "nothing in your picture changes" in done.stderr
    if masked or mode not in ("RGBA", "LA"):
        assert np.array_equal(np.asarray(after), np.asarray(before))
    else:
        shown = np.asarray(before)[..., -1] > 0
        assert np.array_equal(np.asarray(after)[..., -1], np.asarray(before)[..., -1])
        assert np.array_equal(np.asarray(after)[shown], np.asarray(before)[shown])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.slow
def test_an_edit_of_the_whole_has_no_holes_and_keeps_the_pictures_alpha(
    sandbox: Sandbox, coffee: Image.Image, tmp_path: Path, mode: str
) -> None:
    image = _source(coffee, mode)
    path = tmp_path / "odd.png"
    image.save(path)
    sandbox.answers.append((200, {}, _answer(_holes(coffee))))
    done = command("edit", path, "--prompt", "x")
    assert done.returncode == 0, done.stderr
    after, before = np.asarray(Image.open(done.stdout.strip())), np.asarray(image)
    if mode == "P":
        before = np.asarray(image.convert("RGB"))
    assert after.shape == before.shape
    if mode in ("RGBA", "LA"):
        assert np.array_equal(after[..., -1], before[..., -1])
    opaque = before[..., -1] == 255 if mode in ("RGBA", "LA") else np.ones((400, 600), bool)
    hole = opaque & (np.asarray(_holes(coffee).getchannel("A")) == 0)
    assert hole.any() and np.array_equal(after[hole], before[hole])


# --- output to terminals and pipes --------------------------------------------------------------


def _by_itself(
    *arguments: object, shell: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own.

    `shell` is appended to it in a shell, for pipes and redirections.
    """
    words = [sys.executable, "-m", "plugin", *arguments]
    if shell:
        words = ["bash", "-c", f'"$@" {shell}', "bash", *words]
    every = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **environment}
    return subprocess.run(
        [os.fspath(word) for word in words], cwd=CHECKOUT, env=every, capture_output=True
    )


ENCODINGS = [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}]


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
@pytest.mark.slow
def test_a_terminal_that_can_not_show_a_name_does_not_cost_the_edit(
    sandbox: Sandbox, photo: Path, environment: dict[str, str]
) -> None:
    done = _by_itself("edit", photo, "--prompt", "echo", **environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    (only,) = history.all_jobs()
    assert only.find_imported() and len(list(photo.parent.glob("*-edit-1.png"))) == 1
    assert b"photo" in done.stdout
    again = _by_itself("resume", only.id, **environment)
    assert again.returncode == 0 and again.stdout.split()


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
@pytest.mark.slow
def test_a_prompt_in_any_language_is_listed_in_any_terminal(
    sandbox: Sandbox, photo: Path, environment: dict[str, str]
) -> None:
    assert command("edit", photo, "--prompt", "黑白 é “x”").returncode == 0
    (only,) = history.all_jobs()
    done = _by_itself("jobs", **environment)
    assert done.returncode == 0 and done.stdout.startswith(only.id.encode()), done.stderr
    helped = _by_itself("edit", "--help", **environment)
    assert helped.returncode == 0 and b"--variations" in helped.stdout, helped.stderr


@pytest.mark.slow
def test_a_name_that_is_no_text_is_printed_as_its_bytes(
    sandbox: Sandbox, photo: Path, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"\xe7\x85\xa7 \xff.png")
    shutil.copyfile(photo, odd)
    done = _by_itself("edit", odd, "--prompt", "echo", LC_ALL="C.UTF-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip(b"\n") == os.fsencode(tmp_path) + b"/\xe7\x85\xa7 \xff-edit-1.png"


@pytest.mark.parametrize("shell", ["| true", ">&-", "2>&-", ">&- 2>&- <&-", "2>&1 | true"])
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.slow
def test_nobody_has_to_listen_for_a_result_to_be_written(
    sandbox: Sandbox, photo: Path, shell: str, buffered: str
) -> None:
    script = f"{shell}; exit ${{PIPESTATUS[0]}}"
    done = _by_itself("edit", photo, "--prompt", "echo", shell=script, PYTHONUNBUFFERED=buffered)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    (only,) = history.all_jobs()
    (path,) = photo.parent.glob("*-edit-1.png")
    assert only.find_imported() and sandbox.posts == 1
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(photo)))
    if shell == "2>&-":
        # What was meant for the closed stream must not be printed between the results.
        assert done.stdout == os.fsencode(path) + b"\n"


@pytest.mark.parametrize("words", [["jobs"], ["service"], ["key", "forget"], ["key", "store"]])
@pytest.mark.parametrize("shell", ["| true", ">&-", "2>&- <&-"])
@pytest.mark.slow
def test_no_command_breaks_where_nobody_listens(words: list[str], shell: str) -> None:
    done = _by_itself(*words, shell=shell, PYTHONUNBUFFERED="1", DIMILINKS_BASE_URL="sandbox")
    assert b"Traceback" not in done.stderr and b"Broken pipe" not in done.stderr, done.stderr


# --- edits of which nothing would show ----------------------------------------------------------


def test_a_fully_transparent_picture_can_be_painted_on(
    sandbox: Sandbox, coffee: Image.Image, tmp_path: Path
) -> None:
    for number, mode in enumerate(("RGBA", "LA")):
        path = tmp_path / f"empty-{mode}.png"
        Image.new(mode, coffee.size, 0).save(path)
        sandbox.answers.append((200, {}, _answer(Image.new("RGB", coffee.size, "red"))))
        done = command("edit", path, "--prompt", "a red wall")
        assert done.returncode == 0 and sandbox.posts == number + 1, done.stderr
        after = Image.open(done.stdout.strip())
        assert after.mode == mode
        assert after.convert("RGBA").getpixel((9, 9)) == (
            (255, 0, 0, 255) if mode == "RGBA" else (76, 76, 76, 255)
        )


def _changed(prepared: job.Job, **changes: object) -> None:
    path = prepared.folder / "request.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _clear_source(folder: Path, corner: int = 0) -> None:
    """Make the source transparent, except a square of `corner` pixels at the top left."""
    source = png_files.read(folder / "source.png").convert("RGBA")
    alpha = Image.new("L", source.size, 0)
    alpha.paste(255, (0, 0, corner, corner))
    source.putalpha(alpha)
    source.save(folder / "source.png")


def _empty_mask(folder: Path) -> None:
    Image.new("L", png_files.read(folder / "source.png").size, 0).save(folder / "mask.png")


def _tiny_mask(folder: Path) -> None:
    mask = Image.new("L", png_files.read(folder / "source.png").size, 0)
    mask.putpixel((30, 30), 255)
    mask.save(folder / "mask.png")


UNSEEN: list[tuple[str, bool, Callable[[Path], None], dict[str, object], str]] = [
    ("transparent", False, _clear_source, {"keep_alpha": True}, "transparency"),
    ("transparent, 0.1.0", False, _clear_source, {"keep_alpha": None}, "transparency"),
    ("selected", True, lambda f: _clear_source(f, 30), {"keep_alpha": True}, "transparency"),
    ("nothing selected", True, _empty_mask, {"keep_alpha": False}, "selection is empty"),
    ("blended away", True, _tiny_mask, {"keep_alpha": False, "blend": 1000}, "Blend"),
]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(
    ("_name", "masked", "spoil", "changes", "words"), UNSEEN, ids=[u[0] for u in UNSEEN]
)
@pytest.mark.slow
def test_nothing_is_sent_where_nothing_of_the_result_would_show(
    sandbox: Sandbox,
    photo: Path,
    mask: Path,
    monkeypatch: pytest.MonkeyPatch,
    _name: str,
    masked: bool,
    spoil: Callable[[Path], None],
    changes: dict[str, object],
    words: str,
    again: bool,
) -> None:
    """This also applies if an edit is sent again that failed and cost nothing."""
    prepared = prepared_job(photo, monkeypatch, *(["--mask", mask] * masked), "--variations", 2)
    if again:
        sandbox.answers += [(402, {}, {"error": {"message": "No money"}})] * 2
        assert command("resume", prepared.id).returncode == 1
    posts = sandbox.posts
    spoil(prepared.folder)
    _changed(prepared, **changes)
    done = command("resume", prepared.id)
    assert done.returncode == 1 and sandbox.posts == posts
    assert words in done.stderr and "Nothing was sent" in done.stderr
    assert {post.kind for post in prepared.read_state().posts} == {job.Kind.SETUP}


def test_what_shows_in_one_pixel_is_sent(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    _clear_source(prepared.folder, 1)
    assert command("resume", prepared.id).returncode == 0 and sandbox.posts == 1


@pytest.mark.slow
def test_a_paid_result_that_shows_nothing_is_still_fitted(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is meant to save money. It must not withhold a result that was paid for."""
    prepared = prepared_job(photo, monkeypatch)
    assert command("resume", prepared.id).returncode == 0
    state = prepared.read_state()
    state.posts[0].placed = ""
    prepared.save_state(state)
    (prepared.folder / "placed-1.png").unlink()
    _clear_source(prepared.folder)
    assert command("resume", prepared.id).returncode == 0
    assert (prepared.folder / "placed-1.png").exists() and sandbox.posts == 1


@pytest.mark.parametrize("kind", ["colours", "alpha", "gray and alpha", "palette"])
def test_an_empty_mask_of_any_kind_is_refused(
    sandbox: Sandbox, photo: Path, coffee: Image.Image, tmp_path: Path, kind: str
) -> None:
    made = {
        "colours": Image.new("RGB", coffee.size),
        "alpha": Image.new("RGBA", coffee.size, (0, 0, 0, 255)),
        "gray and alpha": Image.new("LA", coffee.size, (0, 255)),
        "palette": Image.new("P", coffee.size),
    }[kind]
    made.save(tmp_path / "none.png")
    done = command("edit", photo, "--prompt", "x", "--mask", tmp_path / "none.png")
    assert done.returncode == 1 and "is empty" in done.stderr and sandbox.posts == 0


# --- Ctrl+C -------------------------------------------------------------------------------------


def _command_line(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, *map(str, words)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Shells make background processes, and all that these start, ignore SIGINT. This restores it.
_INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("plugin", run_name="__main__")
"""


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.slow
def test_what_was_sent_is_waited_for_and_nothing_more_is_sent_after_ctrl_c(
    presses: int, photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is busy for the first two variations, and accepts the third."""
    numbers = itertools.count()
    go_on = threading.Event()

    def answer(got: Got) -> bytes:
        if next(numbers) < 2:
            return http(429, b"{}", "Retry-After: 1")
        go_on.wait(20)
        return http(200, json.dumps(_answer(coffee)).encode())

    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        process = _command_line("edit", photo, "--prompt", "x", "--variations", 3)
        until(lambda: server.posts == 3)
        process.send_signal(signal.SIGINT)
        (only,) = history.all_jobs()
        time.sleep(1)
        assert process.poll() is None
        # Meanwhile, no other process can send the remaining variations.
        assert "worked on already" in command("resume", only.id).stderr
        time.sleep(1.5)
        if presses == 2:
            process.send_signal(signal.SIGINT)
        else:
            go_on.set()
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130 and server.posts == 3
        assert "Nothing more is sent" in err and "Traceback" not in err
        assert len(out.split()) == (1 if presses == 1 else 0) or presses == 1
        states = sorted(post.state for post in only.read_state().posts)
        assert states == ["prepared", "prepared", "received" if presses == 1 else "sent"]
        go_on.set()
        command("resume", only.id)
        assert server.posts == 5
    kinds = sorted(post.kind for post in only.read_state().posts)
    assert kinds == ["", "", "" if presses == 1 else Kind.OUTCOME_UNKNOWN]


@pytest.mark.slow
def test_ctrl_c_before_anything_is_sent_costs_nothing(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(lambda got: http(429, b"{}", "Retry-After: 20")) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        process = _command_line("edit", photo, "--prompt", "x")
        until(lambda: server.posts == 1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=10)
    assert process.returncode == 130 and server.posts == 1
    (only,) = history.all_jobs()
    assert only.id in err and "costs nothing" in err and "Traceback" not in err
    assert only.read_state().posts[0].state == "prepared"
