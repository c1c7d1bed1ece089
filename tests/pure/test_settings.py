"""The settings: what the environment decides, what is damaged, where the key is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugin import settings


def _write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "settings.json").write_text(text, "utf-8")


def test_without_a_file_there_are_defaults(home: Path) -> None:
    assert (settings.ceiling(), settings.explains_mask(), settings.keep_days()) == ("4k", False, 30)
    assert settings.base_url() == settings.DOCUMENTED_BASE_URLS[0]
    assert not settings.service_is_set_by_environment()
    assert settings.key_place() == ""


def test_what_is_saved_is_read(home: Path) -> None:
    settings.save(ceiling="1k", explain_mask=True)
    settings.save(keep_days=0, base_url="sandbox")
    assert (settings.ceiling(), settings.explains_mask(), settings.keep_days()) == ("1k", True, 0)
    assert settings.base_url() == settings.SANDBOX
    assert json.loads((home / "settings.json").read_text())["ceiling"] == "1k"


@pytest.mark.parametrize("value", [None, "", "8k", -1, 10**9, True, 1.5, "7", [], {}, [[]]])
def test_a_damaged_value_counts_as_none(home: Path, value: Any) -> None:
    fields = ("ceiling", "explain_mask", "keep_days", "key_in")
    _write(home, json.dumps(dict.fromkeys(fields, value)))
    assert settings.ceiling() == "4k"
    assert settings.explains_mask() is (value is True)
    assert settings.keep_days() == 30
    assert settings.key_place() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\udcff".encode("utf-8", "replace").decode()])
def test_a_damaged_file_counts_as_none(home: Path, text: str) -> None:
    _write(home, text)
    assert settings.load() == {}
    settings.save(keep_days=1)
    assert settings.keep_days() == 1


@pytest.mark.parametrize(
    ("typed", "used"),
    [
        (" https://x.example/v1/ ", "https://x.example/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://localhost/v1", "http://localhost/v1"),
        ("sandbox", "sandbox"),
    ],
)
def test_a_typed_address_is_tidied(typed: str, used: str) -> None:
    assert settings.check_base_url(typed) == used


@pytest.mark.parametrize(
    "typed", ["", "x", "http://x.example/v1", "ftp://x", "https://", "https://[x/v1", "Sandbox"]
)
def test_an_address_that_can_not_be_is_refused_with_a_sentence(typed: str) -> None:
    with pytest.raises(ValueError, match="must begin with https://"):
        settings.check_base_url(typed)


def test_the_environment_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.save(base_url="https://x.example/v1", key_in=settings.KEYRING)
    (home / "key").write_text("from-file")
    assert settings.key_place() == settings.KEYRING
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    monkeypatch.setenv("DIMILINKS_API_KEY", "k")
    assert settings.base_url() == settings.SANDBOX
    assert settings.service_is_set_by_environment()
    assert settings.key_place() == settings.ENVIRONMENT


def test_the_way_of_sending_is_one_of_two(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.route() == settings.EDITS and not settings.route_is_set_by_environment()
    settings.save(route="async")
    assert settings.route() == settings.ASYNC
    monkeypatch.setenv("DIMILINKS_ROUTE", "edits")
    assert settings.route() == settings.EDITS and settings.route_is_set_by_environment()
    monkeypatch.setenv("DIMILINKS_ROUTE", "pigeon")
    with pytest.raises(ValueError, match="one of these: edits, async"):
        settings.route()


@pytest.mark.parametrize(
    ("saved", "connect", "read"),
    [
        (45, 45, 45),
        (1.5, 1.5, 600),
        (3600, 10, 3600),
        (0, 10, 600),
        (-1, 10, 600),
        (1e9, 10, 600),
        (float("nan"), 10, 600),
        (True, 10, 600),
        ("60", 10, 600),
        (None, 10, 600),
    ],
)
def test_times_have_sensible_bounds(home: Path, saved: Any, connect: float, read: float) -> None:
    settings.save(connect_seconds=saved, read_seconds=saved)
    assert (settings.connect_seconds(), settings.read_seconds()) == (connect, read)


def test_a_key_anywhere_lets_an_edit_begin(home: Path) -> None:
    with pytest.raises(ValueError, match="no API key"):
        settings.check_service()
    home.mkdir(exist_ok=True)
    (home / "key").write_text("from-file\n")
    assert settings.key_place() == settings.FILE
    settings.check_service()
    (home / "key").unlink()
    settings.save(key_in=settings.KEYRING)
    # Whether the keyring still has it, only the worker can tell.
    settings.check_service()
