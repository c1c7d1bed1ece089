"""The asynchronous route, and both routes with services that are busy, slow or unreachable.

The tests also cover expired links, cancelled edits and killed workers.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from plugin import history, limits, settings
from plugin.errors import Failure, Kind, NotAccepted
from plugin.job import Post, State, Status
from plugin.limits import MOST_PROMPT
from plugin.region import Box, plan
from plugin.worker.pictures import formats, png_files
from plugin.worker.run import Run
from plugin.worker.sandbox import Sandbox
from plugin.worker.service import form, patience, upload
from plugin.worker.service.answers import Task
from plugin.worker.service.api import Service
from plugin.worker.service.network_errors import Stumbled
from tests.service import kills
from tests.service.workers import command, prepared_job, read_request, until, worker_on


@pytest.fixture(params=settings.ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use each route in turn, and return its name."""
    monkeypatch.setenv("DIMILINKS_ROUTE", request.param)
    return str(request.param)


@pytest.fixture
def by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the asynchronous route."""
    monkeypatch.setenv("DIMILINKS_ROUTE", "async")


def only_post() -> Post:
    (only,) = history.all_jobs()
    (post,) = only.read_state().posts
    return post


def resume() -> Any:
    (only,) = history.all_jobs()
    return command("resume", only.id)


# --- the edit as a whole ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_default_is_the_route_that_answers_in_one_go(sandbox: Sandbox, photo: Path) -> None:
    assert command("edit", photo, "--prompt", "echo").returncode == 0
    assert sandbox.edits[0].headers["Content-Type"].startswith("multipart/form-data")
    settings.save(route="async")
    assert command("edit", photo, "--prompt", "echo").returncode == 0
    assert sandbox.edits[1].headers["Content-Type"] == "application/json"


@pytest.mark.slow
def test_mask_references_and_variations_go_as_json(
    sandbox: Sandbox,
    by_task: None,
    photo: Path,
    mask: Path,
    photo_files: Path,
    coffee: Image.Image,
    tmp_path: Path,
) -> None:
    sandbox.thinking = 0.5
    done = command(
        "edit", photo, "--prompt", "黑白", "--mask", mask, "--out", tmp_path / "out",
        "--reference", photo_files / "chelsea.png", "--variations", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    paths = done.stdout.splitlines()
    assert len(paths) == 3 and sandbox.posts == 3
    selected = np.asarray(Image.open(mask)) > 0
    after, before = np.asarray(Image.open(paths[0])), np.asarray(coffee)
    assert np.array_equal(after[~selected], before[~selected])
    assert (after[selected] != before[selected]).any(axis=1).mean() > 0.5
    (made,) = history.all_jobs()
    assert len({post.task for post in made.read_state().posts}) == 3
    for post, edit in zip(made.read_state().posts, sandbox.edits):
        assert (post.state, post.route) == (Status.RECEIVED, "async")
        assert edit.fields == {
            "prompt": "黑白",
            "model": "gpt-image-2",
            "size": "1:1",
            "resolution": "1k",
        }
        # The sandbox numbers the files of image_urls in order, then comes mask_url.
        assert [f.name for f in edit.files] == ["image_urls-1", "image_urls-2", "mask_url"]
        assert int(edit.headers["Content-Length"]) > sum(len(f.data) for f in edit.files)
        assert edit.headers["Authorization"] == "Bearer test-key"
    source, reference, masked = (formats.read_foreign(f.data) for f in sandbox.edits[0].files)
    assert source.size == masked.size and reference.size == (451, 300)
    for served in sandbox.served:
        links = served.path.startswith("/p/img/")
        assert links == ("Authorization" not in served.headers)


def test_the_request_is_what_the_service_documents(coffee: Image.Image) -> None:
    data = [b"source", b"one", b"two", b"mask"]
    names = ["image[]", "image[]", "image[]", "mask"]
    files = [(field, f"{n}.png", d) for n, (field, d) in enumerate(zip(names, data))]
    sent = upload.Upload(files, coffee, None, (0, 0, *coffee.size))
    made = form.build("async", "画", "gpt-image-2", "3:2", "2k", sent)
    urls = [f"data:image/png;base64,{base64.b64encode(d).decode()}" for d in data]
    assert made.path == "/images/generations?async=true"
    assert json.loads(made.body) == {
        "model": "gpt-image-2",
        "prompt": "画",
        "size": "3:2",
        "resolution": "2k",
        "n": 1,
        "output_format": "png",
        "image_urls": urls[:3],
        "mask_url": urls[3],
    }


@pytest.mark.slow
def test_the_worker_tells_how_far_the_service_is(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.thinking = 3
    prepared = prepared_job(photo, monkeypatch)
    with worker_on(prepared) as worker:
        lines = [json.loads(line) for line in worker.stdout or ()]
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    assert phases == ["preparing", "uploading", "waiting", "downloading", "fitting"]
    (last,) = [ln for ln in lines if ln["phase"] == "uploading" and ln.get("sent") == ln["total"]]
    assert last["total"] == int(sandbox.edits[0].headers["Content-Length"])
    told = [line["percent"] for line in lines if "percent" in line]
    assert told and all(20 <= progress < 100 for progress in told)
    assert (
        prepared.read_state().name == Status.RECEIVED
        and (prepared.folder / "placed-1.png").exists()
    )


@pytest.mark.slow
def test_the_embedded_sandbox_takes_either_route(
    photo: Path, route: str, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.asarray(Image.open(done.stdout.strip())), np.asarray(coffee))


def test_an_answer_that_has_its_picture_is_taken_at_once(
    sandbox: Sandbox, by_task: None, photo: Path, coffee: Image.Image
) -> None:
    encoded = base64.b64encode(png_files.encoded(coffee)).decode()
    sandbox.answers.append((200, {}, {"task_id": "img_x", "data": [{"b64_json": encoded}]}))
    assert command("edit", photo, "--prompt", "x").returncode == 0
    assert sandbox.served == []


@pytest.mark.parametrize("link_form", ["relative", "absolute", "data", "b64_json"])
@pytest.mark.slow
def test_every_form_of_a_tasks_result_is_read(
    sandbox: Sandbox, by_task: None, photo: Path, link_form: Any
) -> None:
    sandbox.link_form = link_form
    assert command("edit", photo, "--prompt", "echo").returncode == 0


# --- tasks --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_task_is_on_the_disk_before_it_is_asked_for(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, str]] = []
    asked = Service.task

    def task(self: Service, name: str) -> Task:
        (made,) = history.all_jobs()
        saved = json.loads((made.folder / "state.json").read_text())["posts"][0]
        seen.append((saved["state"], saved["task"], name))
        return asked(self, name)

    monkeypatch.setattr(Service, "task", task)
    assert command("edit", photo, "--prompt", "echo").returncode == 0
    assert seen and all(s == Status.ACCEPTED and stored == name for s, stored, name in seen)


@pytest.mark.slow
def test_trouble_while_asking_is_sat_out(sandbox: Sandbox, by_task: None, photo: Path) -> None:
    sandbox.task_answers.extend([
        None, None, None, (502, {}, b"<html>"), (502, {}, b""), (503, {}, b""),
        (500, {}, b""), (429, {"Retry-After": "0"}, b""), (400, {}, b""), (200, {}, b"<html>"),
        (200, {}, b"[]"), (200, {}, {"status": 5}), (200, {}, {"status": "dreaming"}),
    ])  # fmt: skip
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 0, done.stderr
    assert sandbox.posts == 1 and not sandbox.task_answers


@pytest.mark.slow
def test_a_task_that_is_not_ready_in_time_stays_and_can_be_resumed(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "POLLING", 0.3)
    sandbox.thinking = 2
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "resume" in done.stderr
    assert "may have been charged" not in done.stderr
    assert (only_post().state, only_post().kind) == (Status.ACCEPTED, Kind.PENDING)
    monkeypatch.setattr(patience, "POLLING", 20)
    assert resume().returncode == 0
    assert sandbox.posts == 1 and only_post().message == ""


@pytest.mark.slow
def test_a_service_that_is_gone_meanwhile_can_be_asked_later(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "POLLING", 0.3)
    sandbox.task_answers.extend([None] * 30)
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "can't ask for the result" in done.stderr
    assert only_post().state == Status.ACCEPTED
    sandbox.task_answers.clear()
    assert resume().returncode == 0 and sandbox.posts == 1


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "invalid_api_key", "doesn't accept the API key"),
        (402, "insufficient_balance", "balance at the service is used up"),
        (403, "forbidden", "the service refuses this API key for it (403)"),
    ],
)
@pytest.mark.slow
def test_a_refusal_to_tell_of_a_task_loses_nothing(
    sandbox: Sandbox, by_task: None, photo: Path, status: int, code: str, words: str
) -> None:
    sandbox.thinking = 0.3
    body = {"error": {"message": "Sorry", "code": code}}
    sandbox.task_answers.append((status, {}, body))
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and words in done.stderr and "Sorry" in done.stderr
    # The message must not say that the edit was refused.
    assert "accepted the edit" in done.stderr and "refused the edit" not in done.stderr
    assert (only_post().state, only_post().kind) == (Status.ACCEPTED, Kind.PENDING)
    assert only_post().task in done.stderr
    assert resume().returncode == 0 and sandbox.posts == 1


def test_an_unknown_task_ends_the_edit_with_words(
    sandbox: Sandbox, by_task: None, photo: Path
) -> None:
    sandbox.answers.append((200, {}, {"task_id": "img_gone", "data": []}))
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1
    assert "doesn't know the edit" in done.stderr and "img_gone" in done.stderr
    assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.ANSWER)
    # The edit may have been billed. Resuming it queries the task again, but never sends the edit.
    assert resume().returncode == 1 and sandbox.posts == 1


@pytest.mark.slow
def test_with_the_key_that_made_it_an_unknown_task_is_found_again(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.keys = {"test-key", "other-key"}
    sandbox.task_answers.append((401, {}, b""))
    command("edit", photo, "--prompt", "echo")
    monkeypatch.setenv("DIMILINKS_API_KEY", "other-key")
    assert "another key" in resume().stderr
    assert only_post().state == Status.FAILED
    monkeypatch.setenv("DIMILINKS_API_KEY", "test-key")
    assert resume().returncode == 0 and sandbox.posts == 1


@pytest.mark.slow
def test_a_task_is_asked_for_at_its_own_service_alone(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.task_answers.append((401, {}, b""))
    command("edit", photo, "--prompt", "echo")
    with Sandbox() as other:
        monkeypatch.setenv("DIMILINKS_BASE_URL", other.base_url)
        assert sandbox.base_url in resume().stderr
        assert other.served == [] and other.posts == 0
    assert only_post().state == Status.ACCEPTED
    monkeypatch.setenv("DIMILINKS_BASE_URL", sandbox.base_url)
    assert resume().returncode == 0 and sandbox.posts == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"code": "content_moderation", "message": "Blocked by moderation"}, "Blocked by mod"),
        ({"code": 5, "message": "line\none ?sig=abcdef&x=1 test-key"}, "line one"),
        ("out of\x1b[31m paint", "out of [31m paint"),
        (None, "could not make the edit."),
        ({"message": ["x"]}, "could not make the edit."),
    ],
)
@pytest.mark.slow
def test_a_failed_task_is_told_in_the_services_words(
    sandbox: Sandbox, by_task: None, photo: Path, error: Any, words: str
) -> None:
    failed = {"status": "failed"} | ({"error": error} if error else {})
    sandbox.task_answers.append((200, {}, failed))
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and words in done.stderr
    assert "abcdef" not in done.stderr and "test-key" not in done.stderr
    assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.REFUSED)
    # Nothing was made, so resuming the job sends the edit again.
    assert resume().returncode == 0 and sandbox.posts == 2


@pytest.mark.slow
def test_a_task_that_is_not_known_at_once_is_asked_for_again(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "UNKNOWN", 20)
    unknown = (404, {}, {"error": {"message": "no such task", "code": "not_found"}})
    sandbox.task_answers.extend([unknown] * 4)
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 0, done.stderr
    assert sandbox.posts == 1 and not sandbox.task_answers


@pytest.mark.parametrize(("status", "later"), [(404, True), (404, False), (410, False)])
@pytest.mark.slow
def test_a_task_that_stays_unknown_or_is_gone_ends_the_edit(
    sandbox: Sandbox,
    by_task: None,
    photo: Path,
    status: int,
    later: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "UNKNOWN", 0.5)
    sandbox.answers.append((200, {}, {"task_id": "img_gone", "data": []}))
    # After a resume, the task was named long ago, so an unknown task ends the edit at once.
    sandbox.task_answers.extend([(401, {}, b"")] if later else [])
    sandbox.task_answers.extend([(status, {}, b"")] * 500)
    done = command("edit", photo, "--prompt", "echo")
    if later:
        left = len(sandbox.task_answers)
        done = resume()
        assert left - len(sandbox.task_answers) == 1
    elif status == 410:
        assert len(sandbox.task_answers) == 499
    assert "doesn't know the edit" in done.stderr and sandbox.posts == 1


# --- links --------------------------------------------------------------------------------------


class Forgetful(Sandbox):
    """A sandbox whose first `expired` links have already expired."""

    expired = 1

    def _handed_over(self, task: str, data: bytes, kind: str) -> dict[str, str]:
        self.link_life = -5 if self.expired > 0 else 3600
        self.expired -= 1
        return super()._handed_over(task, data, kind)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forgetful]:
    with Forgetful() as running:
        monkeypatch.setenv("DIMILINKS_BASE_URL", running.base_url)
        monkeypatch.setenv("DIMILINKS_API_KEY", "k")
        yield running


@pytest.mark.slow
def test_an_expired_link_is_asked_for_anew(forgetful: Forgetful, route: str, photo: Path) -> None:
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 0, done.stderr
    assert forgetful.posts == 1
    assert len([s for s in forgetful.served if s.path.startswith("/p/img/")]) == 2


@pytest.mark.slow
def test_links_that_are_never_good_end_in_words_and_can_be_resumed(
    forgetful: Forgetful, route: str, photo: Path
) -> None:
    forgetful.expired = 100
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "could not be fetched" in done.stderr
    assert "sig=" not in done.stderr
    assert len([s for s in forgetful.served if s.path.startswith("/p/img/")]) == 3
    assert only_post().state == Status.ACCEPTED
    forgetful.expired = 0
    assert resume().returncode == 0 and forgetful.posts == 1


@pytest.mark.slow
def test_a_result_that_the_state_does_not_know_of_yet_is_not_lost(
    sandbox: Sandbox, photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was killed after it had written the result, before it updated the state."""
    prepared = prepared_job(photo, monkeypatch)
    prepared.save_state(State([Post(Status.ACCEPTED)]))
    (prepared.folder / "result-1.png").write_bytes(png_files.encoded(coffee))
    assert resume().returncode == 0
    assert only_post().state == Status.RECEIVED and sandbox.posts == 0


