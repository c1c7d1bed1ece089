"""The settings: environment variables, damaged files, the home folder, addresses and keys."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from installer import folders
from plugin import history, job, settings, storage
from plugin.errors import Unusable, UserError
from plugin.job import JobRequest, Post, State, Status
from tests.service.workers import CHECKOUT, command


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


@pytest.mark.parametrize("value", [None, "8k", -1, 10**9, True, 1.5, "7", [], {}, [[]], 0])
@pytest.mark.parametrize("name", ["base_url", "route", "ceiling", "keep_days", "key_in"])
def test_a_damaged_value_is_refused_not_guessed(
    home: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "keep_days" and value == 0 and value is not False:
        pytest.skip("it is a good one")
    _write(home, json.dumps({name: value}))
    read: Callable[[], object] = {
        "base_url": settings.base_url,
        "route": settings.route,
        "ceiling": settings.ceiling,
        "keep_days": settings.keep_days,
        "key_in": settings.key_place,
    }[name]
    with pytest.raises(UserError, match=rf"“{name}”|can't be used|not a known way") as caught:
        read()
    assert isinstance(value, str) or str(home / "settings.json") in str(caught.value)
    if name != "keep_days":
        monkeypatch.delenv("DIMILINKS_API_KEY", raising=False)
        with pytest.raises(UserError, match=rf"“{name}”|can't be used|not a known way"):
            settings.check_service()
    # Saving a new value repairs the setting.
    settings.save(**{name: "" if name != "keep_days" else 7})
    read()


@pytest.mark.parametrize("value", [None, "yes", 1, []])
def test_what_is_not_surely_wanted_is_not_sent(home: Path, value: Any) -> None:
    _write(home, json.dumps({"explain_mask": value, "base_url": "sandbox"}))
    assert settings.explains_mask() is False
    with pytest.raises(UserError, match="“explain_mask”"):
        settings.check_service()


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "a comma too many": b'{\n "base_url": "https://company.example/v1",\n "keep_days": 0,\n}',
    "cut off": b'{"base_url": "https://company.exa',
    "a list": b"[]",
    "a number": b"5",
    "not UTF-8": b'{"prompt": "caf\xe9"}',
    "UTF-16": '{"keep_days": 0}'.encode("utf-16"),
    "too deep": b"[" * 100_000,
    "zeros": bytes(100),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_settings_that_can_not_be_read_decide_nothing(
    home: Path, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.save(prompts=["x"])
    file = home / "settings.json"
    file.write_bytes(text)
    for read in (settings.load, settings.base_url, settings.route, settings.key_place,
                 settings.keep_days, settings.ceiling, settings.check_service):  # fmt: skip
        with pytest.raises(UserError, match="Nothing is sent") as caught:
            read()
        assert str(file) in str(caught.value)
    assert settings.comforts() == {}
    # Environment variables that replace these settings don't change that.
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://company.example/v1")
    monkeypatch.setenv("DIMILINKS_ROUTE", "edits")
    monkeypatch.setenv("DIMILINKS_API_KEY", "sk-company")
    with pytest.raises(UserError, match="Nothing is sent"):
        settings.check_service()
    with pytest.raises(OSError, match="Nothing is sent"):
        settings.save(keep_days=1)
    assert file.read_bytes() == text


@pytest.mark.parametrize("kind", ["folder", "link to nowhere", "not ours to read"])
def test_settings_that_are_no_file_decide_nothing(home: Path, kind: str) -> None:
    file = home / "settings.json"
    settings.save(base_url="https://company.example/v1")
    if kind == "not ours to read":
        if os.geteuid() == 0:
            pytest.skip("root may read all")
        file.chmod(0)
    else:
        file.unlink()
        file.mkdir() if kind == "folder" else file.symlink_to(home / "unmounted")
    with pytest.raises(Unusable, match="can't be read"):
        settings.base_url()
    with pytest.raises(Unusable, match="can't be read"):
        settings.save(keep_days=1)


def test_a_byte_order_mark_is_read_over(home: Path) -> None:
    _write(home, '\ufeff{"base_url": "sandbox", "keep_days": 0}')
    assert settings.base_url() == settings.SANDBOX and settings.keep_days() == 0
    settings.save(ceiling="1k")
    assert settings.keep_days() == 0
    (home / "key").write_text("\ufeffsk-from-notepad\r\n", "utf-8")
    assert settings.api_key() == "sk-from-notepad"


def test_settings_are_set_aside_under_a_name_of_their_own(home: Path) -> None:
    _write(home, "{")
    names = set()
    for number in range(3):
        aside = settings.set_aside()
        assert aside.name.startswith("settings.json.damaged-") and aside.read_text() == "{"
        names.add(aside)
        assert settings.load() == {}
        settings.save(keep_days=number)
        assert settings.keep_days() == number
        _write(home, "{")
    assert len(names) == 3 and all(each.exists() for each in names)


CHANGES = """
import sys
from plugin import settings, storage
for number in range(60):
    settings.save(**{f"{sys.argv[1]}{number}": number})
