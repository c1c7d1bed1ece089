"""The job folder: complete or absent, private, removed when it may be, and readable later.

The tests at the end cover the address, the key and the prompt.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest

from plugin import history, job, settings, storage
from plugin.errors import Kind, UserError
from plugin.job import Files, Job, JobRequest, Post, State, Status

CHECKOUT = Path(__file__).resolve().parents[2]


def _publish(prompt: str = "x", variations: int = 1) -> Job:
    with job.prepare() as folder:
        (folder / "source.png").write_bytes(b"picture")
        return job.publish(folder, JobRequest(prompt, "gpt-image-2", None, variations))


def test_a_published_job_is_found_and_private(home: Path) -> None:
    published = _publish("把图片改成复古胶片风格")
    assert [j.id for j in history.all_jobs()] == [published.id]
    assert history.find(published.id).read_request().prompt == "把图片改成复古胶片风格"
    assert published.read_state().name == Status.PREPARED
    for folder in (home, home / "jobs", published.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((published.folder / "request.json").stat().st_mode) == 0o600


def test_an_interrupted_preparation_leaves_nothing(home: Path) -> None:
    with pytest.raises(OSError, match="disk"), job.prepare() as folder:
        (folder / "source.png").write_bytes(b"half")
        raise OSError("disk full")
    assert list((home / "jobs").iterdir()) == []


NOW = 2e9


def _aged(days: float, *states: str, imported: bool = False, alive: bool = False) -> Job:
    """Create a job that is `days` old, with one variation for each of `states`.

    The process that created it has ended, unless it is `alive`.
    """
    made = _publish(variations=len(states))
    posts = [
        Post(
            s,
            result=f"result-{n}.png" * (s == Status.RECEIVED),
            placed=f"placed-{n}.png" * imported,
        )
        for n, s in enumerate(states, 1)
    ]
    for post in posts:
        if post.state == Status.FAILED:
            post.kind, post.placed = Kind.REFUSED, ""
        if post.result:
            (made.folder / post.result).write_bytes(b"paid for")
    made.save_state(State(posts))
    if imported:
        made.mark_imported(n for n, s in enumerate(states, 1) if s == Status.RECEIVED)
    if not alive:
        (made.folder / "maker").write_text("maker-000000000000")
    _age(made, days)
    return made


def _age(made: Job, days: float) -> None:
    for file in made.folder.iterdir():
        os.utime(file, (NOW - days * 86400,) * 2)


def _left(made: list[Job]) -> list[Job]:
    """Return the jobs in `made` that still exist, and check that there are no others."""
    there = {each.id for each in history.all_jobs()}
    assert there <= {each.id for each in made}
    return [each for each in made if each.id in there]


def test_old_jobs_go_unless_something_would_be_lost() -> None:
    kept = [
        _aged(5, Status.RECEIVED, imported=True),
        _aged(0.5, Status.SENT),
        _aged(0.5, Status.ACCEPTED, Status.FAILED),
        _aged(40, Status.RECEIVED),
        _aged(40, Status.SENT, Status.RECEIVED),
        # A job that was sent stays until it has ended, however long that takes.
        _aged(31, Status.SENT),
        _aged(4000, Status.ACCEPTED),
    ]
    gone = [
        _aged(31, Status.RECEIVED, Status.RECEIVED, imported=True),
        _aged(31, Status.FAILED),
        _aged(31, Status.PREPARED),
    ]
    history.prune(0, NOW)
    assert _left(kept + gone) == kept + gone
    history.prune(30, NOW)
    assert _left(kept + gone) == kept


def test_clearing_takes_young_jobs_too_unless_something_would_be_lost() -> None:
    kept = [
        _aged(0.5, Status.PREPARED),
        _aged(0.5, Status.SENT),
        _aged(0.1, Status.RECEIVED),
        _aged(9, Status.FAILED, Status.RECEIVED),
        _aged(2, Status.SENT),
        _aged(40, Status.SENT),
        _aged(2, Status.ACCEPTED),
    ]
    gone = [
        _aged(0, *states, imported=True)
        for states in ([Status.FAILED], [Status.RECEIVED, Status.FAILED])
    ]
    gone.append(_aged(2, Status.PREPARED))
    history.clear(NOW)
    assert _left(kept + gone) == kept


@pytest.mark.parametrize("remove", [lambda now: history.prune(1, now), history.clear])
def test_an_answer_that_was_paid_for_stays_though_it_can_not_be_used(
    remove: Callable[[float], None],
) -> None:
    made = {kind: _aged(40, Status.FAILED) for kind in (*_kinds(), "of a newer version")}
    for kind, each in made.items():
        each.save_state(State([Post(Status.FAILED, kind=kind)]))
        _age(each, 40)
    remove(NOW)
    stay = {Kind.ANSWER, Kind.PENDING, "of a newer version"}
    assert {kind for kind, each in made.items() if each.folder.exists()} == stay


def _kinds() -> list[str]:
    return [value for name, value in vars(Kind).items() if not name.startswith("_")]


NEWER: list[tuple[str, dict[str, Any]]] = [
    ("request.json", {"prompt": {"text": "x"}, "variations": 1}),
    ("state.json", {"posts": [{"state": "refined"}]}),
    ("state.json", {"posts": [{"state": Status.FAILED, "kind": Kind.REFUSED, "notes": "x"}]}),
    ("state.json", {"variations": []}),
]


@pytest.mark.parametrize(("name", "saved"), NEWER, ids=range(len(NEWER)))
def test_what_is_not_understood_stays(name: str, saved: dict[str, Any]) -> None:
    made = _aged(40, Status.FAILED, imported=True)
    (made.folder / name).write_text(json.dumps(saved))
    _age(made, 40)
    for each in (_aged(40, Status.SENT), _aged(40, Status.RECEIVED)):
        (each.folder / "state.json").write_text("{")
        _age(each, 40)
    history.prune(30, NOW)
    history.clear(NOW)
    assert made.folder.exists() and len(history.all_jobs()) == 3


def test_what_a_newer_version_has_noted_besides_is_read_over_and_kept() -> None:
    made = _publish()
    newer = {
        "state": Status.RECEIVED,
        "cost": 0.3,
        "posts": [{"state": Status.RECEIVED, "result": "result-1.png", "seed": [7]}],
    }
    (made.folder / "state.json").write_text(json.dumps(newer))
    state = made.read_state()
    assert state.posts[0].result == "result-1.png"
    state.posts[0].placed = "placed-1.png"
    made.save_state(state)
    saved = json.loads((made.folder / "state.json").read_text())
    assert saved["cost"] == 0.3 and saved["posts"][0]["seed"] == [7]
    assert saved["posts"][0]["placed"] == "placed-1.png" and "others" not in str(saved)
    assert made.read_state() == state


def test_a_newer_version_may_tell_more_of_a_file() -> None:
    made = _publish()
    saved = json.loads((made.folder / "request.json").read_text())
    saved["file"] = {"image": "a.png", "mask": "", "out": "/out", "digest": "7f"}
    (made.folder / "request.json").write_text(json.dumps(saved))
    assert made.read_request().file == Files("a.png", "", "/out")


@pytest.mark.parametrize("days", [-31, 31])
def test_a_clock_that_jumps_removes_nothing_that_is_fresh(days: int) -> None:
    """Jobs are not old if their creator still runs, or if they seem to be from the future."""
    made = [
        _aged(0, Status.PREPARED, alive=True),
        _aged(0, Status.SENT, alive=True),
        _aged(0, Status.RECEIVED, imported=True, alive=True),
        _aged(0, Status.FAILED, alive=True),
    ]
    history.prune(30, NOW + days * 86400)
    assert _left(made) == made
    history.clear(NOW + days * 86400)
    assert _left(made) == made[:2]


@pytest.mark.parametrize("sign", ["created", "state.json", "worker.log"])
def test_a_job_is_as_young_as_what_is_new_of_it(sign: str) -> None:
    """An old job that was tried again, for example, has old files and new ones."""
    made = _aged(40, Status.FAILED)
    if sign == "created":
        saved = json.loads((made.folder / "request.json").read_text())
        (made.folder / "request.json").write_text(json.dumps({**saved, "created": NOW - 1}))
        _age(made, 40)
    else:
        (made.folder / sign).touch()
        os.utime(made.folder / sign, (NOW - 1, NOW - 1))
    history.prune(30, NOW)
    assert made.folder.exists()


def test_what_is_worked_on_stays() -> None:
    made = [_aged(40, Status.FAILED), _aged(40, Status.RECEIVED, imported=True)]
    for each in made:
        with filelock.FileLock(each.folder / "lock"):
            history.prune(30, NOW)
            history.clear(NOW)
            assert each.folder.exists()
    history.clear(NOW)
    assert _left(made) == []


def test_nothing_goes_that_is_not_ours(home: Path, tmp_path: Path) -> None:
    folder = home / "jobs"
    elsewhere = tmp_path / "elsewhere"
    _aged(40, Status.FAILED).folder.rename(elsewhere)
    kept = [folder / name for name in (".git", ".Trash-0", ".20260101", ".stfolder")]
    for each in kept:
        each.mkdir()
        (each / "file").write_text("x")
        os.utime(each, (0, 0))
    for link in (folder / "20260101-000000-abcdef", folder / ".20260101-000000-abcdef"):
        link.symlink_to(elsewhere)
        kept.append(link)
    history.prune(30, NOW)
    history.clear(NOW)
    assert set(folder.iterdir()) == set(kept) and (elsewhere / "request.json").exists()
    assert all((each / "file").exists() for each in kept[:4])


PREPARES = """
import os, sys
from plugin import job
with job.prepare() as folder:
    (folder / "source.png").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
    os._exit(9)
