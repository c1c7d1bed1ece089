"""The API key: where it is stored, and the test of the connection with it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import keyring.core
import pytest
from PIL import Image

from plugin import settings
from plugin.errors import UserError
from plugin.worker import cli, key_store
from plugin.worker.sandbox import Sandbox
from plugin.worker.service import api
from tests.service import fake_keyring

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "sk-planted-key"


def _run(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str | bytes = "") -> tuple[Any, str]:
    """Run a command in this process, with `stdin` as its standard input.

    Returns its JSON output, or None if it failed, and what it printed to standard error.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    assert (code == 0) == bool(out.getvalue())
    assert KEY not in out.getvalue() + err.getvalue() and "Traceback" not in err.getvalue()
    return json.loads(out.getvalue()) if code == 0 else None, err.getvalue()


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> fake_keyring.Memory:
    """Use a keyring that works, and return it."""
    return _use(monkeypatch, fake_keyring.Memory)


def _use(monkeypatch: pytest.MonkeyPatch, kind: type[fake_keyring.Memory]) -> fake_keyring.Memory:
    made = kind()
    monkeypatch.setattr(keyring.core, "_keyring_backend", made)
    monkeypatch.setattr(key_store, "SECONDS", 0.5)
    return made


def _files_with_key(home: Path) -> list[str]:
    files = (file for file in home.rglob("*") if file.is_file())
    return [file.name for file in files if KEY.encode() in file.read_bytes()]


def test_the_key_goes_into_the_keyring_and_nowhere_else(
    ring: fake_keyring.Memory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(monkeypatch, "key", "store", stdin=f" {KEY}\n")[0] == {"key_in": "keyring"}
    assert list(ring.held.values()) == [KEY]
    assert _files_with_key(home) == []
    assert settings.key_place() == settings.KEYRING
    assert settings.api_key() == "" and key_store.read() == KEY
    assert _run(monkeypatch, "key", "forget")[0] == {"key_in": ""}
    assert ring.held == {} and key_store.read() == ""


@pytest.mark.slow
def test_an_edit_takes_the_key_from_the_keyring(
    ring: fake_keyring.Memory,
    sandbox: Sandbox,
    home: Path,
    tmp_path: Path,
    coffee: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DIMILINKS_API_KEY")
    sandbox.keys = {KEY}
    key_store.store(KEY)
    coffee.save(tmp_path / "photo.png")
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["edit", str(tmp_path / "photo.png"), "--prompt", "echo"]) == 0
    assert sandbox.edits[0].headers["Authorization"] == f"Bearer {KEY}"
    assert _files_with_key(home) == []


@pytest.mark.parametrize("kind", [None, "Plain", "Forgetful", "Locked", "Broken"])
@pytest.mark.slow
def test_without_a_keyring_that_works_the_key_is_in_a_private_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    if kind:
        _use(monkeypatch, getattr(fake_keyring, kind))
    assert _run(monkeypatch, "key", "store", stdin=KEY)[0] == {"key_in": "file"}
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert _files_with_key(home) == ["key"]
    assert settings.key_place() == settings.FILE and key_store.read() == KEY
    assert _run(monkeypatch, "key", "forget")[0] == {"key_in": ""}
    assert _files_with_key(home) == []


def test_the_former_place_is_cleared(
    ring: fake_keyring.Memory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(exist_ok=True)
    (home / "key").write_text("former")
    assert key_store.store("first") == settings.KEYRING
    assert not (home / "key").exists()

    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(ring, "set_password", full)
    assert key_store.store("second") == settings.FILE
    assert ring.held == {} and settings.key_place() == settings.FILE
    assert key_store.read() == "second"


@pytest.mark.slow
def test_a_keyring_that_is_locked_or_lost_its_key_says_what_to_do(
    ring: fake_keyring.Memory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_store.store(KEY)
    ring.held.clear()
    with pytest.raises(UserError, match="gone from the system's keyring"):
        key_store.read()
    for kind in (fake_keyring.Locked, fake_keyring.Broken):
        _use(monkeypatch, kind)
        with pytest.raises(UserError, match="Unlock the keyring, then try again"):
            key_store.read()
        answer, words = _run(monkeypatch, "key", "forget")
        assert answer is None and "could not be removed from it" in words
        assert settings.key_place() == settings.KEYRING
    # If the keyring has no key, the file is read.
    monkeypatch.setattr(keyring.core, "_keyring_backend", fake_keyring.Memory())
    (home / "key").write_text("from-file")
    assert key_store.read() == "from-file"
    monkeypatch.setenv("DIMILINKS_API_KEY", "from-environment")
    assert key_store.read() == "from-environment"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "No API key was entered"),
        (" \n", "No API key was entered"),
        (f"Bearer Bearer {KEY} {KEY}", "characters that no key has"),
        (f"API_KEY={KEY}", "= sign"),
        (f"{KEY[:5]}***", "masked API key"),
        (f"{KEY}é", "characters that no key has"),
        (KEY.encode() + b"\xff", "characters that no key has"),
        (KEY * 100, "too long"),
    ],
)
def test_what_can_be_no_key_is_not_kept(
    ring: fake_keyring.Memory,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str | bytes,
    words: str,
) -> None:
    answer, said = _run(monkeypatch, "key", "store", stdin=typed)
    assert answer is None and words in said
    assert ring.held == {} and settings.key_place() == ""


