"""The job folder: whole or not there, private, and clear about what may be done next."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from plugin import job, settings
from plugin.job import ACCEPTED, FAILED, PREPARED, RECEIVED, SENT, Job, JobRequest, Post, State


def _publish(prompt: str = "x", variations: int = 1) -> Job:
    with job.prepare() as folder:
        (folder / "source.png").write_bytes(b"picture")
        return job.publish(folder, JobRequest(prompt, "gpt-image-2", None, variations))


def test_a_published_job_is_found_and_private(home: Path) -> None:
    published = _publish("把图片改成复古胶片风格")
    assert [j.id for j in job.all_jobs()] == [published.id]
    assert job.find(published.id).request.prompt == "把图片改成复古胶片风格"
    assert published.state.name == PREPARED
    for folder in (home, home / "jobs", published.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((published.folder / "request.json").stat().st_mode) == 0o600


def test_an_interrupted_preparation_leaves_nothing(home: Path) -> None:
    with pytest.raises(OSError, match="disk"), job.prepare() as folder:
        (folder / "source.png").write_bytes(b"half")
        raise OSError("disk full")
    assert list((home / "jobs").iterdir()) == []


NOW = 2e9


def _aged(days: float, *states: str, imported: bool = False) -> Job:
    """A job of that age whose variations are in these states."""
    made = _publish(variations=len(states))
    posts = [Post(s, result=f"result-{n}.png" * (s == RECEIVED)) for n, s in enumerate(states, 1)]
    made.save_state(State(posts))
    for post in posts:
        if post.result:
            (made.folder / post.result).write_bytes(b"paid for")
    if imported:
        made.mark_imported()
    time = NOW - days * 86400
    os.utime(made.folder / "request.json", (time, time))
    return made


def test_old_jobs_go_unless_something_would_be_lost() -> None:
    kept = [
        _aged(5, RECEIVED, imported=True),
        _aged(0.5, SENT),
        _aged(0.5, ACCEPTED, FAILED),
        _aged(40, RECEIVED),
        _aged(40, SENT, RECEIVED),
    ]
    gone = [
        _aged(31, RECEIVED, RECEIVED, imported=True),
        _aged(31, FAILED),
        _aged(31, SENT),
        _aged(31, PREPARED),
    ]
    job.prune(0, NOW)
    assert len(job.all_jobs()) == len(kept) + len(gone)
    job.prune(30, NOW)
    assert {each.id for each in job.all_jobs()} == {each.id for each in kept}


def test_clearing_takes_young_jobs_too_unless_something_would_be_lost() -> None:
    kept = [
        _aged(0.5, PREPARED),
        _aged(0.5, SENT),
        _aged(0.1, RECEIVED),
        _aged(9, FAILED, RECEIVED),
    ]
    for states in ([FAILED], [RECEIVED, FAILED]):
        _aged(0, *states, imported=True)
    for days in (2, 40):
        _aged(days, SENT)
    job.clear(NOW)
    assert {each.id for each in job.all_jobs()} == {each.id for each in kept}


def test_a_damaged_job_goes_by_its_age_but_its_result_stays() -> None:
    empty, full = _aged(31, SENT), _aged(31, RECEIVED)
    for each in (empty, full):
        (each.folder / "state.json").write_text("{")
    job.prune(30, NOW)
    assert [each.id for each in job.all_jobs()] == [full.id]


def test_what_a_killed_preparation_left_goes_after_a_day(home: Path) -> None:
    left = home / "jobs" / ".20260101-000000-abc"
    left.mkdir(parents=True)
    (left / "source.png").write_bytes(b"half")
    made = left.stat().st_mtime
    job.prune(30, made + 3600)
    assert left.exists()
    job.prune(30, made + 90_000)
    assert not left.exists()


def test_the_room_of_jobs_is_known() -> None:
    assert job.total_bytes() == 0
    made = _publish()
    before = job.total_bytes()
    (made.folder / "result-1.png").write_bytes(bytes(1000))
    assert job.total_bytes() == before + 1000 > 1000


def test_a_state_is_read_back_and_replaced_whole() -> None:
    published = _publish(variations=2)
    state = published.state
    state.posts[0].state, state.posts[0].task = ACCEPTED, "img_1"
    published.save_state(state)
    assert published.state == state
    assert not list(published.folder.glob(".*"))


def test_a_state_from_before_there_were_two_routes_is_read() -> None:
    published = _publish()
    old = {"state": ACCEPTED, "task": "img_1", "kind": "", "message": "", "result": "",
           "placed": "", "notes": []}  # fmt: skip
    (published.folder / "state.json").write_text(json.dumps({"state": ACCEPTED, "posts": [old]}))
    assert published.state.posts == [Post(ACCEPTED, "img_1")]


@pytest.mark.parametrize(
    ("posts", "name"),
    [
        ([PREPARED, PREPARED], PREPARED),
        ([SENT, RECEIVED], SENT),
        ([FAILED, ACCEPTED], ACCEPTED),
        ([FAILED, RECEIVED], RECEIVED),
        ([FAILED, FAILED], FAILED),
    ],
)
def test_a_job_is_as_far_as_its_variations(posts: list[str], name: str) -> None:
    assert State([Post(p) for p in posts]).name == name


def test_a_damaged_state_is_said_not_guessed() -> None:
    published = _publish()
    (published.folder / "state.json").write_text(json.dumps({"posts": [{"bogus": 1}]}))
    with pytest.raises(ValueError, match="damaged"):
        _ = published.state


def test_an_unknown_job_is_said() -> None:
    with pytest.raises(ValueError, match="no job"):
        job.find("../../etc")


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://example.org/v1/", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:1/v1", True),
        ("sandbox", True),
        ("http://example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("ftp://example.org", False),
        ("example.org", False),
    ],
)
def test_the_key_never_travels_in_the_clear(
    url: str, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", url)
    if fine:
        assert settings.base_url() == url.rstrip("/")
    else:
        with pytest.raises(ValueError, match="https"):
            settings.base_url()


def test_the_environment_wins_over_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.save(base_url="https://saved.example/v1")
    assert settings.base_url() == "https://saved.example/v1"
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    assert settings.base_url() == "sandbox"


def test_the_key_comes_from_the_environment_else_from_the_private_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.api_key() == ""
    settings.home()
    (home / "key").write_text("from-file\n")
    assert settings.api_key() == "from-file"
    monkeypatch.setenv("DIMILINKS_API_KEY", "from-environment")
    assert settings.api_key() == "from-environment"


def test_a_key_that_would_break_a_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", "sk\r\nX-Other: 1")
    with pytest.raises(ValueError, match="copy it again") as caught:
        settings.api_key()
    assert "sk" not in str(caught.value)
