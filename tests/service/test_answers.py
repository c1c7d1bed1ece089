"""Answers of services that differ from the documented form, or that are damaged.

They are read if possible and kept otherwise, and errors are reported with the service's messages.
"""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from plugin import history, job, settings
from plugin.errors import Failure, Kind
from plugin.job import Post, Status
from plugin.worker.fitting import fit
from plugin.worker.pictures import png_files
from plugin.worker.service import answer_text, answers, api, complaints, patience, upload
from plugin.worker.service.api import Service
from plugin.worker.service.redaction import Secrets
from tests.service.raw_server import Got, RawServer, Reply, http
from tests.service.workers import CHECKOUT, command, prepared_job, worker_on

KEY = "sk-planted/key+1"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", KEY)
    monkeypatch.setattr(patience, "FETCHES", (0, 0))


@functools.cache
def small_picture() -> bytes:
    gradient = Image.linear_gradient("L").resize((60, 40))
    return png_files.encoded(Image.merge("RGB", (gradient, gradient.rotate(180), gradient)))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(small_picture())
    return path


def only_post() -> Post:
    (only,) = history.all_jobs()
    (post,) = only.read_state().posts
    return post


def resumed() -> subprocess.CompletedProcess[str]:
    (only,) = history.all_jobs()
    return command("resume", only.id)


def served(reply: Callable[[Got], Reply | None] | bytes, monkeypatch: Any) -> RawServer:
    """Return a service that answers with `reply`, except links, which lead to the picture."""

    def answer(got: Got) -> Reply | None:
        if got.method == "GET" and got.path.startswith("/p/"):
            return http(200, small_picture())
        return reply if isinstance(reply, bytes) else reply(got)

    server = RawServer(answer)
    monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
    return server


# --- spellings ----------------------------------------------------------------------------------

DATA = small_picture()
B64 = base64.b64encode(DATA).decode()
URLSAFE = base64.urlsafe_b64encode(DATA).decode().rstrip("=")
LINK = "/p/img/img_1/0?exp=9999999999999&sig=abcdefgh"
URL = f"data:image/png;base64,{B64}"