@pytest.mark.slow
def test_the_commands_keep_the_key_from_one_process_to_the_next(
    home: Path, tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.service.fake_keyring.InFile")
    monkeypatch.setenv("FAKE_KEYRING", str(tmp_path / "keyring"))
    monkeypatch.delenv("DIMILINKS_API_KEY")
    sandbox.keys = {KEY}

    def command(*words: str, stdin: str = "") -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "plugin", *words],
            cwd=CHECKOUT,
            env=os.environ,
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "" and KEY not in done.stdout
        return json.loads(done.stdout)

    assert command("key", "store", stdin=f"{KEY}\n") == {"key_in": "keyring"}
    assert command("service", "--test") == {
        "key_in": "keyring",
        "prices": {"1k": 0.08, "2k": 0.15, "4k": 0.3},
        "sandbox": False,
        "works": True,
        "message": "The service can be reached and accepts the API key.",
    }
    assert _files_with_key(home) == []


def test_prices_are_asked_for_without_the_key(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.prices = {"1k": 0, "4k": 2}
    answer, _ = _run(monkeypatch, "service")
    assert answer == {"key_in": "environment", "prices": {"1k": 0, "4k": 2}, "sandbox": False}
    (asked,) = sandbox.served
    assert asked.path == "/api/pricing" and "Authorization" not in asked.headers
    _run(monkeypatch, "service", "--test")
    assert sandbox.served[-1].path == "/v1/models"
    assert sandbox.served[-1].headers["Authorization"] == "Bearer test-key"
    assert sandbox.posts == 0


def _priced(*options: Any) -> dict[str, Any]:
    return {"data": [{"model_name": "gpt-image-2", "resolution_options": list(options)}]}


SHAPES: list[Any] = [
    (500, {}, _priced({"resolution": "1k", "model_price": 1})),
    (302, {"Location": "/elsewhere"}, b""),
    (200, {}, b""),
    (200, {}, b"<html>"),
    (200, {}, b"\xff\xfe"),
    (200, {}, b"[" * 100_000),
    (200, {}, b"[]"),
    (200, {}, b"7"),
    (200, {}, {"data": None}),
    (200, {}, {"data": {"gpt-image-2": 1}}),
    (200, {}, {"data": ["gpt-image-2", None, 5, []]}),
    (200, {}, {"data": [{"model_name": "other", "resolution_options": []}]}),
    (200, {}, {"data": [{"model_name": "gpt-image-2"}]}),
    (200, {}, {"data": [{"model_name": "gpt-image-2", "resolution_options": "1k"}]}),
    (200, {}, _priced(1, None, "1k", [], {})),
    (200, {}, _priced({"resolution": "8k", "model_price": 1})),
    (200, {}, _priced({"resolution": ["1k"], "model_price": 1})),
    *(
        (200, {}, _priced({"resolution": "1k", "model_price": price}))
        for price in (None, "0.08", True, -1, float("nan"), float("inf"), 10**400, [1], {})
    ),
    None,
]


@pytest.mark.parametrize("shape", SHAPES)
def test_prices_of_any_other_shape_are_none(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, shape: Any
) -> None:
    sandbox.pages["/api/pricing"] = shape
    answer, _ = _run(monkeypatch, "service", "--test")
    assert answer["prices"] == {} and answer["works"]
    assert "/elsewhere" not in {served.path for served in sandbox.served}


def test_a_good_price_beside_bad_ones_is_read(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [{"resolution": "1k"}, {"resolution": "2k", "model_price": 0.2}]
    sandbox.pages["/api/pricing"] = (200, {}, _priced(*options))
    assert _run(monkeypatch, "service")[0]["prices"] == {"2k": 0.2}


def test_a_list_without_end_is_not_read_to_its_end(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_QUESTION_BYTES", 1000)
    option = {"resolution": "1k", "model_price": 1}
    sandbox.pages["/api/pricing"] = (200, {}, _priced(*[option] * 100))
    assert _run(monkeypatch, "service")[0]["prices"] == {}


TESTS: list[tuple[Any, bool, str]] = [
    ((200, {}, {"data": []}), True, "accepts the API key"),
    ((200, {}, b"[]"), True, "accepts the API key"),
    ((200, {}, b"<html>Welcome</html>"), False, "does not offer this service"),
    ((404, {}, b""), False, "usually ends with /v1"),
    ((401, {}, {"error": {"message": f"No such key {KEY}"}}), False, "DIMILINKS_API_KEY"),
    ((402, {}, {"error": {"message": "empty"}}), False, "balance"),
    ((403, {}, {"error": {"message": "blocked"}}), False, "refused"),
    ((429, {}, b""), False, "busy"),
    (
        (307, {"Location": "https://new.example/v1/models"}, b""),
        False,
        "Enter https://new.example/v1 as the service address",
    ),
    (
        (500, {}, {"error": {"message": "boom"}}),
        False,
        "not working (500). Try again later. The service says: “boom”",
    ),
    ((503, {}, b"<html><title>Down</title></html>"), False, "“Down”"),
    (None, False, "can't be reached"),
]


@pytest.mark.parametrize(("page", "works", "words"), TESTS)
@pytest.mark.slow
def test_the_connection_is_tested_in_plain_words(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, page: Any, works: bool, words: str
) -> None:
    monkeypatch.setenv("DIMILINKS_API_KEY", KEY)
    sandbox.pages["/v1/models"] = page
    answer, _ = _run(monkeypatch, "service", "--test")
    assert answer["works"] is works and words in answer["message"]
    assert "may have been charged" not in answer["message"]


def test_a_wrong_key_is_named_with_the_place_to_set_it(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIMILINKS_API_KEY")
    answer, _ = _run(monkeypatch, "service", "--test")
    assert not answer["works"] and "There is no API key" in answer["message"]
    key_store.store(KEY)
    answer, _ = _run(monkeypatch, "service", "--test")
    assert answer["key_in"] == "file" and not answer["works"]
    assert "doesn't accept the API key" in answer["message"] and "Settings" in answer["message"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1/v1", "connection was refused"),
        ("https://example.invalid/v1", "can't be reached"),
        ("https://example.invalid:99999/v1", "the address or the proxy is not valid"),
        ("http://example.invalid/v1", "must begin with https://"),
    ],
)
def test_an_unreachable_service_is_told_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", address)
    monkeypatch.setenv("DIMILINKS_API_KEY", KEY)
    answer, _ = _run(monkeypatch, "service", "--test")
    assert not answer["works"] and words in answer["message"] and answer["prices"] == {}


def test_the_embedded_sandbox_always_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "sandbox")
    answer, _ = _run(monkeypatch, "service", "--test")
    assert answer["sandbox"] and answer["works"] and answer["prices"] == {}
    assert "sandbox" in answer["message"]
