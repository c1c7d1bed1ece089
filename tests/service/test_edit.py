"""The whole edit without GIMP: the command line with the sandbox, over real HTTP."""

from __future__ import annotations

import base64
import errno
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plugin import history, job, lock, settings, storage
from plugin.errors import Failure, Kind
from plugin.worker import cli_files, run
from plugin.worker.pictures import png_files
from plugin.worker.sandbox import Sandbox
from plugin.worker.service import api, form, patience, transport, upload
from plugin.worker.service.api import Service
from tests.service.raw_server import Got, RawServer, Reply, http
from tests.service.workers import (
    CHECKOUT,
    NOTHING_THERE,
    aged,
    prepared_job,
    read_request,
    until,
    worker_on,
)
from tests.service.workers import command as _run


def _form(data: bytes, image: Image.Image) -> form.Form:
    """Return the body of an edit with `data` as its only picture."""
    sent = upload.Upload([("image", "source.png", data)], image, None, (0, 0, *image.size))
    return form.build("edits", "echo", "gpt-image-2", "3:2", "1k", sent)


@pytest.mark.slow
def test_the_command_line_is_a_module(sandbox: Sandbox, photo: Path) -> None:
    command = [sys.executable, "-m", "plugin", "edit", photo, "--prompt", "echo"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0 and Path(done.stdout.strip()).exists()
    refused = subprocess.run([*command[:-1], " "], cwd=CHECKOUT, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, "") and "prompt" in refused.stderr


@pytest.mark.slow
def test_an_edit_changes_what_the_mask_says_and_nothing_else(
    sandbox: Sandbox, photo: Path, mask: Path, coffee: Image.Image, tmp_path: Path
) -> None:
    done = _run("edit", photo, "--prompt", "黑白", "--mask", mask, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    after, before = np.asarray(Image.open(path)), np.asarray(coffee)
    selected = np.asarray(Image.open(mask)) > 0
    assert after.shape == before.shape
    assert np.array_equal(after[~selected], before[~selected])
    assert (after[selected] != before[selected]).any(axis=1).mean() > 0.5
    (edit,) = sandbox.edits
    assert edit.fields == {
        "prompt": "黑白",
        "model": "gpt-image-2",
        "size": "1:1",
        "resolution": "1k",
    }
    assert [(f.field, f.name) for f in edit.files] == [
        ("image", "source.png"),
        ("mask", "mask.png"),
    ]
    assert edit.headers["Authorization"] == "Bearer test-key"
    assert edit.headers["User-Agent"].startswith("dimilinks-gimp/")


@pytest.mark.slow
def test_the_link_is_fetched_without_the_key(sandbox: Sandbox, photo: Path) -> None:
    assert _run("edit", photo, "--prompt", "sketch").returncode == 0
    (served,) = sandbox.served
    assert "sig=" in served.path and "Authorization" not in served.headers


def test_a_netrc_file_does_not_replace_the_key(
    sandbox: Sandbox, coffee: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    # For loopback addresses, the file would not be read at all.
    monkeypatch.setattr(api.settings, "is_loopback", lambda host: False)
    distant = api.Service(sandbox.base_url, "test-key")
    data = png_files.encoded(coffee)
    answer = distant.send(_form(data, coffee))
    assert distant.picture(answer) == data
    assert sandbox.edits[0].headers["Authorization"] == "Bearer test-key"
    assert "Authorization" not in sandbox.served[0].headers


@pytest.mark.slow
def test_references_and_variations(
    sandbox: Sandbox, photo: Path, photo_files: Path, tmp_path: Path
) -> None:
    references = ["--reference", photo_files / "chelsea.png", "--reference", photo]
    out = tmp_path / "out"
    done = _run(
        "edit", photo, "--prompt", "融合风格", *references, "--variations", 3, "--out", out,
        "--size", "16:9", "--resolution", "1k",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == len(list(out.iterdir())) == 3
    assert len(sandbox.edits) == 3
    for edit in sandbox.edits:
        assert [f.field for f in edit.files] == ["image[]"] * 3
        assert len({f.name for f in edit.files}) == 3
        assert (edit.fields["size"], edit.fields["resolution"]) == ("16:9", "1k")


def test_echo_brings_the_picture_back_as_it_was(
    sandbox: Sandbox, photo: Path, coffee: Image.Image
) -> None:
    done = _run("edit", photo, "--prompt", "echo")
    assert np.array_equal(np.asarray(Image.open(done.stdout.strip())), np.asarray(coffee))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
@pytest.mark.slow
def test_other_kinds_of_pictures_keep_their_outside(
    sandbox: Sandbox, coffee: Image.Image, mask: Path, tmp_path: Path, mode: str
) -> None:
    image = coffee.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(coffee.size))
    image = image.convert(mode) if mode != "P" else coffee.quantize(64)
    path = tmp_path / "odd.png"
    image.save(path)
    done = _run("edit", path, "--prompt", "warmer", "--mask", mask)
    assert done.returncode == 0, done.stderr
    after = Image.open(done.stdout.strip())
    before = image if mode != "P" else image.convert("RGB")
    assert after.mode == before.mode
    outside = np.asarray(Image.open(mask)) == 0
    assert np.array_equal(np.asarray(after)[outside], np.asarray(before)[outside])


@pytest.mark.slow
def test_the_sandbox_works_without_a_key(
    photo: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    done = _run("edit", photo, "--prompt", "复古胶片")
    assert done.returncode == 0, done.stderr
    listed = _run("jobs").stdout
    (only,) = history.all_jobs()
    assert listed.split("\t") == [only.id, "received", "复古胶片\n"]
    assert not (home / "key").exists()


@pytest.mark.parametrize("link_form", ["relative", "absolute", "data", "b64_json"])
@pytest.mark.slow
def test_every_form_of_an_answer_is_read(
    photo: Path, monkeypatch: pytest.MonkeyPatch, link_form: Any
) -> None:
    with Sandbox(link_form=link_form) as running:
        monkeypatch.setenv("DIMILINKS_BASE_URL", running.base_url)
        monkeypatch.setenv("DIMILINKS_API_KEY", "k")
        assert _run("edit", photo, "--prompt", "echo").returncode == 0


BAD_INPUT: list[tuple[str, Callable[[Path, Path], list[object]], str]] = [
    ("no prompt", lambda p, t: [p, "--prompt", "  "], "prompt is empty"),
    ("no such file", lambda p, t: [t / "none.png", "--prompt", "x"], "none.png can't be read"),
    ("no picture", lambda p, t: [Path(__file__), "--prompt", "x"], "is not a picture"),
    ("mask of another size", lambda p, t: [p, "--prompt", "x", "--mask", t / "small.png"], "same"),
    ("empty mask", lambda p, t: [p, "--prompt", "x", "--mask", t / "black.png"], "is empty"),
    ("impossible size", lambda p, t: [p, "--prompt", "x", "--size", "9000x9000"], "can't make"),
    ("16 bits", lambda p, t: [t / "deep.png", "--prompt", "x"], "more than 8 bits"),
    ("huge", lambda p, t: [t / "huge.png", "--prompt", "x"], "at most 400 million"),
    ("endless prompt", lambda p, t: [p, "--prompt", "x" * 40_000], "too long"),
    ("unseen prompt", lambda p, t: [p, "--prompt", "\u200b\ufe0f \u2060"], "invisible characters"),
    ("broken prompt", lambda p, t: [p, "--prompt", "a\udcff"], "broken characters"),
    ("10 pictures", lambda p, t: [p, "--prompt", "x"] + ["--reference", p] * 9, "at most 8"),
]


@pytest.mark.parametrize(("_name", "arguments", "words"), BAD_INPUT, ids=[b[0] for b in BAD_INPUT])
def test_bad_input_is_told_before_anything_is_sent(
    sandbox: Sandbox,
    photo: Path,
    tmp_path: Path,
    _name: str,
    arguments: Callable[[Path, Path], list[object]],
    words: str,
) -> None:
    Image.new("L", (60, 40), 255).save(tmp_path / "small.png")
    Image.new("L", (600, 400), 0).save(tmp_path / "black.png")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (1, 1)).save(tmp_path / "huge.png")
    with open(tmp_path / "huge.png", "r+b") as file:
        # Change the size in the header, and its checksum.
        file.seek(12)
        head = b"IHDR" + struct.pack(">2I", 40_000, 40_000) + file.read(17)[12:]
        file.seek(12)
        file.write(head + struct.pack(">I", zlib.crc32(head)))
    done = _run("edit", *arguments(photo, tmp_path))
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and sandbox.posts == 0


def test_without_a_key_both_ways_on_are_told(photo: Path) -> None:
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1
    for words in ("no API key", "DIMILINKS_API_KEY", "sandbox"):
        assert words in done.stderr
    assert history.all_jobs() == []


ERRORS = [
    (401, {"error": {"message": "Bad key", "code": "invalid_api_key"}}, ["Bad key", "API key"]),
    (402, {"error": {"message": "No money", "code": "insufficient_balance"}}, ["No money", "Top"]),
    (403, {"error": {"message": "Quota", "code": "insufficient_user_quota"}}, ["balance", "Quota"]),
    (403, {"error": {"message": "no", "code": "model_not_allowed"}}, ["not allowed to use"]),
    (400, {"error": {"message": "Blocked by moderation", "code": 400}}, ["Blocked by moderation"]),
    (413, b"<html><title>413 Request Entity Too Large</title></html>", ["too large"]),
    (429, {"error": {"message": "slow down", "code": "rate_limit_rpm"}}, ["busy", "try again"]),
    (307, b"", ["moved"]),
]


@pytest.mark.parametrize(("status", "body", "words"), ERRORS)
@pytest.mark.slow
def test_a_refusal_is_told_in_the_services_words(
    sandbox: Sandbox, photo: Path, status: int, body: Any, words: list[str]
) -> None:
    sandbox.answers.append((status, {"Location": "https://elsewhere.example/v1"}, body))
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert sandbox.posts == 1
    (only,) = history.all_jobs()
    assert only.read_state().name == job.Status.FAILED
    # The edit cost nothing, so resuming the job sends it again.
    assert _run("resume", only.id).returncode == 0
    assert sandbox.posts == 2


UNKNOWN: list[tuple[int, Any] | None] = [
    (500, {"error": {"message": "boom", "code": "internal_error"}}),
    (502, b"<html><title>502 Bad Gateway</title></html>"),
    (504, b""),
    (524, b"error code: 524"),
    (303, b""),
    (408, b""),
    (409, {"error": {"message": "An edit of yours is under way", "code": "conflict"}}),
    (499, b""),
    None,
]


@pytest.mark.parametrize("reply", UNKNOWN)
def test_what_may_have_been_billed_is_never_sent_again(
    sandbox: Sandbox, photo: Path, reply: tuple[int, Any] | None
) -> None:
    sandbox.answers.append(reply and (reply[0], {}, reply[1]))
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "may have been charged" in done.stderr
    (only,) = history.all_jobs()
    assert only.read_state().posts[0].kind == Kind.OUTCOME_UNKNOWN
    again = _run("resume", only.id)
    assert again.returncode == 1 and "may have been charged" in again.stderr
    assert sandbox.posts == 1


def test_an_unreachable_service_is_told_and_costs_nothing(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", NOTHING_THERE)
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1
    assert "can't be reached" in done.stderr and "Nothing was sent" in done.stderr


ANSWERS: list[tuple[Any, str]] = [
    ({"data": []}, "without a picture"),
    ({"data": "x"}, "without a picture"),
    ({"task_id": "img_odd", "data": ["x"]}, "task number img_odd"),
    ({"data": [{"url": 5}]}, "without a picture"),
    (b"[]", "without a picture"),
    (b"\xff\xfe", "without a picture"),
    (b"[" * 100_000, "without a picture"),
    ({"data": [{"b64_json": "****"}]}, "damaged"),
    ({"data": [{"b64_json": "aGFsbG8="}]}, "not a PNG"),
    ({"data": [{"url": "data:image/png;base64,aGFsbG8="}]}, "not a PNG"),
    ({"data": [{"url": "file:///etc/passwd"}]}, "not followed"),
    ({"data": [{"url": "http://192.168.1.1/x.png"}]}, "not followed"),
    ({"data": [{"url": "https://127.0.0.1:9/x.png"}]}, "not followed"),
    ({"data": [{"url": "https://127.0.0.1\\@example.com/x.png"}]}, "not followed"),
    ({"data": [{"url": "https://me:pw@example.com/x.png"}]}, "not followed"),
    ({"data": [{"url": "https://[x/y.png"}]}, "not followed"),
    ({"data": [{"url": "https://10.0.0.1/x.png"}]}, "not followed"),
    ({"data": [{"url": "/p/img/img_00/0?exp=1&sig=0"}]}, "could not be fetched"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS)
def test_an_unusable_answer_harms_nothing(
    sandbox: Sandbox, photo: Path, answer: Any, words: str
) -> None:
    sandbox.answers.append((200, {}, answer))
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert sandbox.posts == 1
    assert done.stdout == ""


def test_the_services_words_are_shown_tamed(sandbox: Sandbox, photo: Path) -> None:
    message = "line\none\x1b[31m red " + "long " * 500 + "?exp=1&sig=abcdef"
    sandbox.answers.append((400, {}, {"error": {"message": message}}))
    shown = _run("edit", photo, "--prompt", "x").stderr
    assert "\x1b" not in shown and len(shown) < 700 and "abcdef" not in shown


@pytest.mark.slow
def test_nothing_on_disk_tells_the_key_or_a_signed_link(
    sandbox: Sandbox, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.keys = {"sk-planted-key"}
    monkeypatch.setenv("DIMILINKS_API_KEY", "sk-planted-key")
    done = _run("edit", photo, "--prompt", "echo")
    sandbox.answers.append((401, {}, {"error": {"message": "bad"}}))
    refused = _run("edit", photo, "--prompt", "echo")
    said = done.stdout + done.stderr + refused.stdout + refused.stderr
    left = b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file())
    assert len(left) > 1000
    for secret in ("sk-planted-key", "sig="):
        assert secret not in said and secret.encode() not in left


def test_a_download_has_a_limit_whatever_it_says_of_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server never stops sending, and the client hangs up at its limit."""
    monkeypatch.setattr(api.formats, "FOREIGN_BYTES", 1_000_000)
    listener = socket.create_server(("127.0.0.1", 0))
    sent = 0

    def serve() -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while sent < 500_000_000:
                    sent += connection.send(b"x" * 65536)
            except OSError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    with pytest.raises(Failure, match="too large"):
        api.Service(f"http://127.0.0.1:{port}/v1", "k").picture(api.Answer("", ("/p/img/x/0",)))
    thread.join(30)
    listener.close()
    assert sent < 100_000_000


def _half_done(photo: Path, monkeypatch: pytest.MonkeyPatch) -> job.Job:
    """Create a job whose worker was killed after the result arrived, before it was fitted."""
    prepared = prepared_job(photo, monkeypatch)
    assert _run("resume", prepared.id).returncode == 0
    state = prepared.read_state()
    state.posts[0].placed = ""
    prepared.save_state(state)
    (prepared.folder / "placed-1.png").unlink()
    return prepared


@pytest.mark.slow
def test_what_arrived_is_placed_without_the_service(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done = _half_done(photo, monkeypatch)
    monkeypatch.delenv("DIMILINKS_API_KEY")
    monkeypatch.setenv("DIMILINKS_BASE_URL", NOTHING_THERE)
    assert _run("resume", half_done.id).returncode == 0
    assert (half_done.folder / "placed-1.png").exists() and sandbox.posts == 1


@pytest.mark.slow
def test_a_paid_result_is_not_sent_for_again_when_the_job_is_damaged(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done = _half_done(photo, monkeypatch)
    source = (half_done.folder / "source.png").rename(half_done.folder / "aside")
    assert _run("resume", half_done.id).returncode == 1
    assert half_done.read_state().name == job.Status.RECEIVED
    source.rename(half_done.folder / "source.png")
    assert _run("resume", half_done.id).returncode == 0
    assert sandbox.posts == 1


def _accepted(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, *words: object) -> job.Job:
    """Create a job whose edit was accepted, and whose task the service refused to show once."""
    monkeypatch.setenv("DIMILINKS_ROUTE", settings.ASYNC)
    sandbox.task_answers.append((401, {}, b""))
    _run("edit", *words, "--prompt", "echo")
    (only,) = history.all_jobs()
    return only


@pytest.mark.parametrize("name", ["source.png", "reference-1.png"])
@pytest.mark.slow
def test_a_finished_task_is_fetched_though_the_jobs_pictures_are_damaged(
    name: str, sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = _accepted(sandbox, monkeypatch, photo, "--reference", photo)
    whole = (only.folder / name).read_bytes()
    (only.folder / name).write_bytes(b"damaged")
    done = _run("resume", only.id)
    (post,) = only.read_state().posts
    assert post.to_be_placed and (only.folder / post.result).exists()
    assert done.returncode == 1 and str(only.folder / post.result) in done.stderr
    (only.folder / name).write_bytes(whole)
    assert _run("resume", only.id).returncode == 0 and sandbox.posts == 1


@pytest.mark.slow
def test_a_failure_that_can_not_be_noted_says_nothing_of_the_other_variations(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variation is refused while the disk is full. The outcome of the others is unknown."""
    turned_away = threading.Event()
    numbers = itertools.count()

    def answer(got: Got) -> Reply | None:
        if next(numbers) == 2:
            return http(403, b'{"error": {"code": "model_not_allowed"}}')
        turned_away.wait(10)
        return None

    def save(self: job.Job, state: job.State) -> None:
        if (
            any(post.state == job.Status.FAILED for post in state.posts)
            and not turned_away.is_set()
        ):
            turned_away.set()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        saved(self, state)

    saved = job.Job.save_state
    monkeypatch.setattr(job.Job, "save_state", save)
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        assert _run("edit", photo, "--prompt", "x", "--variations", "3").returncode == 1
        (only,) = history.all_jobs()
        kinds = sorted(post.kind for post in only.read_state().posts)
        assert kinds == [Kind.OUTCOME_UNKNOWN, Kind.OUTCOME_UNKNOWN, Kind.REFUSED]
        _run("resume", only.id)
        assert server.posts == 4


@pytest.mark.slow
def test_a_full_disk_at_the_start_keeps_no_task_from_being_fetched(
    sandbox: Sandbox, photo: Path, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two variations, one was accepted, and the other one was never sent."""
    only = _accepted(sandbox, monkeypatch, photo, "--mask", mask)
    state = only.read_state()
    state.posts.append(job.Post())
    only.save_state(state)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(run, "Shared", full)
        done = _run("resume", only.id)
    assert done.returncode == 1 and "No space left" in done.stderr
    first, second = only.read_state().posts
    assert first.result and second.may_be_sent_again
    assert _run("resume", only.id).returncode == 0 and sandbox.posts == 2


def test_a_task_that_could_not_be_noted_is_noted_while_it_is_waited_for(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.ENOSPC, "No space left on device")]
    noted: list[str] = []

    def save(self: job.Job, state: job.State) -> None:
        if state.posts[0].state == job.Status.ACCEPTED and failures:
            raise failures.pop()
        saved(self, state)

    def asked(self: Service, name: str) -> Any:
        noted.append(history.all_jobs()[0].read_state().posts[0].task)
        return task(self, name)

    saved, task = job.Job.save_state, Service.task
    monkeypatch.setattr(job.Job, "save_state", save)
    monkeypatch.setattr(Service, "task", asked)
    monkeypatch.setenv("DIMILINKS_ROUTE", settings.ASYNC)
    assert _run("edit", photo, "--prompt", "echo").returncode == 0
    assert not failures and noted and all(noted)


@pytest.mark.slow
def test_variations_without_a_task_id_do_not_overwrite_each_other(
    sandbox: Sandbox, photo: Path, coffee: Image.Image
) -> None:
    colours = ("red", "green", "blue")
    for colour in colours:
        encoded = base64.b64encode(
            png_files.encoded(Image.new("RGB", coffee.size, colour))
        ).decode()
        sandbox.answers.append((200, {}, {"data": [{"b64_json": encoded}]}))
    done = _run("edit", photo, "--prompt", "x", "--variations", 3)
    seen = {Image.open(path).getpixel((0, 0)) for path in done.stdout.splitlines()}
    assert seen == {(255, 0, 0), (0, 128, 0), (0, 0, 255)}


def test_a_download_that_stumbles_is_tried_again(
    photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server drops the first GET, interrupts the second, and is overloaded at the third."""
    data = png_files.encoded(coffee)
    answer = b'{"task_id": "img_7", "data": [{"url": "/p/img/img_7/0?exp=1&sig=s"}]}'
    whole = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    replies = [
        whole % (len(answer), answer),
        b"",
        whole % (len(data), data[:1000]),
        b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        whole % (len(data), data),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    served = 0

    def serve() -> None:
        nonlocal served
        for reply in replies:
            connection, _ = listener.accept()
            with connection:
                read_request(connection)
                connection.sendall(reply)
            served += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    monkeypatch.setattr(patience, "FETCHES", (0, 0, 0, 0))
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    port = listener.getsockname()[1]
    monkeypatch.setenv("DIMILINKS_BASE_URL", f"http://127.0.0.1:{port}/v1")
    done = _run("edit", photo, "--prompt", "x")
    thread.join(10)
    listener.close()
    assert done.returncode == 0, done.stderr
    assert served == len(replies)


def test_the_task_is_named_where_the_picture_cannot_be_had(sandbox: Sandbox, photo: Path) -> None:
    sandbox.answers.append((200, {}, {"task_id": "img_lost", "data": []}))
    done = _run("edit", photo, "--prompt", "x")
    (only,) = history.all_jobs()
    assert done.returncode == 1 and "img_lost" in done.stderr
    assert (only.read_state().posts[0].state, only.read_state().posts[0].task) == (
        job.Status.FAILED,
        "img_lost",
    )
    assert _run("resume", only.id).returncode == 1 and sandbox.posts == 1


def test_base64_is_read_as_loosely_as_it_is_written(
    sandbox: Sandbox, photo: Path, coffee: Image.Image
) -> None:
    encoded = base64.encodebytes(png_files.encoded(coffee)).decode().rstrip("=\n")
    sandbox.answers.append((200, {}, {"data": [{"b64_json": encoded}]}))
    assert _run("edit", photo, "--prompt", "x").returncode == 0


def test_a_key_that_the_service_quotes_is_not_repeated(
    sandbox: Sandbox, photo: Path, home: Path
) -> None:
    message = "Invalid token: test-key, see https://x.example/?token=abcdefgh&X-Sig=abcdefgh"
    sandbox.answers.append((401, {}, {"error": {"message": message}}))
    shown = _run("edit", photo, "--prompt", "x").stderr
    assert "Invalid token" in shown
    left = b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file()).decode("latin-1")
    for secret in ("test-key", "abcdefgh"):
        assert secret not in shown and secret not in left


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DIMILINKS_BASE_URL", "https://example.invalid:99999/v1"),
        ("DIMILINKS_BASE_URL", "https://me:secret-word@example.invalid/v1"),
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTPS_PROXY", "strange://127.0.0.1:1"),
        ("REQUESTS_CA_BUNDLE", "/nowhere/at/all.pem"),
    ],
)
def test_what_cannot_even_be_sent_is_not_called_billed(
    photo: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://example.invalid/v1")
    monkeypatch.setenv(variable, value)
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "may have been charged" not in done.stderr and "secret-word" not in done.stderr
    assert all(
        post.kind != Kind.OUTCOME_UNKNOWN
        for j in history.all_jobs()
        for post in j.read_state().posts
    )


def test_a_full_disk_is_told_before_anything_is_sent(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_ROOM", 10**18)
    done = _run("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "nearly full" in done.stderr
    assert sandbox.posts == 0


@pytest.mark.slow
def test_deep_masks_and_references_are_read_by_their_values(
    sandbox: Sandbox, photo: Path, coffee: Image.Image, tmp_path: Path
) -> None:
    ramp = np.tile(np.linspace(0, 65535, 600).astype(np.uint16), (400, 1))
    deep = tmp_path / "deep.png"
    Image.fromarray(ramp).save(deep)
    faint = np.asarray(cli_files.read_mask(deep, coffee.size), int)
    assert np.abs(faint - ramp / 257).max() <= 0.5
    coffee.convert("CMYK").save(tmp_path / "print.jpg")
    references = ["--reference", deep, "--reference", tmp_path / "print.jpg"]
    done = _run("edit", photo, "--prompt", "x", "--mask", deep, *references)
    assert done.returncode == 0, done.stderr


def test_only_the_depth_of_a_pixel_makes_a_picture_deep(
    tmp_path: Path, coffee: Image.Image
) -> None:
    for width in range(716, 726):
        path = tmp_path / "plain.bmp"
        coffee.resize((width, 30)).save(path)
        assert cli_files.read_image(path).mode == "RGB"
    deep = tmp_path / "deep.ppm"
    deep.write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(Failure, match="is not a picture"):
        cli_files.read_image(deep)


@pytest.mark.slow
def test_the_plug_ins_worker_tells_its_phases(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    with worker_on(prepared) as worker:
        lines = [json.loads(line) for line in worker.stdout or ()]
    steps = [line for line in lines if line["phase"] != "uploading"]
    assert steps == [
        {"phase": "preparing"},
        *({"phase": phase, "variation": 1} for phase in ("waiting", "downloading", "fitting")),
    ]
    first, *_, last = uploading = [line for line in lines if line["phase"] == "uploading"]
    total = int(sandbox.edits[0].headers["Content-Length"])
    assert first == {"phase": "uploading", "variation": 1, "total": total}
    assert last == {**first, "sent": total}
    assert lines == [lines[0], *uploading, *steps[1:]]
    assert prepared.read_state().name == job.Status.RECEIVED
    assert (prepared.folder / "placed-1.png").exists()


@pytest.mark.slow
def test_an_upload_over_a_slow_line_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, coffee: Image.Image
) -> None:
    """The server reads the request slowly, and then answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    length = 0

    def serve() -> None:
        nonlocal length
        connection, _ = listener.accept()
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(4096)
            head, _, body = data.partition(b"\r\n\r\n")
            (field,) = [h for h in head.split(b"\r\n") if h.startswith(b"Content-Length")]
            length, got = int(field.split(b":")[1]), len(body)
            while got < length:
                got += len(connection.recv(1 << 18))
                time.sleep(0.01)
            connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setattr(transport, "_REPORT_SECONDS", 0.02)
    told: list[tuple[int, int]] = []
    data = os.urandom(8_000_000)
    slow = api.Service(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "k")
    with pytest.raises(Failure, match="doesn't accept the API key"):
        slow.send(_form(data, coffee), lambda *bytes: told.append(bytes))
    thread.join(30)
    listener.close()
    assert len(told) > 5 and told == sorted(told)
    assert told[0] == (0, length) and told[-1] == (length, length) and length > len(data)
    assert told.count((length, length)) == 1


@pytest.mark.slow
def test_a_connection_that_breaks_in_the_upload_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The upload must be larger than the buffers of the system.
    noise = tmp_path / "noise.png"
    Image.frombytes("RGB", (2000, 1300), os.urandom(2000 * 1300 * 3)).save(noise, compress_level=1)
    listener = socket.create_server(("127.0.0.1", 0))
    connections = 0

    def serve() -> None:
        nonlocal connections
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections += 1
            with connection:
                connection.recv(1000)

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    monkeypatch.setenv("DIMILINKS_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    done = _run("edit", noise, "--prompt", "x", "--resolution", "2k")
    listener.close()
    assert done.returncode == 1 and "nothing was charged" in done.stderr
    assert connections == 1
    (only,) = history.all_jobs()
    assert only.read_state().posts[0].may_be_sent_again


@pytest.mark.slow
def test_the_mask_is_explained_if_the_user_wants_it(
    sandbox: Sandbox, photo: Path, mask: Path
) -> None:
    settings.save(explain_mask=True)
    assert _run("edit", photo, "--prompt", "sepia").returncode == 0
    assert _run("edit", photo, "--prompt", "sepia", "--mask", mask).returncode == 0
    whole, masked = (edit.fields["prompt"] for edit in sandbox.edits)
    assert whole == "sepia" and masked == f"sepia\n\n{settings.MASK_LINE}"
    assert {each.read_request().prompt for each in history.all_jobs()} == {"sepia"}


@pytest.mark.slow
def test_the_ceiling_and_the_days_of_the_settings_count(
    sandbox: Sandbox, photo: Path, coffee: Image.Image
) -> None:
    coffee.resize((2400, 1600)).save(photo)
    settings.save(ceiling="2k", keep_days=3)
    assert _run("edit", photo, "--prompt", "echo").returncode == 0
    assert sandbox.edits[0].fields["resolution"] == "2k"
    (old,) = history.all_jobs()
    aged(old, 4 * 86400)
    assert _run("edit", photo, "--prompt", "echo", "--resolution", "1k").returncode == 0
    (new,) = history.all_jobs()
    assert new.id != old.id and sandbox.edits[1].fields["resolution"] == "1k"


@pytest.mark.parametrize(
    "state", [job.Status.SENT, job.Status.PREPARED, job.Status.FAILED, "imported"]
)
@pytest.mark.slow
def test_what_a_worker_is_at_is_never_removed(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """The lock decides, even if the edit is old, or looks old because the clock was changed."""
    sandbox.thinking = 3
    made = prepared_job(photo, monkeypatch)
    with worker_on(made) as worker:
        assert worker.stdin and worker.stdout
        until(lambda: sandbox.posts == 1)
        # The state on the disk makes no difference.
        post = job.Post(job.Status.FAILED, kind=job.Kind.BUSY)
        if state == "imported":
            post = job.Post(job.Status.RECEIVED, placed="placed-1.png")
            made.mark_imported([1])
        elif state != job.Status.FAILED:
            post = job.Post(state)
        made.save_state(job.State([post]))
        aged(made, 40 * 86400)
        assert lock.is_held(made.folder / "lock")
        for now in (time.time(), time.time() + 40 * 86400):
            history.prune(1, now)
            history.clear(now)
        assert made.folder.exists()
        worker.stdin.close()
        assert worker.wait(60) == 0
    assert made.read_state().name == job.Status.RECEIVED and (made.folder / "placed-1.png").exists()
    assert not lock.is_held(made.folder / "lock")
    if state == "imported":
        history.clear(time.time())
    assert made.folder.exists() == (state != "imported")


@pytest.mark.slow
def test_a_worker_packs_pictures_once_they_are_imported(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it compressed them earlier, it would slow down the import."""
    made = prepared_job(photo, monkeypatch)
    with worker_on(made) as worker:
        assert worker.stdout
        worker.stdout.read()
        fitted = made.folder / made.read_state().posts[0].placed
        size = fitted.stat().st_size
        time.sleep(1)
        assert fitted.stat().st_size == size and worker.poll() is None
        made.mark_imported([1])
        assert worker.wait(5) == 0
    assert fitted.stat().st_size < size


@pytest.mark.slow
def test_our_lock_keeps_a_worker_out(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared_job(photo, monkeypatch)
    command = [sys.executable, "-m", "plugin", "resume", made.id]
    with lock.held(made.folder / "lock") as ours:
        assert ours
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 1 and "worked on already" in done.stderr and sandbox.posts == 0
    assert subprocess.run(command, cwd=CHECKOUT, capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_variation_that_arrives_after_its_sister_becomes_a_picture_too(
    sandbox: Sandbox, photo: Path, tmp_path: Path, mask: Path, coffee: Image.Image
) -> None:
    sandbox.answers.append((400, {}, {"error": {"message": "not now"}}))
    out = tmp_path / "out"
    words = ["edit", photo, "--prompt", "sepia", "--mask", mask, "--variations", 2, "--out", out]
    done = _run(*words)
    (first,) = done.stdout.splitlines()
    assert done.returncode == 1 and Path(first).parent == out
    (made,) = history.all_jobs()
    (late,) = {1, 2} - made.find_imported()
    again = _run("resume", made.id)
    (second,) = again.stdout.splitlines()
    assert again.returncode == 0, again.stderr
    assert Path(second).parent == out and second != first
    with Image.open(second) as written:
        assert written.size == coffee.size
    assert made.find_imported() == {1, 2} and late in made.find_imported()
    # Resuming once more writes nothing new.
    assert _run("resume", made.id).returncode == 0
    assert len(list(out.iterdir())) == 2


@pytest.mark.slow
def test_settings_that_can_not_be_read_send_nothing(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = prepared_job(photo, monkeypatch)
    aged(old, 40 * 86400)
    file = storage.home() / "settings.json"
    text = f'{{"base_url": "{sandbox.base_url}", "keep_days": 0,}}'
    file.write_text(text)
    # Neither the address in the variable nor the default one may be used.
    for url in (sandbox.base_url, ""):
        monkeypatch.setenv("DIMILINKS_BASE_URL", url)
        for words in (["edit", photo, "--prompt", "x"], ["resume", old.id]):
            done = _run(*words)
            assert done.returncode == 1 and str(file) in done.stderr, done.stderr
            assert "Nothing is sent" in done.stderr and "Traceback" not in done.stderr
    assert sandbox.posts == 0 and file.read_text() == text
    assert [each.id for each in history.all_jobs()] == [old.id]
    # When the file is repaired, its settings are used again.
    monkeypatch.setenv("DIMILINKS_BASE_URL", "")
    file.write_text(text.replace(",}", "}"))
    assert _run("resume", old.id).returncode == 0 and sandbox.posts == 1


@pytest.mark.slow
def test_what_has_arrived_is_fitted_whatever_the_settings_are(
    sandbox: Sandbox, photo: Path, mask: Path
) -> None:
    assert _run("edit", photo, "--prompt", "sepia", "--mask", mask).returncode == 0
    (made,) = history.all_jobs()
    state = made.read_state()
    state.posts[0].placed = ""
    made.save_state(state)
    (made.folder / "placed-1.png").unlink()
    (storage.home() / "settings.json").write_text("{")
    assert _run("resume", made.id).returncode == 0
    assert (made.folder / "placed-1.png").exists()


@pytest.mark.slow
def test_a_worker_that_is_ready_hears_of_its_job_later(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    with worker_on() as worker:
        assert worker.stdin and worker.stdout
        task = {"folder": str(prepared.folder), "language": "en", "collect": False}
        worker.stdin.write(json.dumps(task).encode() + b"\n")
        worker.stdin.flush()
        # The worker has finished when its output ends, and exits although its input stays open.
        assert b"fitting" in worker.stdout.read()
        assert prepared.read_state().name == job.Status.RECEIVED
        assert worker.wait(30) == 0
    log = prepared.folder / "worker.log"
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_worker_that_is_ready_and_not_needed_ends(sandbox: Sandbox) -> None:
    with worker_on() as worker:
        assert worker.stdin
        worker.stdin.write(b'{"folder": "/not/the/wh')
        worker.stdin.close()
        assert worker.wait(30) == 0
    assert not history.all_jobs() and not sandbox.posts


@pytest.mark.slow
def test_pictures_that_were_written_in_haste_are_small_in_the_end(
    sandbox: Sandbox, photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    source = prepared.folder / "source.png"
    before = png_files.read(source)
    before.save(source, compress_level=0)
    raw = before.width * before.height * 3
    assert source.stat().st_size > raw
    assert _run("resume", prepared.id).returncode == 0
    for file in (source, prepared.folder / "placed-1.png"):
        assert file.stat().st_size < 0.8 * raw
        assert file.stat().st_mode & 0o777 == 0o600
    assert png_files.read(source).tobytes() == before.tobytes()
    (served,) = [each for each in sandbox.served if each.path.startswith("/p/img/")]
    assert (prepared.folder / "result-1.png").read_bytes() == sandbox.result(served.path)[0]
    placed = png_files.read(prepared.folder / "placed-1.png")
    assert placed.mode == "RGB" and placed.size == before.size


@pytest.mark.slow
def test_when_gimp_is_gone_before_sending_nothing_is_sent(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    worker = worker_on(prepared)
    assert worker.stdin and worker.stdout
    worker.stdin.close()
    worker.wait(30)
    worker.stdout.close()
    assert sandbox.posts == 0 and prepared.read_state().name == job.Status.PREPARED
    assert _run("resume", prepared.id).returncode == 0
    assert sandbox.posts == 1


@pytest.mark.slow
def test_when_gimp_is_gone_after_sending_the_paid_result_arrives(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.thinking = 2
    prepared = prepared_job(photo, monkeypatch)
    worker = worker_on(prepared)
    until(lambda: sandbox.posts == 1)
    assert worker.stdin and worker.stdout
    worker.stdin.close()
    worker.stdout.close()
    assert worker.wait(30) == 0
    assert prepared.read_state().name == job.Status.RECEIVED and sandbox.posts == 1
    assert (prepared.folder / "placed-1.png").exists()


@pytest.mark.slow
def test_a_killed_worker_leaves_an_unknown_outcome_that_is_not_sent_again(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.thinking = 2
    prepared = prepared_job(photo, monkeypatch)
    with worker_on(prepared) as worker:
        until(lambda: prepared.read_state().name == job.Status.SENT)
        busy = _run("resume", prepared.id)
        assert busy.returncode == 1 and "worked on already" in busy.stderr
        worker.send_signal(signal.SIGKILL)
    again = _run("resume", prepared.id)
    assert again.returncode == 1 and "may have been charged" in again.stderr
    assert sandbox.posts <= 1