"""


def test_no_change_of_another_process_is_lost(home: Path) -> None:
    settings.save(base_url="sandbox")
    others = [
        subprocess.Popen([sys.executable, "-c", CHANGES, name], cwd=CHECKOUT) for name in "ab"
    ]
    assert [other.wait(120) for other in others] == [0, 0]
    assert len(settings.load()) == 121


DIES = """
import os, signal
from plugin import settings, storage
settings.change(lambda saved: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_who_dies_while_changing_them_keeps_nobody_out(home: Path) -> None:
    settings.save(keep_days=5)
    died = subprocess.run([sys.executable, "-c", DIES], cwd=CHECKOUT)
    assert died.returncode != 0
    began = time.monotonic()
    settings.save(ceiling="1k")
    assert time.monotonic() - began < 5
    assert settings.load() == {"keep_days": 5, "ceiling": "1k"}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_will_do(
    home: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NFS without its lock daemon, and some FUSE file systems, fail like this.
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    settings.save(keep_days=5)
    settings.save(ceiling="1k")
    assert settings.load() == {"keep_days": 5, "ceiling": "1k"}
    with job.prepare() as folder:
        made = job.publish(folder, JobRequest("x", "gpt-image-2", None))
    made.save_state(State([Post(Status.SENT)]))
    history.clear(time.time())
    assert made.folder.exists()


def test_a_home_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DIMILINKS_HOME", "~/mine")
    assert storage.home() == tmp_path / "mine"
    assert folders.jobs_folder() == folders.jobs_folder("~/mine") == tmp_path / "mine"


@pytest.mark.parametrize("told", ["relative", "./here", "~nobody-of-that-name/x", "..", "C:"])
def test_a_home_that_depends_on_the_folder_is_refused(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIMILINKS_HOME", told)
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://service.example/v1")
    for ask in (storage.home, settings.load, settings.check_service, settings.key_place):
        with pytest.raises(UserError, match="DIMILINKS_HOME") as caught:
            ask()
        assert told in str(caught.value)
    for words in ((), (told,)):
        with pytest.raises(folders.Failure, match="DIMILINKS_HOME"):
            folders.jobs_folder(*words)
    done = command("jobs")
    assert done.returncode == 1 and "DIMILINKS_HOME" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_relative_data_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIMILINKS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    ours = tmp_path / ".local/share/dimilinks-gimp"
    assert storage.home() == ours
    assert folders.data_folder() == folders.jobs_folder() == ours
    monkeypatch.setenv("HOME", "here")
    for ask in (storage.home, folders.data_folder):
        with pytest.raises((Unusable, folders.Failure), match="home folder can't be determined"):
            ask()


@pytest.mark.parametrize("what", ["open to all", "a file", "below a file"])
def test_a_home_that_can_not_be_used_is_a_sentence_for_everybody(
    home: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://service.example/v1")
    if what == "open to all":
        home.mkdir()
        home.chmod(0o777)
    else:
        home.write_text("")
        if what == "below a file":
            monkeypatch.setenv("DIMILINKS_HOME", str(home / "below"))
    asked = (storage.home, settings.load, settings.key_place, settings.api_key, settings.key_file,
             settings.keep_days, settings.ceiling, settings.route, settings.check_service,
             job.jobs_folder, lambda: settings.save(keep_days=1))  # fmt: skip
    for ask in asked:
        with pytest.raises(UserError, match=r"nobody else may write to|can't be used") as caught:
            ask()
        assert str(home) in str(caught.value) and "Errno" not in str(caught.value)
    # Code that can do without the settings continues with defaults.
    assert settings.comforts() == {}


def test_a_key_file_that_can_not_be_read_is_a_sentence(home: Path) -> None:
    settings.key_file().symlink_to("key")
    for ask in (settings.key_place, settings.api_key, settings.check_service):
        with pytest.raises(UserError, match=r"key file .* can't be read"):
            ask()


@pytest.mark.parametrize(
    ("typed", "used"),
    [
        (" https://x.example/v1/ ", "https://x.example/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://localhost/v1", "http://localhost/v1"),
        ("sandbox", "sandbox"),
        ("https://x.example/v1/images/edits", "https://x.example/v1"),
        ("https://x.example/v1/images/edits/ ", "https://x.example/v1"),
        ("https://x.example/v1/images/generations", "https://x.example/v1"),
        ("https://x.example/images/v1", "https://x.example/images/v1"),
    ],
)
def test_a_typed_address_is_tidied(typed: str, used: str) -> None:
    assert settings.check_base_url(typed) == used


@pytest.mark.parametrize(
    "typed", ["", "x", "http://x.example/v1", "ftp://x", "https://", "https://[x/v1", "Sandbox"]
)
def test_an_address_that_can_not_be_is_refused_with_a_sentence(typed: str) -> None:
    with pytest.raises(UserError, match="must begin with https://"):
        settings.check_base_url(typed)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("https://x.example/v1?key=sk-secret", "must not contain"),
        ("https://x.example/v1?", "must not contain"),
        ("https://x.example/v1#sk-secret", "must not contain"),
        ("https://x.example/v1/images/generations?async=true", "must not contain"),
        ("https://me:sk-secret@x.example/v1", "name or password"),
        ("https://x.example\\@y.example/v1", "backslashes"),
        ("https:\\\\x.example\\v1", "backslashes"),
        ("https://x.example/v1 sk-secret", "spaces"),
        ("https://x.exa\nmple/v1", "invisible"),
        ("https://x.exam\u200bple/v1", "invisible"),
        ("\ufeffhttps://x.example/v1", "invisible"),
        ("https://x.example/v1\u00a0/x", "invisible"),
    ],
)
def test_an_address_with_something_besides_is_refused(typed: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        settings.check_base_url(typed)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "copied",
    [
        " sk-Ab_1 \n", '"sk-Ab_1"', "'sk-Ab_1'", "“sk-Ab_1”", "`sk-Ab_1`", "Bearer sk-Ab_1",
        "bearer  sk-Ab_1", "Authorization: Bearer sk-Ab_1", '"Bearer sk-Ab_1"', 'Bearer "sk-Ab_1"',
        "\ufeffsk-Ab_1", "\u200bsk-Ab_1\u2060", "\xa0sk-Ab_1\t",
    ],
)  # fmt: skip
def test_what_is_copied_around_a_key_is_left_out(copied: str) -> None:
    assert settings.check_key(copied) == "sk-Ab_1"


@pytest.mark.parametrize("key", ["", "sk-a.b~c+d/e==", "1|Ab:c", "abcd=", "A_B=="])
def test_a_key_may_hold_what_keys_hold(key: str) -> None:
    assert settings.check_key(key) == key


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("sk-secret***", "masked API key"),
        ("sk-s…cret", "masked API key"),
        ("sk-s...cret", "masked API key"),
        ("••••cret", "masked API key"),
        ("DIMILINKS_API_KEY=sk-secret", "= sign"),
        ('export OPENAI_API_KEY="sk-secret"', "= sign"),
        ("sk secret", "characters that no key has"),
        ("sk-sec\nret", "characters that no key has"),
        ("sk-secret\r\nX-Other: 1", "characters that no key has"),
        ("sk-sec\u200bret", "characters that no key has"),
        ("sk-sécret", "characters that no key has"),
        ('sk-"secret"', "characters that no key has"),
        ('"sk-secret', "characters that no key has"),
        ("<sk-secret>", "characters that no key has"),
        ("$DIMILINKS_API_KEY", "characters that no key has"),
        ("{api_key}", "characters that no key has"),
    ],
)
def test_what_is_no_key_is_refused_and_never_repeated(
    home: Path, typed: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.home()
    (home / "key").write_text(typed, "utf-8")
    monkeypatch.setenv("DIMILINKS_BASE_URL", "https://service.example/v1")
    for ask in (lambda: settings.check_key(typed), settings.api_key, settings.check_service):
        with pytest.raises(UserError, match=words) as caught:
            ask()
        assert "cret" not in str(caught.value)


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
    with pytest.raises(UserError, match="one of these: edits, async"):
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
    with pytest.raises(UserError, match="no API key"):
        settings.check_service()
    home.mkdir(exist_ok=True)
    (home / "key").write_text("from-file\n")
    assert settings.key_place() == settings.FILE
    settings.check_service()
    (home / "key").unlink()
    settings.save(key_in=settings.KEYRING)
    # Only the worker can find out whether the keyring still has the key.
    settings.check_service()
