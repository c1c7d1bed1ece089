"""Files on the disk are private: permissions, owners, and jobs that somebody else has changed."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plugin import history, job, settings
from plugin.errors import UserError
from plugin.job import Files, Job, JobRequest
from plugin.region import Box, plan
from tests.service.workers import command


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.slow
def test_nothing_is_for_others_whatever_the_umask(
    open_umask: None,
    home: Path,
    tmp_path: Path,
    coffee: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    coffee.save(tmp_path / "photo.png")
    Image.new("L", coffee.size, 255).save(tmp_path / "mask.png")
    settings.save(keep_days=3)
    monkeypatch.delenv("DIMILINKS_API_KEY", raising=False)
    photo = tmp_path / "photo.png"
    masked = ("--mask", tmp_path / "mask.png", "--reference", photo)
    assert command("edit", photo, "--prompt", "echo", *masked).returncode == 0
    (made,) = history.all_jobs()
    names = {file.name for file in made.folder.iterdir()}
    assert {"source.png", "mask.png", "reference-1.png", "placed-1.png", "imported-1"} <= names
    for path in (home, *home.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("which", ["home", "jobs"])
@pytest.mark.parametrize("how", ["another's", "for all"])
def test_a_folder_that_others_can_fill_is_not_used(
    which: str, how: str, home: Path, photo_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    folder = home if which == "home" else home / "jobs"
    folder.mkdir(parents=True, mode=0o700)
    if how == "for all":
        folder.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:
        pytest.skip("only root can give a folder away")
    done = command("edit", photo_files / "coffee.png", "--prompt", "x")
    assert done.returncode == 1 and "nobody else may write to" in done.stderr
    assert str(folder) in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in home.rglob("*")] == (["jobs"] if which == "jobs" else [])


def test_a_home_that_is_no_folder_is_told(home: Path, photo_files: Path) -> None:
    home.write_text("")
    done = command("edit", photo_files / "coffee.png", "--prompt", "x")
    assert done.returncode == 1 and str(home) in done.stderr and "Traceback" not in done.stderr


def test_a_planted_link_is_not_written_through(home: Path, tmp_path: Path) -> None:
    settings.save(a=1)
    victim = tmp_path / "victim"
    victim.write_text('{"as it": "was"}')
    for name in ("settings.json", f".settings.json.{os.getpid()}"):
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(victim)
    settings.save(b=2)
    assert victim.read_text() == '{"as it": "was"}'
    assert not (home / "settings.json").is_symlink()
    assert stat.S_IMODE((home / "settings.json").stat().st_mode) == 0o600


def _planted(request: Any = None, posts: Any = None, state: bytes | None = None) -> Job:
    good = JobRequest("x", "gpt-image-2", None)
    with job.prepare() as folder:
        (folder / "source.png").write_bytes(b"picture")
        made = job.publish(folder, good)
    if request is not None:
        text = request if isinstance(request, bytes) else json.dumps(request).encode()
        (made.folder / "request.json").write_bytes(text)
    if posts is not None or state is not None:
        text = json.dumps({"posts": posts}).encode() if state is None else state
        (made.folder / "state.json").write_bytes(text)
    return made


REQUESTS: list[Any] = [
    [],
    7,
    {},
    b"[" * 100_000,
    b"\xff",
    b"{",
    {"prompt": "x"},
    {"prompt": 5, "variations": 1},
    {"prompt": "x", "variations": "many"},
    {"prompt": "x", "variations": 0},
    {"prompt": "x", "variations": True},
    {"prompt": "x", "variations": 10**9},
    {"prompt": "\ud800", "variations": 1},
    {"prompt": "x", "variations": 1, "references": "reference-1.png"},
    {"prompt": "x", "variations": 1, "references": ["../../key"]},
    {"prompt": "x", "variations": 1, "references": ["/etc/passwd"]},
    {"prompt": "x", "variations": 1, "references": [5]},
]

STATES: list[Any] = [
    [],
    [5],
    {"a": 1},
    [{"state": "received", "result": "../../key"}],
    [{"state": "received", "result": "/etc/passwd"}],
    [{"state": "received", "result": "result-1.png", "placed": "../request.json"}],
    [{"state": "received", "placed": "placed-1.png/../../x"}],
    [{"state": "dreaming"}],
    [{"state": ["sent"]}],
    [{"state": "failed", "message": 5}],
    [{"state": "failed", "notes": "x"}],
    [{"state": "failed", "notes": [5]}],
]


def _is_harmless(planted: Job) -> None:
    """Check that `jobs` lists it as damaged, and that `resume` and pruning handle it."""
    done = command("jobs")
    assert f"{planted.id}\tdamaged" in done.stdout and done.returncode == 0
    done = command("resume", planted.id)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr
    history.prune(1, time.time() + 10 * 86400)


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_a_request_that_somebody_changed_is_damaged(request_: Any) -> None:
    planted = _planted(request=request_)
    with pytest.raises(UserError, match=r"damaged|decode|Expecting"):
        _ = planted.read_request()
    _is_harmless(planted)


@pytest.mark.parametrize("posts", STATES, ids=range(len(STATES)))
def test_a_state_that_somebody_changed_is_damaged(posts: Any) -> None:
    planted = _planted(posts=posts)
    with pytest.raises(UserError, match="damaged"):
        _ = planted.read_state()
    _is_harmless(planted)


def test_a_state_that_is_too_deep_is_damaged() -> None:
    _is_harmless(_planted(state=b'{"posts": ' + b"[" * 100_000))


WHOLE = JobRequest(
    "x", "gpt-image-2", plan(Box(2, 2, 30, 20), Box(0, 0, 48, 32)), 2, ("reference-1.png",),
    blend=3, repair=False, keep_alpha=True, created=1.8e9, file=Files("a.png", "", "/out"),
)  # fmt: skip

PARTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"model": ["x"]}, {"model": ""}),
    ({"region": 5}, {"region": None}),
    ({"region": {**asdict(WHOLE)["region"], "resolution": "9k"}}, {"region": None}),
    ({"region": {**asdict(WHOLE)["region"], "upload": [10**6, 10**6]}}, {"region": None}),
    ({"region": {**asdict(WHOLE)["region"], "box": [0, 0, 1, 1]}}, {"region": None}),
    ({"region": {**asdict(WHOLE)["region"], "size": 3}}, {"region": None}),
    ({"blend": "wide"}, {"blend": 0}),
    ({"blend": 10**400}, {"blend": 0}),
    ({"repair": "no"}, {"repair": True}),
    ({"keep_alpha": 1}, {"keep_alpha": None}),
    ({"created": "yesterday"}, {"created": 0}),
    ({"created": 1e300}, {"created": 0}),
    ({"created": float("nan")}, {"created": 0}),
    ({"created": 10**400}, {"created": 0}),
    ({"file": {"image": "a.png"}}, {"file": None}),
    ({"file": {"image": 5, "mask": "", "out": ""}}, {"file": None}),
]


@pytest.mark.parametrize(("changed", "read"), PARTS, ids=range(len(PARTS)))
def test_the_rest_of_a_request_is_read_as_far_as_it_can_be(
    changed: dict[str, Any], read: dict[str, Any]
) -> None:
    planted = _planted(request={**asdict(WHOLE), **changed})
    assert planted.read_request() == replace(WHOLE, **read)
    assert f"{planted.id}\tprepared\tx" in command("jobs").stdout


@pytest.mark.parametrize("part", ["model", "region"])
def test_what_is_missing_to_send_it_is_told(part: str) -> None:
    planted = _planted(request={**asdict(WHOLE), "file": None, part: None})
    done = command("resume", planted.id)
    assert done.returncode == 1 and "can't be sent" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_is_no_text_can_be_shown_in_a_message() -> None:
    planted = _planted(posts=[{"state": "failed", "message": "no /tmp/\udcff", "notes": ["\0"]}])
    assert planted.read_state().messages == ["no /tmp/?"] and planted.read_state().notes == ["?"]