SPELLINGS: dict[str, Any] = {
    "a data URL in b64_json": {"data": [{"b64_json": URL}]},
    "base64 in url": {"data": [{"url": B64}]},
    "an upper-case data URL": {"data": [{"url": f"DATA:image/png;BASE64,{B64}"}]},
    "a percent-encoded payload": {"data": [{"url": f"data:;base64,{quote(B64, safe='')}"}]},
    "a percent-encoded data URL": {"data": [{"url": quote(URL, safe="")}]},
    "percent-encoded bytes": {"data": [{"url": f"data:image/png,{quote(DATA, safe='')}"}]},
    "base64url without padding": {"data": [{"b64_json": URLSAFE}]},
    "spaces for pluses": {"data": [{"b64_json": B64.replace("+", " ")}]},
    "escaped line ends": {"data": [{"b64_json": B64[:40] + "\\n" + B64[40:]}]},
    "a space after the comma": {"data": [{"url": f"data:image/png;base64, {B64}"}]},
    "an object as data": {"data": {"url": LINK}},
    "strings in data": {"data": [LINK]},
    "a string as data": {"data": LINK},
    "null first": {"data": [None, {"url": LINK}]},
    "an empty entry first": {"data": [{"url": "", "b64_json": None}, {"b64_json": B64}]},
    "wrapped once more": {"data": {"data": [{"url": LINK}]}},
    "wrapped in an array": [{"data": [{"url": LINK}]}],
    "result": {"result": {"images": [{"url": LINK}]}},
    "output": {"output": [LINK]},
    "output in one string": {"output": URL},
    "images": {"images": [LINK]},
    "image_url": {"data": [{"image_url": LINK}]},
    "imageUrl": {"data": {"imageUrl": LINK}},
    "an object as url": {"data": [{"url": {"url": LINK}}]},
    "an object as image_url": {"choices": [{"message": {"images": [{"image_url": {"url": URL}}]}}]},
    "b64": {"data": [{"b64": B64}]},
    "base64": {"data": [{"base64": B64}]},
    "image": {"image": B64},
    "response": {"output": [{"type": "image_generation_call", "result": B64}]},
    "inline data": {"candidates": [{"content": {"parts": [{"inlineData": {"data": B64}}]}}]},
    "JSON in a string": {"data": {"resultJson": json.dumps({"resultUrls": [LINK]})}},
    "markdown": {"choices": [{"message": {"content": f"Here: ![image]({URL}) as wished"}}]},
    "a link in markdown": {"choices": [{"message": {"content": f"![image]({LINK})"}}]},
    "escaped slashes": {"data": [{"url": LINK.replace("/", "\\/")}]},
    "HTML in a link": {"data": [{"url": LINK.replace("&", "&amp;")}]},
    "a small copy first": {"data": [{"thumbnail_url": "/v1/small", "url": LINK}]},
    "what was sent first": {"image_urls": ["data:image/png;base64,AAAA"], "data": [{"url": LINK}]},
    "a dead link and a picture": {"data": [{"url": "/v1/gone", "b64_json": B64}]},
    "a dead link first": {"data": [{"url": "/v1/gone"}, {"url": LINK}]},
}  # fmt: skip
BODIES: dict[str, bytes] = {
    **{name: json.dumps(told).encode() for name, told in SPELLINGS.items()},
    "the picture itself": DATA,
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps({"data": [{"url": LINK}]}).encode(),
    "UTF-16": json.dumps({"data": [{"url": LINK}]}).encode("utf-16"),
    "events": b'event: a\ndata: {"type": "partial", "partial_image_b64": "AAAA"}\n\n'
    b"data: " + json.dumps({"type": "completed", "b64_json": B64}).encode() + b"\n\ndata: [DONE]\n",
    "a link alone": URL.encode(),
    "JSON in GBK": '{"msg": "成功", "data": [{"url": "%s"}]}'.encode("gbk").replace(
        b"%s", LINK.encode()
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_an_answer_is_read_however_it_is_spelled(
    name: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = http(200, BODIES[name])
    with served(lambda got: reply if got.method == "POST" else http(404), monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1
    (only,) = history.all_jobs()
    assert (only.folder / "result-1.png").read_bytes() == DATA
    assert not list(only.folder.glob("answer-*"))


@pytest.mark.parametrize("inner", [False, True])
def test_the_last_event_says_how_far_a_task_is(
    photo: Path, monkeypatch: pytest.MonkeyPatch, inner: bool
) -> None:
    monkeypatch.setenv("DIMILINKS_ROUTE", settings.ASYNC)
    events = [
        {"status": "queued", "progress": 0},
        {"status": "processing", "progress": 40},
        {"status": "succeeded", "progress": 100, "data": [{"b64_json": B64}]},
    ]
    lines = [json.dumps({"data": event} if inner else event) for event in events]
    told = "".join(f"data: {line}\n\n" for line in lines).encode()
    asked = []

    def answer(got: Got) -> Reply:
        if "/tasks/" not in got.path:
            return http(200, b'{"task_id": "t"}')
        asked.append(got.path)
        return http(200, told, "Content-Type: text/event-stream")

    with served(answer, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1 and len(asked) == 1
    (only,) = history.all_jobs()
    assert (only.folder / "result-1.png").read_bytes() == DATA


@pytest.mark.parametrize(
    "name", ["an object as data", "null first", "a data URL in b64_json", "result", "b64"]
)
def test_a_tasks_result_is_read_however_it_is_spelled(
    name: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_ROUTE", settings.ASYNC)
    told = {"status": "succeeded", **SPELLINGS[name]}

    def answer(got: Got) -> Reply:
        return http(200, json.dumps(told if "/tasks/" in got.path else {"task_id": "t"}).encode())

    with served(answer, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1


@pytest.mark.parametrize(
    ("link", "asked"),
    [
        ("http://dimilinks.test/p/1?sig=a", "https://dimilinks.test/p/1?sig=a"),
        ("http://dimilinks.test:80/p/1", "https://dimilinks.test/p/1"),
        ("HTTP://DimiLinks.Test/p/1", "https://dimilinks.test/p/1"),
        ("//dimilinks.test/p/1", "https://dimilinks.test/p/1"),
        ("/p/图.png", "https://dimilinks.test/p/%E5%9B%BE.png"),
    ],
)
def test_links_to_the_own_host_are_never_followed_in_clear(
    link: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []

    def get(self: Any, url: str, **_: Any) -> Any:
        gone.append(url)
        raise api.requests.ConnectionError

    monkeypatch.setattr(api.Session, "get", get)
    with pytest.raises(Failure, match="could not be fetched"):
        Service("https://dimilinks.test/v1", KEY).picture(answers.Answer("", (link,)))
    assert set(gone) == {asked}
    # Another port is another service. Requests to other hosts must use https.
    for other in ("http://dimilinks.test:8080/p/1", "http://cdn.test/p/1"):
        with pytest.raises(Failure, match="not followed"):
            Service("https://dimilinks.test/v1", KEY).picture(answers.Answer("", (other,)))


def test_what_is_no_picture_is_not_taken_for_one(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, texts and addresses of pages next to the picture are ignored."""
    told = {
        "created": 1, "model": "gpt-image-2", "task_id": "img_1", "usage": {"url": "/v1/usage"},
        "docs_url": "/v1/docs", "callback_url": "/v1/back", "input": {"image_url": URL},
        "mask_url": URL, "data": [{"revised_prompt": f"![x]({URL})", "file_id": "f", "url": LINK}],
    }  # fmt: skip
    with served(http(200, json.dumps(told).encode()), monkeypatch) as server:
        assert command("edit", photo, "--prompt", "x").returncode == 0
        assert [got.path for got in server.got if got.method == "GET"] == [LINK]


@pytest.mark.slow
def test_a_deep_or_endless_answer_is_read_quickly() -> None:
    deep: Any = {"url": LINK}
    for _ in range(300):
        deep = {"data": deep}
    for told in (deep, {"data": [{"a": 1}] * 300_000}, {"data": ["sig" * 300_000 + "?" * 300_000]}):
        body = json.dumps(told).encode()
        assert answers.read(body).links == ()
        Secrets(KEY).kept(body)


# --- answers that are kept and read again -------------------------------------------------------


def _unread(told: Any) -> Any:
    """Find no links, like an older reader that did not understand the answer."""
    return []


@pytest.mark.parametrize("route", settings.ROUTES)
def test_an_answer_without_a_picture_is_kept_and_read_again(
    route: str, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_ROUTE", route)
    told = {
        "data": [{"pic": B64}], "link": f"https://x.example{LINK}", "note": f"for {KEY}",
        "signature": "abcdefgh",
    }  # fmt: skip
    with monkeypatch.context() as before, served(http(200, json.dumps(told).encode()), before):
        before.setattr(answers, "_links", _unread)
        done = command("edit", photo, "--prompt", "x")
    (only,) = history.all_jobs()
    kept = only.folder / "answer-1.json"
    assert done.returncode == 1 and str(kept) in done.stderr
    assert "may have been charged" in done.stderr
    assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.ANSWER)
    assert only_post().recoverable and not only_post().may_be_sent_again
    assert kept.stat().st_mode & 0o777 == 0o600
    text = kept.read_text()
    assert B64 in text
    for secret in (KEY, "sig=", "abcdefgh"):
        assert secret not in text and secret not in done.stderr
    assert only.must_stay(1e12)
    # The kept answer contains the picture, so neither a key nor the service is needed.
    monkeypatch.delenv("DIMILINKS_API_KEY")
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://nowhere.invalid/v1")
    again = resumed()
    assert again.returncode == 0, again.stderr
    assert only_post().state == Status.RECEIVED and (only.folder / "placed-1.png").exists()


def test_a_kept_link_is_followed_once_it_is_understood(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(http(200, b'{"picked_up_at": "/p/1.png", "url": ""}'), monkeypatch) as server:
        assert command("edit", photo, "--prompt", "x").returncode == 1
        assert resumed().returncode == 1
        monkeypatch.setattr(answers, "_LINKS", {"picked"})
        assert resumed().returncode == 0
        assert server.posts == 1


def test_a_task_that_is_forgotten_leaves_what_was_kept(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.dumps({"task_id": "img_1", "status": "succeeded", "pic": B64}).encode()
    replies = [http(200, told), http(200, told), http(404), http(404)]
    with served(lambda got: replies.pop(0), monkeypatch) as server:
        with monkeypatch.context() as before:
            before.setattr(answers, "_links", _unread)
            assert "answer-1.json" in command("edit", photo, "--prompt", "x").stderr
        assert resumed().returncode == 0
        assert server.posts == 1


@pytest.mark.parametrize(
    "body", [b"<html><title>Welcome</title>", b"\x00\x01\x02\xff" * 50, b'{"a']
)
def test_any_body_is_kept_and_harms_nothing(
    body: bytes, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(http(200, body), monkeypatch) as server:
        assert command("edit", photo, "--prompt", "x").returncode == 1
        again = resumed()
        assert again.returncode == 1 and "Traceback" not in again.stderr
        assert server.posts == 1
    (only,) = history.all_jobs()
    assert (only.folder / "answer-1.bin").read_bytes() == body


# --- the service's messages ---------------------------------------------------------------------

REFUSALS = [
    {"error": {"message": "Blocked by moderation", "code": "moderation_blocked"}},
    {"error": {"message": "You are out of it", "type": "insufficient_quota", "code": None}},
    {"success": False, "code": 400, "message": "size is wrong"},
    {"code": "invalid_request_error", "msg": "size is wrong", "data": None},
    {"detail": [{"loc": ["body", "prompt"], "msg": "field required", "type": "missing"}]},
    {"error": "content_policy_violation", "error_description": "not this one"},
    {"data": {"error": {"message": "no money", "code": "insufficient_balance"}}},
]
UNCLEAR = [
    {"error": {"message": "Something broke upstream"}},
    {"error": "it broke"},
    {"code": 4001, "msg": "余额不足"},
    {"success": False, "message": "try later"},
    {"errors": [{"message": "worker lost"}, {"message": "twice"}]},
    {"detail": "worker lost"},
    {"error": {"message": "invalid response from upstream", "code": "upstream_error"}},
    {"status": 500, "error": "Internal Server Error", "path": "/v1"},
]


def _words(told: Any) -> str:
    return complaints.words(told).split(";")[0]


@pytest.mark.parametrize("told", REFUSALS)
def test_a_refusal_inside_a_200_costs_nothing(
    told: Any, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(http(200, json.dumps(told).encode()), monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and _words(told) and _words(told) in done.stderr
        assert "may have been charged" not in done.stderr
        assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.REFUSED)
        # Resuming the job sends it again.
        resumed()
        assert server.posts == 2


@pytest.mark.parametrize("told", UNCLEAR)
def test_any_other_error_inside_a_200_leaves_open_what_it_cost(
    told: Any, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(http(200, json.dumps(told).encode()), monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and _words(told) and _words(told) in done.stderr
        assert "may have been charged" in done.stderr
        assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.OUTCOME_UNKNOWN)
        resumed()
        assert server.posts == 1


REASONS: list[tuple[Any, str]] = [
    ({"detail": "the mask is too small"}, "the mask is too small"),
    ({"detail": [{"loc": ["body", "size"], "msg": "not a size"}]}, "body.size: not a size"),
    ({"message": "no such model"}, "no such model"),
    ({"msg": "no such model", "code": 1}, "no such model"),
    ({"error": "invalid_request", "error_description": "no such size"}, "no such size"),
    ({"errors": {"prompt": ["is too long"]}}, "is too long"),
    ({"errors": ["one", "two"]}, "one; two"),
    ({"error": {"detail": {"reason": "too many faces"}}}, "too many faces"),
    ({"title": "Bad Request", "detail": "the prompt is missing"}, "the prompt is missing"),
]


@pytest.mark.parametrize(("told", "words"), REASONS)
@pytest.mark.parametrize("status", [400, 500])
def test_reasons_are_told_wherever_they_stand(
    told: Any, words: str, status: int, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(http(status, json.dumps(told).encode()), monkeypatch):
        assert words in command("edit", photo, "--prompt", "x").stderr


PAGE = "<html><head>{}<title>{}</title></head><body>x</body></html>"
PAGES = [
    (PAGE.format("", "服务器繁忙，请稍后再试").encode("gbk"), "", "服务器繁忙"),
    (PAGE.format('<meta charset="gb2312">', "请求被拒绝").encode("gbk"), "text/html", "请求被拒绝"),
    (PAGE.format("", "请求被拒绝").encode("gbk"), "text/html; charset=GBK", "请求被拒绝"),
    (PAGE.format("", "アクセスできません").encode("shift_jis"), "text/html", "アクセスできません"),
    (PAGE.format("", "混雑しています").encode("euc_jp"), "text/html; charset=EUC-JP", "混雑して"),
    (PAGE.format("", "请求被拒绝").encode(), "text/html; charset=nonsense", "请求被拒绝"),
    (PAGE.format("", "请求被拒绝").encode(), "text/html; charset=hex", "请求被拒绝"),
    (PAGE.format("", "Accès refusé").encode("latin-1"), "text/html", "Accès refusé"),
    ("余额不足".encode("gbk"), "text/plain", "余额不足"),
    ("余额不足".encode("utf-16"), "text/plain", "余额不足"),
    ('{"error": {"message": "余额不足"}}'.encode("gbk"), "application/json", "余额不足"),
    (b"out of paint", "application/json", "out of paint"),
]


@pytest.mark.parametrize(("body", "kind", "words"), PAGES, ids=range(len(PAGES)))
def test_words_are_read_in_the_language_that_they_are_written_in(
    body: bytes, kind: str, words: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(http(400, body, f"Content-Type: {kind}"), monkeypatch):
        shown = command("edit", photo, "--prompt", "x").stderr
    assert words in shown and "\ufffd" not in shown


# --- tasks --------------------------------------------------------------------------------------


@pytest.fixture
def by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMILINKS_ROUTE", settings.ASYNC)
    monkeypatch.setattr(patience, "POLLING", 3)


def asked(told: Any, monkeypatch: Any, posted: Any = None) -> RawServer:
    """Return a service that accepts an edit with `posted`, and answers queries with `told`."""
    posted = posted or {"task_id": "img_1", "data": []}

    def answer(got: Got) -> Reply:
        if "/tasks/" in got.path and "img_1" not in got.path:
            return http(404)
        return http(200, json.dumps(told if "/tasks/" in got.path else posted).encode())

    return served(answer, monkeypatch)


def done_the_third_time(told: Any, monkeypatch: Any) -> RawServer:
    """Return a service that answers two queries of a task with `told`, and then has the picture."""
    replies = [told, told, {"status": "succeeded", "data": [{"url": LINK}]}]

    def answer(got: Got) -> Reply:
        return http(
            200, json.dumps(replies.pop(0) if "/tasks/" in got.path else {"task_id": "t"}).encode()
        )

    return served(answer, monkeypatch)


@pytest.mark.parametrize(
    "posted",
    [{"id": "img_1", "status": "queued"}, {"taskId": "img_1"}, {"code": 0, "data": {"id": "img_1"}},
     {"data": [{"task_id": "img_1"}]}, {"job_id": "img_1"}, {"result": {"taskID": "img_1"}}],
)  # fmt: skip
@pytest.mark.parametrize(
    "state", ["completed", "SUCCESS", "succeeded", "Done", "TASK_STATUS_SUCCEED", None]
)
@pytest.mark.slow
def test_tasks_are_known_by_other_names_and_states(
    posted: Any, state: Any, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"id": "img_1", "status": state, "result": {"data": [{"url": LINK}]}}
    with asked(told, monkeypatch, posted) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1


@pytest.mark.parametrize(
    "state", ["error", "cancelled", "canceled", "FAILURE", "Rejected", "failed"]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_task_that_ended_is_not_asked_on(
    state: str, wrapped: bool, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Any = {"status": state, "fail_reason": "a face was seen"}
    told = {"code": 0, "status": "success", "data": told} if wrapped else told
    with asked(told, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and "a face was seen" in done.stderr
        assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.REFUSED)
        assert len(server.got) == 2


def test_a_task_that_expired_is_not_called_free(
    photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked({"status": "expired"}, monkeypatch) as server:
        assert "may have been charged" in command("edit", photo, "--prompt", "x").stderr
        assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.ANSWER)
        assert len(server.got) == 2


@pytest.mark.parametrize(
    "told",
    [{"error": {"message": "the ledger is closed", "code": "closed"}},
     {"code": 4001, "msg": "the ledger is closed"},
     {"success": False, "message": "the ledger is closed", "data": None},
     {"error": "the ledger is closed", "data": [{"url": "data:,"}]}],
)  # fmt: skip
@pytest.mark.slow
def test_an_error_about_a_task_ends_the_polling_and_loses_nothing(
    told: Any, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(told, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and "the ledger is closed" in done.stderr
        assert "no cost" in done.stderr
        assert (only_post().state, only_post().kind) == (Status.ACCEPTED, Kind.PENDING)
        assert len(server.got) == 2
    with asked({"status": "succeeded", "data": [{"url": LINK}]}, monkeypatch) as server:
        (only,) = history.all_jobs()
        state = only.read_state()
        state.posts[0].service = ""
        only.save_state(state)
        assert resumed().returncode == 0 and server.posts == 0


@pytest.mark.parametrize(
    "told",
    [{"error": {"message": "slow down", "code": "rate_limit_rpm"}}, {"code": 503, "msg": "a nap"},
     {"status": "IN_PROGRESS", "progress": "45%"}, {"code": 0, "data": {"status": "processing"}},
     {"status": "processing", "error": {"message": "again"}, "data": [{"url": "/v1/preview"}]}],
)  # fmt: skip
@pytest.mark.slow
def test_a_task_that_goes_on_is_asked_on(
    told: Any, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with done_the_third_time(told, monkeypatch):
        done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 0, done.stderr


def test_a_missing_task_is_missing_whatever_the_status(
    photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked({"error": {"code": "task_not_found", "message": "no"}}, monkeypatch):
        assert "doesn't know the edit" in command("edit", photo, "--prompt", "x").stderr


# --- results that can't be used -----------------------------------------------------------------


def test_a_damaged_result_is_looked_at_again(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = base64.b64encode(DATA[: len(DATA) // 2]).decode()
    with served(
        http(200, json.dumps({"data": [{"b64_json": cut}]}).encode()), monkeypatch
    ) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and "damaged" in done.stderr
        assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.ANSWER)
        assert only_post().recoverable
        again = resumed()
        assert again.returncode == 1 and "damaged" in again.stderr
        (only,) = history.all_jobs()
        # Make the result readable, as a newer version might.
        (only.folder / "result-1.png").write_bytes(DATA)
        assert resumed().returncode == 0 and server.posts == 1


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_kept_and_named(
    kind: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    Image.open(io.BytesIO(DATA)).save(out, kind)
    encoded = base64.b64encode(out.getvalue()).decode()
    with served(http(200, json.dumps({"data": [encoded]}).encode()), monkeypatch):
        done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and kind in done.stderr
    (only,) = history.all_jobs()
    (kept,) = only.folder.glob("result-1.*")
    assert kept.read_bytes() == out.getvalue() and kept.suffix[1:4] in kind.lower()


_LITTLE_MEMORY = """
import resource, sys
from plugin.worker import cli
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 40_000_000,) * 2)
sys.exit(cli.main(["resume", sys.argv[1]]))
"""
_VANISHED = """
import sys
from pathlib import Path
from PIL import Image
from plugin.worker import cli
(Path(Image.__file__).parent / "WebPImagePlugin.py").unlink()
sys.exit(cli.main(["resume", sys.argv[1]]))
"""


def _resumed_by(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (only,) = history.all_jobs()
    return subprocess.run(
        [sys.executable, "-c", script, only.id],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def _arrived(data: bytes, name: str, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create a job whose result has arrived and was not fitted."""
    prepared = prepared_job(photo, monkeypatch)
    (prepared.folder / name).write_bytes(data)
    prepared.save_state(job.State([Post(Status.RECEIVED, result=name)]))


def _well_again() -> None:
    """Check that the job is still received, and that it ends well when the machine works again."""
    post = only_post()
    assert (post.state, post.kind, post.to_be_placed) == (Status.RECEIVED, Kind.SETUP, True)
    assert post.recoverable and not post.may_be_sent_again
    assert resumed().returncode == 0
    assert only_post().placed and not only_post().message


@pytest.mark.slow
def test_a_lack_of_memory_is_no_verdict_and_is_told(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://nowhere.invalid/v1")
    out = io.BytesIO()
    Image.effect_noise((5000, 4000), 50).convert("RGB").save(out, "PNG", compress_level=1)
    _arrived(out.getvalue(), "result-1.png", photo, monkeypatch)
    done = _resumed_by(_LITTLE_MEMORY)
    assert done.returncode == 1 and "enough memory" in done.stderr, done.stderr
    assert "no cost" in done.stderr and "Traceback" not in done.stderr
    _well_again()


@pytest.mark.slow
def test_a_package_that_vanishes_is_no_verdict_and_is_told(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://nowhere.invalid/v1")
    out = io.BytesIO()
    Image.open(io.BytesIO(DATA)).save(out, "WEBP")
    _arrived(out.getvalue(), "result-1.webp", photo, monkeypatch)
    packages = Path(PIL.__file__).parent.parent
    shutil.copytree(packages / "PIL", tmp_path / "packages" / "PIL")
    if (packages / "pillow.libs").exists():
        (tmp_path / "packages" / "pillow.libs").symlink_to(packages / "pillow.libs")
    done = _resumed_by(_VANISHED, PYTHONPATH=str(tmp_path / "packages"))
    assert done.returncode == 1 and "could not prepare it for the image" in done.stderr, done.stderr
    assert "no cost" in done.stderr and "Traceback" not in done.stderr
    _well_again()


def test_memory_that_fails_anywhere_is_no_verdict(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV and NumPy report a lack of memory with their own exceptions."""
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://nowhere.invalid/v1")
    _arrived(DATA, "result-1.png", photo, monkeypatch)

    def too_much(*_: Any) -> Any:
        return cv2.resize(np.zeros((1, 1), np.uint8), (2**30, 2**30))

    for step in (fit, "fit"), (upload, "build"):
        with monkeypatch.context() as broken:
            broken.setattr(*step, too_much)
            done = resumed()
        assert done.returncode == 1 and "enough memory" in done.stderr
    _well_again()


# The peak memory of a process includes that of the process that starts it, so use a small one.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_very_large_answer_takes_little_memory(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four answers at once need little more memory than one. Decoded, one has 256 MB."""
    image = Image.new("RGBA", (8000, 8000), (90, 120, 30, 255))
    image.putpixel((5, 5), (0, 0, 0, 128))
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    encoded = base64.b64encode(out.getvalue()).decode()
    with served(http(200, json.dumps({"data": [encoded]}).encode()), monkeypatch):
        made = prepared_job(photo, monkeypatch, "--variations", 4)
        (made.folder / "state.json").unlink(missing_ok=True)
        process = worker_on(made, sys.executable, "-c", _MEASURED)
        assert process.stdin and process.stdout
        said = process.stdout.read().splitlines()
        process.stdin.close()
        process.stdout.close()
        assert process.wait() == 0
    assert all(post.placed for post in made.read_state().posts)
    assert int(said[-1]) < 700 * 1024


# --- answers that are damaged in transit --------------------------------------------------------

WHOLE = json.dumps({"created": 1, "data": [{"b64_json": B64}]}).encode()
LINKED = json.dumps({"data": [{"url": LINK}], "usage": {"total": 1}}).encode()


def _head(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "Connection: close", *headers]).encode() + b"\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


PACKED = gzip.compress(WHOLE)
CHUNKED = _head("Transfer-Encoding: chunked")
DAMAGED: dict[str, bytes] = {
    "chunks that are none": CHUNKED + WHOLE,
    "chunks that are none, packed": _head("Transfer-Encoding: chunked", "Content-Encoding: gzip")
    + WHOLE,
    "no last chunk": CHUNKED + _chunk(WHOLE),
    "a last chunk of nonsense": CHUNKED + _chunk(WHOLE) + b"nonsense\r\n",
    "packed by its header alone": _head("Content-Encoding: gzip", f"Content-Length: {len(WHOLE)}")
    + WHOLE,
    "packed, says br": _head("Content-Encoding: br") + PACKED,
    "packed, and nothing says so": _head(f"Content-Length: {len(PACKED)}") + PACKED,
    "packed in two pieces": _head("Content-Encoding: gzip")
    + gzip.compress(WHOLE[:90])
    + gzip.compress(WHOLE[90:])
    + b"\0\0",
    "packed and without its end": _head("Content-Encoding: gzip") + PACKED[:-8],
    "deflated, though nobody asked for that": _head("Content-Encoding: deflate")
    + zlib.compress(WHOLE),
    "packed with a wrong checksum": _head("Content-Encoding: gzip")
    + PACKED[:-8] + b"\0" * 8,
    "too short for its length": _head(f"Content-Length: {len(WHOLE) + 5}") + WHOLE,
    "without its last bracket": _head() + WHOLE[:-1],
    "without what comes after the link": _head() + LINKED[:-12],
    "without what comes after the link, of known length": _head("Content-Length: 9999")
    + LINKED[:-12],
    "parts of a form": _head("Content-Type: multipart/mixed; boundary=xyz")
    + b'--xyz\r\nContent-Type: application/json\r\n\r\n{"created": 1}\r\n'
    + b"--xyz\r\nContent-Type: image/png\r\n\r\n" + DATA + b"\r\n--xyz--\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_picture_is_taken_from_an_answer_whatever_is_around_it(
    name: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(DAMAGED[name], monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1
    (only,) = history.all_jobs()
    assert (only.folder / "result-1.png").read_bytes() == DATA


CUT = b'{"task_id": "img_1", "data": [{"b64_json": "' + B64[:40].encode()
TASKS: dict[str, bytes] = {
    "cut in the picture": _head() + CUT,
    "cut in the picture, of known length": _head("Content-Length: 9999") + CUT,
    "cut in a sentence": _head() + b'{"task_id": "img_1", "message": "Accepted, your {edit} [is',
    "cut in a data URL": _head() + b'{"task_id": "img_1", "url": "data:image/png;base64,iVBOR',
    "cut in escapes": _head() + b'{"task_id": "img_1", "message": "' + b'\\"' * 100_000,
    "a form": _head() + b'--n\n\n{"task_id": "img_1"}\n--n--\n',
    "a form with an odd boundary": _head()
    + b'--a\xe9b\r\n\r\n{"task_id": "img_1"}\r\n--a\xe9b--\r\n',
    "cut after the name": _head() + b'{"task_id": "img_1"',
    "a proxy that lost patience": http(504, b'{"error": {"code": "timeout"}, "task_id": "img_1"}'),
    "a proxy that broke off": _head("Content-Length: 999").replace(b"200 OK", b"502 X")
    + b'{"task_id": "img_1", "err',
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_a_damaged_answer_names_is_asked_for(
    name: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.dumps({"status": "succeeded", "result": {"data": [{"b64_json": B64}]}}).encode()

    def answer(got: Got) -> Reply:
        return http(200, told) if got.path.endswith("/tasks/img_1") else TASKS[name]

    with served(answer, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1


@pytest.mark.parametrize(
    "body",
    [b'{"id": "x-1", "input": {"image": {"url": "/p/echo.png"', b'{"data": [{"ur', b'{"code": 40',
     b'{"error": {"code": "invalid_request"'],
)  # fmt: skip
@pytest.mark.parametrize("length", ["Content-Length: 9999", "X: y"])
def test_half_an_answer_is_kept_and_is_not_called_free(
    body: bytes, length: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(_head(length) + body, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and "may have been" in done.stderr and "answer-1" in done.stderr
        assert not only_post().may_be_sent_again
        resumed()
        assert [got.method for got in server.got] == ["POST"]


def test_a_result_in_an_unknown_format_gives_way_to_no_page(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    Image.open(io.BytesIO(DATA)).save(out, "AVIF")
    pages = [http(200, out.getvalue()), http(200, b"<html>log in first</html>")]

    def answer(got: Got) -> Reply:
        if got.path.startswith("/p/"):
            return pages.pop(0)
        return http(200, json.dumps({"task_id": "img_1", "data": [{"url": LINK}]}).encode())

    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        assert "AVIF" in command("edit", photo, "--prompt", "x").stderr
        assert "AVIF" in resumed().stderr and not pages
        assert server.posts == 1
    (only,) = history.all_jobs()
    (kept,) = only.folder.glob("result-1.*")
    assert kept.read_bytes() == out.getvalue()


@pytest.mark.parametrize("has_picture", [True, False])
def test_an_answer_behind_a_link_is_followed_and_kept_without_its_signature(
    has_picture: bool, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(got: Got) -> Reply:
        if got.path.startswith("/p/"):
            return http(200, small_picture()) if has_picture else http(404)
        behind = {"download": {"url": LINK}, "signature": "abcdefgh"}
        told = behind if got.path == "/v1/more" else {"data": [{"url": "/v1/more"}]}
        return http(200, json.dumps(told).encode())

    with RawServer(answer) as server:
        monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
        done = command("edit", photo, "--prompt", "x")
    assert done.returncode == (0 if has_picture else 1), done.stderr
    (only,) = history.all_jobs()
    (kept,) = only.folder.glob("result-1.*")
    assert (kept.read_bytes() == DATA) == has_picture
    assert b"abcdefgh" not in kept.read_bytes()


@pytest.mark.parametrize("lead", [b"", b"x"])
def test_half_an_answer_is_kept_without_its_secrets(lead: bytes) -> None:
    told = b'{"signature": "abcdefgh", "url": "https://x.example/p?exp\\u003d1\\u0026sig\\u003dabcdefgh'
    kept = Secrets(KEY).kept(lead + told + b'", "more": {"key": "abcdefgh')[1]
    assert kept.startswith(lead + b'{"signature": "') and b"abcdefgh" not in kept


@pytest.mark.slow
def test_a_kept_body_that_is_no_text_stays_as_it_came() -> None:
    noise = np.random.default_rng(5).integers(0, 256, 3_000_000, np.uint8).tobytes()
    around = b"\0" + noise + b"https://x.example/p?sig=abcdefgh\0" + KEY.encode() + noise
    suffix, kept = Secrets(KEY).kept(around)
    assert suffix == ".bin" and b"abcdefgh" not in kept and KEY.encode() not in kept
    assert kept.startswith(b"\0" + noise) and kept.endswith(noise)


@pytest.mark.parametrize(
    "told",
    [{"status": "error", "error": {"code": "rate_limit_rpm", "message": "slow"}},
     {"status": "failed", "code": 429, "msg": "slow"}, {"status": "error", "message": "Is busy"},
     {"status": "fail", "msg": "系统繁忙，请稍后再试"}],
)  # fmt: skip
@pytest.mark.slow
def test_a_question_that_fails_is_no_verdict_on_the_task(
    told: Any, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with done_the_third_time(told, monkeypatch) as server:
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 0, done.stderr
        assert server.posts == 1


@pytest.mark.parametrize(
    "told",
    [{"id": "img_1", "status": "failed", "error": {"code": "upstream_timeout", "message": "slow"}},
     {"code": 0, "data": {"status": "failed", "error": {"code": "server_error"}}}],
)  # fmt: skip
def test_a_task_that_failed_for_want_of_time_has_failed(
    told: Any, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(told, monkeypatch):
        assert command("edit", photo, "--prompt", "x").returncode == 1
        assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.REFUSED)


@pytest.mark.parametrize(
    "body",
    [b"--n\n\n" * 20_000, b"--a\xe9b\r\n\r\n" * 3, b'["' + b'\\"' * 300_000, b'["a",' * 200_000,
     b'["' + b'\\' * 300_000, b'{"a":' * 100_000, gzip.compress(b"") * 50_000],
    ids=range(7),
)  # fmt: skip
@pytest.mark.slow
def test_a_body_that_is_made_to_be_slow_is_read_quickly(
    body: bytes, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    with served(_head() + body, monkeypatch):
        done = command("edit", photo, "--prompt", "x")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le"])
@pytest.mark.parametrize("end", ["", "\0"])
def test_wide_letters_keep_no_secret(encoding: str, end: str) -> None:
    told = {"note": f"for {KEY}", "token": "abcdefgh", "url": "/p/1?signature=abcdefgh"}
    body = (json.dumps(told) + end).encode(encoding)
    kept = Secrets(KEY).kept(body)[1].replace(b"\0", b"")
    assert b"note" in kept and b"abcdefgh" not in kept and KEY.encode() not in kept


@pytest.mark.parametrize(
    "told",
    [{"status": "error", "message": "Internal error"}, {"status": "error", "message": "系统异常"},
     {"success": False, "status": "error", "message": "Database connection failed"},
     {"status": "error", "code": "unauthorized", "message": "Invalid API key"}],
)  # fmt: skip
def test_an_error_that_names_no_task_is_not_called_free(
    told: Any, photo: Path, by_task: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asked(told, monkeypatch):
        done = command("edit", photo, "--prompt", "x")
        assert done.returncode == 1 and told["message"] in done.stderr
        assert (only_post().state, only_post().kind) == (Status.ACCEPTED, Kind.PENDING)


@pytest.mark.parametrize("charset", ["punycode", "utf-7", "unicode_escape"])
def test_a_charset_that_no_page_has_is_not_believed(charset: str) -> None:
    body = b"+AGE- \\x41-" + b"a" * 200_000
    assert answer_text.text(body, f"text/html; charset={charset}") == body.decode()