"""


@pytest.mark.parametrize("days", [0, 60])
def test_what_is_being_prepared_stays_and_goes_with_its_process(days: int) -> None:
    now = time.time() + days * 86400
    with subprocess.Popen(
        [sys.executable, "-c", PREPARES], cwd=CHECKOUT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdin and other.stdout
        folder = Path(other.stdout.readline().strip())
        history.prune(1, now)
        history.clear(now)
        assert (folder / "source.png").exists()
        other.stdin.close()
        other.wait(30)
    history.prune(1, now)
    assert not folder.exists()


def test_a_removal_that_is_killed_leaves_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _aged(40, Status.FAILED)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        for remove in (made.discard, lambda: history.prune(30, NOW)):
            with contextlib.suppress(KeyboardInterrupt):
                remove()
    assert history.all_jobs() == []
    history.prune(0, NOW)
    assert list(job.jobs_folder().iterdir()) == []


def test_imported_is_noted_for_each_variation(home: Path) -> None:
    made = _publish(variations=3)
    placed = [
        Post(Status.RECEIVED, result=f"result-{n}.png", placed=f"placed-{n}.png") for n in (1, 2)
    ]
    made.save_state(State([*placed, Post(Status.ACCEPTED, "img_3")]))
    assert made.find_imported() == frozenset() and made.find_unimported() == {1, 2}
    made.mark_imported([2])
    assert made.find_imported() == {2} and made.find_unimported() == {1}
    made.mark_imported([1])
    assert made.find_imported() == {1, 2} and made.find_unimported() == frozenset()
    last = Post(Status.RECEIVED, result="result-3.png", placed="placed-3.png")
    made.save_state(State([*placed, last]))
    assert made.find_imported() == {1, 2} and made.find_unimported() == {3}
    _age(made, 40)
    history.clear(NOW)
    assert made.folder.exists()
    made.mark_imported([3])
    for marker in made.folder.glob("imported*"):
        assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    history.clear(NOW)
    assert not made.folder.exists()


def test_two_processes_note_what_is_imported_at_the_same_time() -> None:
    made = _publish(variations=4)
    code = "import sys; from pathlib import Path; from plugin.job import Job\n" \
        "for n in sys.argv[2:]: Job(Path(sys.argv[1])).mark_imported([int(n)])"  # fmt: skip
    others = [
        subprocess.Popen([sys.executable, "-c", code, made.folder, *numbers], cwd=CHECKOUT)
        for numbers in ("13", "24")
    ]
    assert [other.wait(30) for other in others] == [0, 0]
    assert made.find_imported() == {1, 2, 3, 4}


def test_an_older_version_has_noted_it_of_all_that_was_fitted() -> None:
    made = _publish(variations=3)
    arrived = Post(Status.RECEIVED, result="result-2.png")
    placed = Post(Status.RECEIVED, result="result-1.png", placed="placed-1.png")
    made.save_state(State([placed, arrived, Post(Status.ACCEPTED, "img_3")]))
    (made.folder / "imported").touch()
    assert made.find_imported() == {1} and made.find_unimported() == {2}


def test_what_a_killed_preparation_left_goes_after_a_day(home: Path) -> None:
    left = home / "jobs" / ".20260101-000000-abc"
    left.mkdir(parents=True)
    (left / "source.png").write_bytes(b"half")
    made = left.stat().st_mtime
    history.prune(30, made + 3600)
    assert left.exists()
    history.prune(30, made + 90_000)
    assert not left.exists()


def test_the_room_of_jobs_is_known() -> None:
    assert history.total_bytes() == 0
    made = _publish()
    before = history.total_bytes()
    (made.folder / "result-1.png").write_bytes(bytes(1000))
    assert history.total_bytes() == before + 1000 > 1000


def test_a_state_is_read_back_and_replaced_whole() -> None:
    published = _publish(variations=2)
    state = published.read_state()
    state.posts[0].state, state.posts[0].task = Status.ACCEPTED, "img_1"
    published.save_state(state)
    assert published.read_state() == state
    assert not list(published.folder.glob(".*"))


def test_a_state_from_before_there_were_two_routes_is_read() -> None:
    published = _publish()
    old = {"state": Status.ACCEPTED, "task": "img_1", "kind": "", "message": "", "result": "",
           "placed": "", "notes": []}  # fmt: skip
    (published.folder / "state.json").write_text(
        json.dumps({"state": Status.ACCEPTED, "posts": [old]})
    )
    assert published.read_state().posts == [Post(Status.ACCEPTED, "img_1")]


@pytest.mark.parametrize(
    ("posts", "name"),
    [
        ([Status.PREPARED, Status.PREPARED], Status.PREPARED),
        ([Status.SENT, Status.RECEIVED], Status.SENT),
        ([Status.FAILED, Status.ACCEPTED], Status.ACCEPTED),
        ([Status.FAILED, Status.RECEIVED], Status.RECEIVED),
        ([Status.FAILED, Status.FAILED], Status.FAILED),
    ],
)
def test_a_job_is_as_far_as_its_variations(posts: list[str], name: str) -> None:
    assert State([Post(p) for p in posts]).name == name


def test_a_damaged_state_is_said_not_guessed() -> None:
    published = _publish()
    (published.folder / "state.json").write_text(json.dumps({"posts": [{"bogus": 1}]}))
    with pytest.raises(UserError, match="damaged"):
        _ = published.read_state()


def test_an_unknown_job_is_said() -> None:
    with pytest.raises(UserError, match="no job"):
        history.find("../../etc")


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
        with pytest.raises(UserError, match="https"):
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
    storage.home()
    (home / "key").write_text("from-file\n")
    assert settings.api_key() == "from-file"
    monkeypatch.setenv("DIMILINKS_API_KEY", "from-environment")
    assert settings.api_key() == "from-environment"


def test_a_key_that_would_break_a_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", "sk\r\nX-Other: 1")
    with pytest.raises(UserError, match="Copy the key again") as caught:
        settings.api_key()
    assert "sk" not in str(caught.value)


INVISIBLE = [
    "\u200b", "\ufeff\u200b", "\ufe0f", "\u0301\u0302", "\x01\x7f", "\u2060 \u200d", "\u00ad",
    "\u3164", "\u2800", "\U000e0041\U000e007f", "\u2028\u00a0",
]  # fmt: skip


@pytest.mark.parametrize("text", INVISIBLE, ids=ascii)
def test_a_prompt_that_nobody_can_see_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="Describe what to change"):
        job.check_prompt(text)
    assert job.check_prompt(f"{text}天") == f"{text}天".strip()


@pytest.mark.parametrize("text", ["?", "😀", "e\u0301", "1️⃣", "ไม้", "\ue000", "\U0001fae8"])
def test_a_prompt_that_can_be_seen_is_taken(text: str) -> None:
    assert job.check_prompt(text) == text


@pytest.mark.slow
def test_jobs_are_prepared_by_several_threads_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process has one lock that shows that it runs, however many threads ask for it."""

    def prepared(number: int) -> str:
        together.wait(30)
        with job.prepare() as folder:
            return (folder / "maker").read_text("utf-8")

    for count in range(60):
        monkeypatch.setenv("DIMILINKS_HOME", str(tmp_path / f"{count}"))
        together = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(prepared, range(8)))) == 1