@pytest.mark.slow
def test_an_answer_that_breaks_off_after_the_tasks_name_is_not_lost(
    route: str, photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = base64.b64encode(png_files.encoded(coffee)).decode()
    told = {"task_id": "img_7", "status": "succeeded", "result": {"data": [{"b64_json": encoded}]}}
    whole = json.dumps(told).encode()
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for body in (whole[:200_000], whole):
                connection, _ = listener.accept()
                with connection:
                    heads.append(connection.recv(20, socket.MSG_PEEK))
                    read_request(connection)
                    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                    connection.sendall(head % len(whole) + body)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        monkeypatch.setenv("DIMILINKS_API_KEY", "k")
        port = listener.getsockname()[1]
        monkeypatch.setenv("DIMILINKS_BASE_URL", f"http://127.0.0.1:{port}/v1")
        done = command("edit", photo, "--prompt", "echo")
        thread.join(10)
    assert done.returncode == 0, done.stderr
    assert [head.split()[0] for head in heads] == [b"POST", b"GET"]


def test_an_edit_that_was_accepted_without_a_task_is_explained_and_not_sent(
    sandbox: Sandbox, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_job(photo, monkeypatch)
    prepared.save_state(State([Post(Status.ACCEPTED)]))
    assert "may have been charged" in resume().stderr
    assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.OUTCOME_UNKNOWN)
    assert sandbox.posts == 0


# --- services that are busy or unreachable ------------------------------------------------------

BUSY: tuple[int, dict[str, str], dict[str, Any]] = (
    429,
    {},
    {"error": {"message": "slow down", "code": "rate_limit_rpm"}},
)


@pytest.mark.slow
def test_a_busy_service_is_asked_again_by_itself(
    sandbox: Sandbox, route: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BUSY", 30)
    sandbox.answers.extend([BUSY, BUSY])
    began = time.monotonic()
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 0, done.stderr
    assert sandbox.posts == 3 and len(sandbox.edits) == 1
    assert 6 <= time.monotonic() - began < 15
    assert done.stderr.count("The service is busy. The edit will be sent in") == 2
    assert only_post().state == Status.RECEIVED


@pytest.mark.slow
def test_a_service_that_stays_busy_is_told(
    sandbox: Sandbox, route: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BUSY", 1)
    monkeypatch.setattr(patience, "LONGEST", 0.2)
    sandbox.answers.extend([BUSY] * 50)
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "slow down" in done.stderr
    assert (only_post().state, only_post().kind) == (Status.FAILED, Kind.BUSY)
    assert 3 <= sandbox.posts <= 6 and sandbox.edits == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("7", 7),
        (" 7 ", 7),
        ("-5", 0),
        ("soon", 0),
        ("inf", 0),
        ("9" * 5000, 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 99 Foo 99999 99:99:99 GMT", 0),
    ],
)
def test_what_a_service_asks_for_is_read_if_it_can_be(header: str | None, seconds: float) -> None:
    assert patience.asked_for(header) == seconds


@pytest.mark.slow
def test_a_service_that_asks_for_long_is_left_alone_and_the_time_is_told(
    sandbox: Sandbox, route: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BUSY", 120)
    sandbox.answers.append((429, {"Retry-After": "3600"}, {"error": {"message": "slow down"}}))
    until = time.localtime(time.time() + 3600)
    began = time.monotonic()
    done = command("edit", photo, "--prompt", "echo", "--variations", 2)
    # The other variation, a resume and another edit don't send anything either.
    again = resume()
    other = command("edit", photo, "--prompt", "echo")
    assert time.monotonic() - began < 20 and sandbox.posts == 1
    assert "slow down" in done.stderr
    for said in (done.stderr, again.stderr, other.stderr):
        told = [int(part) for part in re.findall(r"no edit before (\d\d):(\d\d)\.", said)[0]]
        late = (told[0] - until.tm_hour) * 60 + told[1] - until.tm_min
        assert late % (24 * 60) in (0, 1, 2)
        assert "Nothing was charged" in said
    for made in history.all_jobs():
        assert all(post.may_be_sent_again for post in made.read_state().posts)
    # After that time, an edit is sent.
    later = time.time() + 3610
    monkeypatch.setattr(time, "time", lambda: later)
    assert command("edit", photo, "--prompt", "echo").returncode == 0
    assert sandbox.posts == 2


@pytest.mark.parametrize("wait", [86400.0, 1e12])
def test_an_absurd_wish_to_wait_has_a_limit(wait: float) -> None:
    assert patience.Pace("s").hold(time.monotonic(), wait) == pytest.approx(3600, abs=1)
    told = patience.not_before(min(wait, 366 * 86400))
    assert re.search(r"before \d{4}-\d\d-\d\d \d\d:\d\d\.", told)


USED_UP = [
    {"message": "You exceeded your current quota", "type": "insufficient_quota"},
    {"message": "Quota", "code": "insufficient_quota", "type": "requests"},
    {"message": "Quota", "code": "insufficient_user_quota", "type": "new_api_error"},
    {"message": "Limit", "code": "billing_hard_limit_reached"},
    {"message": "Quota", "code": "quota_exceeded"},
    {"message": "Quota", "type": "exceeded_current_quota_error"},
    {"message": "No money", "code": "INSUFFICIENT_BALANCE"},
    {"message": "No money", "code": "InsufficientBalance"},
]


@pytest.mark.parametrize("error", USED_UP, ids=range(len(USED_UP)))
@pytest.mark.slow
def test_a_balance_that_is_used_up_is_not_busy(
    sandbox: Sandbox, photo: Path, home: Path, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BUSY", 120)
    sandbox.answers.append((429, {"Retry-After": "30"}, {"error": error}))
    began = time.monotonic()
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and sandbox.posts == 1
    assert "balance at the service is used up" in done.stderr and error["message"] in done.stderr
    assert "busy" not in done.stderr and not (home / "busy.json").exists()
    assert (only_post().kind, only_post().may_be_sent_again) == (Kind.REFUSED, True)
    # Other edits don't have to wait, nor does this one when the balance is sufficient again.
    assert resume().returncode == 0 and time.monotonic() - began < 20


@pytest.mark.parametrize("code", ["rate_limit_rpm", "rate_limit_exceeded", 429, None, ["x"]])
def test_a_limit_of_requests_is_busy(sandbox: Sandbox, photo: Path, code: Any) -> None:
    error = {"message": "slow down", "code": code, "type": "requests"}
    sandbox.answers.append((429, {}, {"error": error}))
    command("edit", photo, "--prompt", "echo")
    assert only_post().kind == Kind.BUSY


def test_variations_start_one_after_the_other_and_wait_together() -> None:
    pace = patience.Pace("s")
    began = time.monotonic()
    assert pace.turn() == 0
    assert 0 < pace.turn() <= patience.STAGGER
    first, second, third = (pace.hold(began, asked) for asked in (0, 0, 7))
    # The three refusals count as one, with the longest wait that the service asked for.
    assert 1.9 < first < 2.5 and abs(second - first) < 0.1 and 6.9 < third < 8.5
    assert abs(pace.turn() - third) < 0.1
    assert 6.9 < pace.hold(time.monotonic(), 0) < 8.5


def test_patience_with_a_busy_service_ends_after_two_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for kind, most in ((Kind.BUSY, 120), (Kind.UNREACHABLE, 20)):
        began, tries = now, patience.Tries(patience.Pace(kind))
        with pytest.raises(NotAccepted):
            for _ in range(100):
                now += tries.wait(NotAccepted(kind, "x"), now)
        assert most / 2 < now - began <= most


@pytest.mark.slow
def test_variations_share_the_rate_limit(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BUSY", 30)
    times: list[float] = []
    answering = sandbox.next_answer

    def next_answer() -> Any:
        times.append(time.monotonic())
        return answering()

    monkeypatch.setattr(sandbox, "next_answer", next_answer)
    sandbox.answers.append(BUSY)
    done = command("edit", photo, "--prompt", "echo", "--variations", 3)
    assert done.returncode == 0, done.stderr
    assert sandbox.posts == 4
    pauses = np.diff(times)
    assert pauses[0] > 1.9 and all(0.15 < pause < 1.5 for pause in pauses[1:])


@pytest.mark.slow
def test_jobs_share_the_rate_limit(
    sandbox: Sandbox, route: str, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.answers.append((429, {"Retry-After": "3"}, {}))
    assert command("edit", photo, "--prompt", "echo").returncode == 1
    began = time.monotonic()
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 0 and time.monotonic() - began > 2
    assert done.stderr.count("The service is busy. The edit will be sent in") == 1
    assert sandbox.posts == 2
    # Other services are not affected, and a damaged note makes no edit wait.
    pace = patience.Pace(sandbox.base_url)
    assert pace.hold(time.monotonic(), 30) > 29
    assert 29 < patience.Pace(sandbox.base_url).turn() < 40
    assert patience.Pace("https://elsewhere.example/v1").turn() == 0
    note = json.loads((home / "busy.json").read_text("utf-8"))
    for damage in (
        {**note, "until": time.time() + 9e5},
        # The clock was set back after the note was written.
        {**note, "since": time.time() + 60},
        {**note, "until": 10**400},
        {"service": note["service"], "until": note["until"]},
        [],
        {},
    ):
        (home / "busy.json").write_text(json.dumps(damage))
        assert patience.Pace(sandbox.base_url).turn() == 0


@pytest.mark.slow
def test_a_service_that_comes_up_in_time_gets_the_edit(
    photo: Path, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CONNECTING", 20)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    monkeypatch.setenv("DIMILINKS_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    encoded = base64.b64encode(png_files.encoded(coffee)).decode()
    server = Server(port, json.dumps({"data": [{"b64_json": encoded}]}).encode())
    starting = threading.Timer(2, server.start)
    starting.start()
    done = command("edit", photo, "--prompt", "echo")
    starting.join()
    server.close()
    assert done.returncode == 0, done.stderr
    assert "can't be reached yet" in done.stderr and server.complete == 1


@pytest.mark.slow
def test_a_handshake_that_breaks_costs_nothing(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server sends nothing, or hangs up, during the TLS handshake."""
    settings.save(connect_seconds=1)
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("DIMILINKS_BASE_URL", f"https://127.0.0.1:{port}/v1")
        silent = command("edit", photo, "--prompt", "echo")
        hanging_up = threading.Thread(
            target=lambda: [listener.accept()[0].close() for _ in range(2)], daemon=True
        )
        hanging_up.start()
        broken = command("edit", photo, "--prompt", "echo")
    for done in (silent, broken):
        assert done.returncode == 1
        assert "Nothing was sent" in done.stderr and "may have been charged" not in done.stderr


class Server:
    """A server that reads requests, with a `pause` after each piece, and counts them.

    `begun` counts all requests, `complete` those that were received completely.
    """

    def __init__(self, port: int = 0, answer: bytes = b"{}", pause: float = 0) -> None:
        self.complete = self.begun = 0
        self._answer, self._pause, self._port = answer, pause, port
        self._listener: socket.socket | None = None

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        # Otherwise the system would buffer megabytes before the server reads anything.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    @property
    def base_url(self) -> str:
        assert self._listener
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def close(self) -> None:
        assert self._listener
        self._listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(4096)):
                return
            data += more
        self.begun += 1
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [h for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")]
        left = int(lengths[0].split(b":")[1]) - len(body)
        while left > 0:
            if not (more := connection.recv(16384)):
                return
            left -= len(more)
            time.sleep(self._pause)
        self.complete += 1
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(self._answer) + self._answer)


# --- cancelling ---------------------------------------------------------------------------------


def cancelled(worker: Any, when: Callable[[], bool]) -> float:
    """Close the worker's standard input when `when` holds.

    Returns the seconds until the worker ended.
    """
    until(when)
    began = time.monotonic()
    worker.stdin.close()
    assert worker.wait(30) == 0
    worker.stdout.close()
    return time.monotonic() - began


@pytest.mark.parametrize("pause", [0.05, 100], ids=["slow", "stalled"])
@pytest.mark.slow
def test_an_upload_that_is_cancelled_was_not_sent(
    tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1200, 1800, 3), np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path, compress_level=1)
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    server = Server(pause=pause)
    server.start()
    monkeypatch.setenv("DIMILINKS_BASE_URL", server.base_url)
    prepared = prepared_job(path, monkeypatch)
    worker = worker_on(prepared)
    assert cancelled(worker, lambda: server.begun == 1) < 1
    time.sleep(0.3)
    assert server.complete == 0
    assert prepared.read_state().name == Status.PREPARED
    server.close()
    with Sandbox() as sandbox:
        monkeypatch.setenv("DIMILINKS_BASE_URL", sandbox.base_url)
        assert resume().returncode == 0 and sandbox.posts == 1


@pytest.mark.slow
def test_only_the_variations_that_are_not_complete_are_cancelled(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four variations have been sent when the edit is cancelled."""
    prepared = prepared_job(photo, monkeypatch, "--variations", 4)
    monkeypatch.setattr(patience, "STAGGER", 0.5)
    running = Run(prepared, lambda progress: None)
    worker = threading.Thread(target=running.finish)
    worker.start()
    until(lambda: sandbox.posts == 2)
    assert not running.call_off()
    worker.join(20)
    states = sorted(post.state for post in prepared.read_state().posts)
    assert (
        states == [Status.PREPARED, Status.PREPARED, Status.RECEIVED, Status.RECEIVED]
        and sandbox.posts == 2
    )
    assert resume().returncode == 0 and sandbox.posts == 4


@pytest.mark.slow
def test_waiting_for_a_busy_service_ends_with_the_edit(
    sandbox: Sandbox, route: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.answers.append((429, {"Retry-After": "30"}, {}))
    prepared = prepared_job(photo, monkeypatch)
    worker = worker_on(prepared)
    told: list[dict[str, Any]] = []
    for line in worker.stdout or ():
        told.append(json.loads(line))
        if "note" in told[-1]:
            break
    assert told[-1]["phase"] == "preparing" and told[-1]["variation"] == 1
    assert "busy" in told[-1]["note"]
    assert prepared.read_state().name == Status.PREPARED
    assert cancelled(worker, lambda: True) < 1
    assert prepared.read_state().name == Status.PREPARED and sandbox.posts == 1


@pytest.mark.slow
def test_what_is_accepted_is_seen_to_its_end_without_gimp(
    sandbox: Sandbox, by_task: None, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.thinking = 2.5
    prepared = prepared_job(photo, monkeypatch)
    cancelled(worker_on(prepared), lambda: prepared.read_state().name == Status.ACCEPTED)
    assert prepared.read_state().name == Status.RECEIVED and sandbox.posts == 1
    assert (prepared.folder / "placed-1.png").exists()


# --- answers of all shapes ----------------------------------------------------------------------

SCALARS = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(),
    strategies.floats(),
    strategies.text(max_size=20),
    strategies.sampled_from(["queued", "in_progress", "succeeded", "failed", "img_1", "data:,"]),
)
JSON = strategies.recursive(
    SCALARS,
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
PICTURES = strategies.fixed_dictionaries({}, optional={"url": JSON, "b64_json": JSON})
RESULTS = strategies.fixed_dictionaries({}, optional={"data": JSON | strategies.lists(PICTURES)})
TOLD = JSON | strategies.fixed_dictionaries(
    {},
    optional={
        "status": JSON | strategies.sampled_from(["queued", "in_progress", "succeeded", "failed"]),
        "progress": JSON,
        "result": JSON | RESULTS,
        "error": JSON | strategies.fixed_dictionaries({}, optional={"code": JSON, "message": JSON}),
        "task_id": JSON,
        "data": JSON,
    },
)


@hypothesis.settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(TOLD)
@pytest.mark.slow
def test_answers_of_any_shape_are_read_or_refused(shared_sandbox: Sandbox, told: Any) -> None:
    body = json.dumps(told).encode()
    shared_sandbox.task_answers.append((200, {}, body))
    asked = Service(shared_sandbox.base_url, "k")
    try:
        task = asked.task("img_1")
    except (Stumbled, Failure) as error:
        assert str(error).isprintable()
        return
    assert task.progress is None or 0 <= task.progress <= 100
    if task.answer:
        assert task.answer.task == "img_1"
        if all(link.startswith("data:") for link in task.answer.links):
            try:
                assert isinstance(asked._picture(task.answer), bytes)
            except Failure as failure:
                assert failure.kind == Kind.ANSWER


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.mark.parametrize("task", ["a/../../b", "..", "img 1", "ünïcode", "\ud800", "x" * 201, 5])
def test_a_name_that_no_task_has_leads_nowhere(
    sandbox: Sandbox, by_task: None, photo: Path, task: Any
) -> None:
    sandbox.answers.append((200, {}, json.dumps({"task_id": task, "data": []}).encode()))
    done = command("edit", photo, "--prompt", "echo")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert only_post().state == Status.FAILED and sandbox.posts == 1
    assert all(served.path.startswith("/v1/tasks/") for served in sandbox.served)


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("references", "masked"), [(0, False), (1, True)])
@pytest.mark.slow
def test_json_keeps_within_the_budget_too(references: int, masked: bool) -> None:
    """The pictures are noise at 4k, which PNG can't compress."""
    random = np.random.default_rng(7)
    grain = [
        Image.fromarray(random.integers(0, 256, (2880, 2880, 3), np.uint8))
        for _ in range(1 + references)
    ]
    mask = Image.new("L", grain[0].size, 255) if masked else None
    whole = Box(0, 0, *grain[0].size)
    planned = plan(whole, whole, "1:1", "4k")
    built = upload.build(planned, grain[0], mask, grain[1:], form.pictures_bytes("async"))
    made = form.build("async", "x" * MOST_PROMPT, "gpt-image-2", "1:1", "4k", built)
    assert 20_000_000 < len(made.body) <= 32_000_000
    assert all(len(data) <= limits.PICTURE_BYTES for _field, _name, data in built.files)
    assert built.notes
    roomier = upload.build(planned, grain[0], mask, grain[1:])
    assert roomier.source_size >= built.source_size


@pytest.mark.slow
def test_the_settings_say_how_long_an_answer_may_take(
    photo: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_READ_SECONDS", (0.1, 600, 3600))
    settings.save(read_seconds=0.5)
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("DIMILINKS_BASE_URL", f"http://127.0.0.1:{port}/v1")
        began = time.monotonic()
        done = command("edit", photo, "--prompt", "echo")
    assert "no answer in time" in done.stderr and "may have been charged" in done.stderr
    assert time.monotonic() - began < 5
    assert only_post().kind == Kind.OUTCOME_UNKNOWN


# --- killed workers -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_killed_at_any_moment_neither_pays_twice_nor_loses_a_task(
    route: str, coffee: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kills.Service() as running:
        monkeypatch.setenv("DIMILINKS_BASE_URL", running.base_url)
        monkeypatch.setenv("DIMILINKS_API_KEY", kills.KEY)
        done = list(kills.kills(running, coffee, route, 12))
    assert len(done) == 12
    assert [kill.broken for kill in done if kill.broken] == [], kills.table(done)
    # Check that the moments are useful: the workers were killed in different states.
    assert len({state for kill in done for state in kill.states}) >= 2
