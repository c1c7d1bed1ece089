"""Killing the installer at any moment of an installation or update, and looking at what is left.

Used by the tests for some moments, by `tests/bench/installs` for many.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from installer import payload

CHECKOUT = Path(__file__).resolve().parents[2]
NOTHING, OLD, NEW, HALF = "nothing", "old", "new", "half"


@dataclass(frozen=True)
class Kill:
    """A killed run of the installer."""

    update: bool
    seconds: float
    """From its start to its end."""
    left: str
    """What lies where GIMP looks: NOTHING, OLD, NEW or HALF."""
    works: bool
    """Whether the plug-in that is there has a worker that runs (and GIMP lists it, if asked)."""
    mended: bool
    """Whether the next run, which nobody kills, ends with the new version and nothing besides."""

    @property
    def broken(self) -> bool:
        allowed = (OLD, NEW) if self.update else (NOTHING, NEW)
        return self.left not in allowed or not self.works or not self.mended


class Kills:
    """Versions to install from, and the homes that are installed into.

    The old version has another environment than the new one, so that an update makes that, too.
    `lists`, if given, tells whether GIMP lists the plug-in of a profile.
    """

    def __init__(
        self, folder: Path, wheels: Path, lists: Callable[[Path], bool] | None = None
    ) -> None:
        self._folder = folder
        self._wheels = wheels
        self._lists = lists
        self._old, self._new = folder / "checkout-old", folder / "checkout-new"
        for checkout in (self._old, self._new):
            _copy_checkout(checkout)
        version = self._old / "plugin/__init__.py"
        version.write_text(version.read_text().replace('__version__ = "', '__version__ = "0.0.'))
        # Another list of packages by its name alone.
        with (self._old / "installer/requirements.txt").open("a") as file:
            file.write("# of the old version\n")
        # Made once: an update begins with a copy of it.
        self._before = folder / "before"
        self._whole = {OLD: self._made(self._old), NEW: self._made(self._new)}

    def _made(self, checkout: Path) -> dict[str, bytes]:
        shutil.rmtree(self._before, ignore_errors=True)
        self._run(checkout, self._before)
        tree = _tree(payload.plugin_folder(self._before / "profile"))
        if checkout == self._old:
            shutil.copytree(self._before, self._folder / "old", symlinks=True)
        return tree

    def kills(self, number: int) -> Iterator[Kill]:
        """Kill that many runs, by turns installations and updates, at moments that are the same
        each time: half of them anywhere, half about the exchange at the end.
        """
        chance = random.Random(number)
        longest = {update: self._longest(update) for update in (False, True)}
        for n in range(number):
            update = bool(n % 2)
            span = longest[update]
            share = chance.random() if n % 4 < 2 else chance.uniform(0.75, 1.0)
            yield self._kill(update, share * span)

    def _longest(self, update: bool) -> float:
        home = self._start(update)
        began = time.monotonic()
        self._run(self._new, home)
        return time.monotonic() - began

    def _start(self, update: bool) -> Path:
        home = self._folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        if update:
            shutil.copytree(self._folder / "old", home, symlinks=True, copy_function=os.link)
            # The copy's own place, as an installation there would have noted it.
            note = payload.plugin_folder(home / "profile") / payload.WORKER_PYTHON
            text = note.read_text().replace(str(self._before), str(home))
            note.unlink()
            note.write_text(text)
            listed = home / "data/dimilinks-gimp/profiles.txt"
            listed.unlink()
            listed.write_text(f"{home / 'profile'}\n")
        return home

    def _command(self, checkout: Path, home: Path) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-m", "installer", "--gimp-dir", str(home / "profile")]
        command += ["--wheels", str(self._wheels)]
        own = {
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return command, {**os.environ, **own}

    def _run(self, checkout: Path, home: Path) -> None:
        home.mkdir(exist_ok=True)
        command, env = self._command(checkout, home)
        subprocess.run(command, cwd=checkout, env=env, check=True, capture_output=True)

    def _kill(self, update: bool, seconds: float) -> Kill:
        home = self._start(update)
        home.mkdir(exist_ok=True)
        command, env = self._command(self._new, home)
        began = time.monotonic()
        with subprocess.Popen(
            command, cwd=self._new, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            time.sleep(seconds)
            run.send_signal(signal.SIGKILL)
        lasted = time.monotonic() - began
        left = self._left(home)
        works = left == NOTHING or self._works(home)
        self._run(self._new, home)
        names = {path.name for path in (home / "profile").iterdir()}
        mended = self._left(home) == NEW and self._works(home) and not names - {"plug-ins"}
        return Kill(update, lasted, left, works, mended)

    def _left(self, home: Path) -> str:
        folder = payload.plugin_folder(home / "profile")
        if not folder.exists():
            return NOTHING
        tree = _tree(folder)
        return next((name for name, whole in self._whole.items() if tree == whole), HALF)

    def _works(self, home: Path) -> bool:
        profile = home / "profile"
        python = payload.worker_pythons(profile)[""]
        folder = payload.plugin_folder(profile)
        command = [python, "-B", "-m", "plugin", "jobs"]
        env = {**os.environ, "DIMILINKS_HOME": str(home / "dimilinks")}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True)
        return done.returncode == 0 and (not self._lists or self._lists(profile))


def _copy_checkout(folder: Path) -> None:
    folder.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("plugin", "installer"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=skip)
    for name in (payload.MAIN, "LICENSE"):
        shutil.copy(CHECKOUT / name, folder / name)


def _tree(folder: Path) -> dict[str, bytes]:
    """The plug-in's files but for the note, whose text names a place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != payload.WORKER_PYTHON
    }


def table(done: list[Kill]) -> str:
    """What was left, for installations and updates."""
    lines = [
        "| of | kills | nothing yet | old | new | half, or not working |",
        "|---|---|---|---|---|---|",
    ]
    for update, name in ((False, "installation"), (True, "update")):
        of = [kill for kill in done if kill.update is update]
        counts = [sum(kill.left == left for kill in of) for left in (NOTHING, OLD, NEW)]
        broken = sum(kill.broken for kill in of)
        lines.append(f"| {name} | {len(of)} | " + " | ".join(map(str, [*counts, broken])) + " |")
    return "\n".join(lines) + "\n"
