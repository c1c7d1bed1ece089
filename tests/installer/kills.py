"""Kill the installer at random moments of an installation or update, and check what is left.

The tests use some moments, `tests/bench/installs` uses many.
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
UPDATE, PACKAGES, INSTALLATION = "update", "update with new packages", "installation"
_SLOW_EVERY = 25
"""Of this many runs, only two create an environment: an update with new packages, an installation.

Creating it takes most of their time, in which the plug-in doesn't change.
"""


@dataclass(frozen=True)
class Kill:
    """A killed run of the installer."""

    kind: str
    """UPDATE, PACKAGES or INSTALLATION."""
    seconds: float
    """From its start to its end."""
    left: str
    """Which version of the plug-in GIMP would find: NOTHING, OLD, NEW or HALF."""
    works: bool
    """Whether the worker of the plug-in that is left runs, and GIMP lists it if it was asked."""
    mended: bool
    """Whether the next run, which is not killed, leaves the new version and nothing else."""

    @property
    def broken(self) -> bool:
        allowed = (NOTHING if self.kind == INSTALLATION else OLD, NEW)
        return self.left not in allowed or not self.works or not self.mended


class Kills:
    """Checkouts of several versions, and the home folders into which they are installed.

    `lists`, if given, returns whether GIMP lists the plug-in of a profile.
    """

    def __init__(
        self, folder: Path, wheels: Path, lists: Callable[[Path], bool] | None = None
    ) -> None:
        self._folder = folder
        self._wheels = wheels
        self._lists = lists
        self._old, new, packages = (folder / name for name in ("old", "new", "packages"))
        for checkout in (self._old, new, packages):
            copy_checkout(checkout)
        version = self._old / "plugin/__init__.py"
        version.write_text(version.read_text().replace('__version__ = "', '__version__ = "0.0.'))
        # A comment is enough to make this another list of packages.
        with (packages / "installer/requirements.txt").open("a") as file:
            file.write("# of the newest version\n")
        self._checkouts = {UPDATE: new, PACKAGES: packages, INSTALLATION: new}
        # This home is made once. Every update begins with a copy of it.
        self._before = folder / "before"
        trees, seconds = [], []
        for checkout in (new, self._old, new, self._old):
            seconds.append(self._run(checkout, self._before))
            trees.append(_tree(payload.plugin_folder(self._before / "profile")))
        whole, self._old_tree = trees[:2]
        name = "installer/requirements.txt"
        changed = {**whole, name: (packages / name).read_bytes()}
        self._new_trees = {UPDATE: whole, PACKAGES: changed, INSTALLATION: whole}
        # With new packages, an update creates an environment, as an installation does.
        self._longest = {UPDATE: seconds[2], PACKAGES: seconds[0], INSTALLATION: seconds[0]}

    def kills(self, number: int) -> Iterator[Kill]:
        """Kill that many runs, most of them updates, at random moments that are always the same.

        Half of the moments are in the whole run, the other half in its last quarter, where the
        plug-in is exchanged.
        """
        chance = random.Random(number)
        for n in range(number):
            kind = {2: PACKAGES, 3: INSTALLATION}.get(n % _SLOW_EVERY, UPDATE)
            share = chance.random() if n % 2 else chance.uniform(0.75, 1.0)
            yield self._kill(kind, share * self._longest[kind])

    def _start(self, kind: str) -> Path:
        home = self._folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        if kind == INSTALLATION:
            home.mkdir()
        else:
            shutil.copytree(self._before, home, symlinks=True, copy_function=os.link)
            # Note the place of the copy, as an installation there would have done.
            for file in (
                payload.plugin_folder(home / "profile") / payload.WORKER_PYTHON,
                home / "data/dimilinks-gimp/profiles.txt",
            ):
                text = file.read_text().replace(str(self._before), str(home))
                file.unlink()
                file.write_text(text)
        return home

    def _command(self, home: Path) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-m", "installer", "--gimp-dir", str(home / "profile")]
        command += ["--wheels", str(self._wheels)]
        own = {
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return command, {**os.environ, **own}

    def _run(self, checkout: Path, home: Path) -> float:
        """Run the installer to its end, and return the seconds that it took."""
        home.mkdir(exist_ok=True)
        command, env = self._command(home)
        began = time.monotonic()
        subprocess.run(command, cwd=checkout, env=env, check=True, capture_output=True)
        return time.monotonic() - began

    def _kill(self, kind: str, seconds: float) -> Kill:
        home = self._start(kind)
        command, env = self._command(home)
        began = time.monotonic()
        with subprocess.Popen(
            command,
            cwd=self._checkouts[kind],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run:
            time.sleep(seconds)
            run.send_signal(signal.SIGKILL)
        lasted = time.monotonic() - began
        left = self._left(kind, home)
        works = left == NOTHING or (
            self._works(home) and (not self._lists or self._lists(home / "profile"))
        )
        self._run(self._checkouts[kind], home)
        names = {path.name for path in (home / "profile").iterdir()}
        mended = self._left(kind, home) == NEW and self._works(home) and names == {"plug-ins"}
        return Kill(kind, lasted, left, works, mended)

    def _left(self, kind: str, home: Path) -> str:
        folder = payload.plugin_folder(home / "profile")
        if not folder.exists():
            return NOTHING
        whole = {OLD: self._old_tree, NEW: self._new_trees[kind]}
        return next((name for name, tree in whole.items() if tree == _tree(folder)), HALF)

    def _works(self, home: Path) -> bool:
        profile = home / "profile"
        python = payload.worker_pythons(profile)[""]
        folder = payload.plugin_folder(profile)
        command = [python, "-B", "-m", "plugin", "jobs"]
        env = {**os.environ, "DIMILINKS_HOME": str(home / "dimilinks")}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True)
        return done.returncode == 0


def copy_checkout(folder: Path) -> None:
    """Copy what the installer needs of the checkout."""
    folder.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("plugin", "installer"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=skip)
    for name in (payload.MAIN, "LICENSE"):
        shutil.copy(CHECKOUT / name, folder / name)


def _tree(folder: Path) -> dict[str, bytes]:
    """Return the plug-in's files except the note, which depends on the place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != payload.WORKER_PYTHON
    }


def table(done: list[Kill]) -> str:
    """Return a table of what was left, for installations and updates."""
    lines = [
        "| killed in | kills | nothing yet | old | new | half, or not working |",
        "|---|---|---|---|---|---|",
    ]
    for kind in (UPDATE, PACKAGES, INSTALLATION):
        of = [kill for kill in done if kill.kind == kind]
        counts = [sum(kill.left == left for kill in of) for left in (NOTHING, OLD, NEW)]
        broken = sum(kill.broken for kill in of)
        lines.append(f"| {kind} | {len(of)} | " + " | ".join(map(str, [*counts, broken])) + " |")
    return "\n".join(lines) + "\n"
