"""What the installer calls installed is on the disk: the order of flushes, renames and messages.

Tests can't cut the power. So each fsync is recorded with the file that it flushes, and compared
with the renames.
"""

from __future__ import annotations

import builtins
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from installer import durable, environment, installation, payload
from plugin.gimp.process import launch

Log = list[tuple[str, str]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Return the events in their order.

    They are ("flush", path), ("flush all", folder), ("rename", new name) and ("say", text).
    """
    noted: Log = []

    def note(owner: Any, name: str, kind: str, what: Any) -> None:
        real = getattr(owner, name)

        def noting(*arguments: Any, **options: Any) -> Any:
            answer = real(*arguments, **options)
            noted.append((kind, str(what(*arguments))))
            return answer

        monkeypatch.setattr(owner, name, noting)

    note(os, "fsync", "flush", lambda number: Path(f"/proc/self/fd/{number}").readlink())
    note(durable, "_flush_file_system", "flush all", lambda folder: folder)
    note(os, "rename", "rename", lambda _former, new: new)
    note(os, "replace", "rename", lambda _former, new: new)
    note(payload, "_exchange", "rename", lambda _former, new: new)
    note(builtins, "print", "say", lambda *words: " ".join(map(str, words)))
    return noted


def tree(folder: Path) -> set[str]:
    """Return a folder and all files and folders in it, as paths relative to it."""
    return {str(path.relative_to(folder)) for path in (folder, *folder.rglob("*"))}


def flushed(log: Log, folder: Path) -> set[str]:
    """Return what was flushed in a folder, as paths relative to it."""
    paths = [Path(path) for kind, path in log if kind == "flush"]
    return {str(path.relative_to(folder)) for path in paths if path.is_relative_to(folder)}


@pytest.mark.parametrize("update", [False, True])
def test_a_plug_in_is_on_the_disk_before_it_is_called_installed(user, log, update):
    profile = user / "a profile/3.0"
    target = payload.plugin_folder(profile)
    if update:
        payload.install(profile, {"": "/former/python"})
        log.clear()
    assert installation.install(profile, None, False) == 0
    exchanged = log.index(("rename", str(target)))
    fresh = profile / f".{payload.NAME}.new"
    assert tree(target) - flushed(log[:exchanged], fresh) == set()
    said = next(n for n, (kind, text) in enumerate(log) if text.startswith("Installed"))
    after = [path for kind, path in log[exchanged:said] if kind == "flush"]
    # These folders are on the path to the plug-in. All of them have new entries.
    for folder in (target.parent, profile, profile.parent, user):
        assert str(folder) in after


def test_the_list_of_profiles_is_on_the_disk_before_anything_lies_there(user, data, log):
    profile = user / "3.0"
    assert installation.install(profile, None, False) == 0
    file = data / "dimilinks-gimp/profiles.txt"
    noted = log.index(("rename", str(file)))
    assert ("flush", str(file.with_suffix(".partial"))) in log[:noted]
    there = log.index(("rename", str(payload.plugin_folder(profile))))
    assert ("flush", str(file.parent)) in log[noted:there]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_environment_is_on_the_disk_before_it_has_its_name(tmp_path, log, monkeypatch, at_once):
    folder = tmp_path / "environments/py3.11-0"
    folder.parent.mkdir()
    if not at_once:
        # Some systems have no call that flushes a whole file system.
        monkeypatch.setattr(durable, "_flush_file_system", lambda _folder: False)

    def make(place: Path) -> None:
        (place / "lib/deep").mkdir(parents=True)
        (place / "lib/deep/module.py").write_text("x")
        (place / "lib/read-only.so").write_text("x")
        (place / "lib/read-only.so").chmod(stat.S_IRUSR)
        (place / "python").symlink_to("/nowhere")

    environment._ensure(folder, lambda place: (place / "lib").is_dir(), make)
    renamed = log.index(("rename", str(folder)))
    if at_once:
        assert any(kind == "flush all" for kind, _folder in log[:renamed])
    else:
        partial = next(path for kind, path in log if kind == "flush" and ".partial-" in path)
        place = folder.parent / Path(partial).relative_to(folder.parent).parts[0]
        assert tree(folder) - {"python"} - flushed(log[:renamed], place) == set()
    assert ("flush", str(folder.parent)) in log[renamed:]


def test_the_note_of_another_interpreter_is_on_the_disk(tmp_path, log, monkeypatch):
    monkeypatch.setattr(launch, "NOTE", tmp_path / "worker-python.txt")
    launch.record("/some/python")
    renamed = log.index(("rename", str(launch.NOTE)))
    assert len(flushed(log[:renamed], tmp_path)) == 1
    assert ("flush", str(tmp_path)) in log[renamed:]
