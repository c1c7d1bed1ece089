"""A part of `tests/bench/fuzz`, and every answer that has revealed a bug."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin import settings
from plugin.worker.service.api import Service
from tests.service import fuzz
from tests.service.fuzz import GONE, GOOD_POST, GOOD_TASK, NAMED, Fuzzed, Told

# If requests can't read an answer, it leaves the connection open until it is garbage-collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[Fuzzed]:
    with Fuzzed(tmp_path / "fuzzed") as running:
        yield running


@pytest.mark.campaign
@pytest.mark.parametrize("family", fuzz.FAMILIES)
def test_a_slice_of_what_nobody_would_answer(family: str, fuzzed: Fuzzed) -> None:
    assert fuzz.fuzz(fuzzed, family, 80) == []
    assert fuzzed.sent >= 60


def _good_head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", "{}"]).encode("latin-1")


CORPUS = [
    # Two lengths: the edit was reported as not sent, and so could have been sent again.
    Told("wire", settings.EDITS, _good_head("Content-Length: 5, 7"), GOOD_TASK, GONE),
    Told("wire", settings.ASYNC, _good_head("Content-Length: 5, 7"), GOOD_TASK, GONE),
    # A chunk with a negative length, and redirects to invalid addresses: the same.
    Told("wire", settings.EDITS, _good_head("Transfer-Encoding: chunked", "", "-5"), None, GONE),
    *(
        Told("head", settings.EDITS, b"HTTP/1.1 302 X\r\nLocation: %s\r\n\r\n" % to, None, GONE)
        for to in (b"//[", b"http://\xff", b"https://a:b:c/")
    ),
    Told("head", settings.EDITS, GOOD_POST, None, b"HTTP/1.1 302 X\r\nLocation: //[\r\n\r\n"),
    # The key as the name of a task: it was saved in the job.
    Told("answer", settings.EDITS, fuzz.http_json({"task_id": fuzz.KEY, "data": []}), None, GONE),
    # A signed link as the name of a task, and the key in an error: the same.
    Told("answer", settings.EDITS, fuzz.http_json({"task_id": "/p/1?exp=1&sig=abc"}), None, GONE),
    Told("answer", settings.ASYNC, NAMED, fuzz.http_json({"status": "failed", "error": fuzz.KEY}),
         GONE),
]  # fmt: skip


@pytest.mark.parametrize("told", CORPUS, ids=range(len(CORPUS)))
def test_what_broke_a_promise_once_breaks_none(told: Told, fuzzed: Fuzzed) -> None:
    assert fuzzed.broken(told) == ""


def test_the_fuzzing_sees_what_is_broken(fuzzed: Fuzzed, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(self: Service, url: str) -> bytes:
        raise RuntimeError(json.dumps(url))

    monkeypatch.setattr(Service, "_fetch", faulty)
    told = Told("picture", settings.EDITS, GOOD_POST, GOOD_TASK, GONE)
    assert "unforeseen: RuntimeError" in fuzzed.broken(told)
    monkeypatch.setattr(Service, "_tamed", lambda self, message: str(message))
    said = Told("answer", settings.EDITS, fuzz.refusal(f"no {fuzz.KEY}"), None, GONE)
    assert "a secret in the state" in fuzzed.broken(said)
