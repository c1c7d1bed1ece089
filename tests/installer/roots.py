"""The whole life of an installation on a machine, compared with what GIMP writes alone.

`tests/bench/roots` uses it on systems that are created for it, the tests in the files of a private
GIMP.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "sk-kept-through-updates"
EDIT = """
import sys
from gi.repository import Gimp
image = Gimp.Image.new(200, 150, Gimp.ImageBaseType.RGB)
layer = Gimp.Layer.new(image, "photo", 200, 150, Gimp.ImageType.RGB_IMAGE, 100, 0)
image.insert_layer(layer, None, 0)
layer.fill(Gimp.FillType.WHITE)
image.select_ellipse(Gimp.ChannelOps.REPLACE, 50, 40, 80, 60)
procedure = Gimp.get_pdb().lookup_procedure("dimilinks-edit")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
config.set_property("image", image)
config.set_core_object_array("drawables", [layer])
config.set_property("prompt", "sepia")
result = procedure.run(config)
made = [each.get_name() for each in result.get_core_object_array(1)]
sys.stderr.write("EDITED %d\\n" % len(made))
"""
START = ("gimp-console", "--no-interface", "--quit", "--batch-interpreter=python-fu-eval")

Run = Callable[[list[str], Mapping[str, str], Path], "subprocess.CompletedProcess[str]"]
"""A function that runs a command on the machine, with these variables, in this folder."""


@dataclass
class Life:
    """The steps of an installation that went wrong."""

    wrong: list[str] = field(default_factory=list)

    def check(self, good: bool, what: str, done: subprocess.CompletedProcess[str]) -> None:
        if not good:
            self.wrong.append(f"{what}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


@dataclass(frozen=True)
class Machine:
    """A machine with a GIMP 3, and a user's folders.

    Its files are below `root` on this machine. `home` and `checkout` are paths on the machine
    itself.
    """

    root: Path
    run: Run
    home: Path
    checkout: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def outside(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def command(
        self, words: list[str], home: Path, **more: str
    ) -> subprocess.CompletedProcess[str]:
        environ = {**self.environ, "HOME": str(home), "LANG": "C.UTF-8", **more}
        return self.run(words, environ, self.checkout)

    def installer(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.command(["python3", "-m", "installer", *words], self.home)


def control(machine: Machine, home: Path) -> set[str]:
    """Let GIMP write a profile into `home` without the plug-in; return the names of all files."""
    for _time in range(2):
        done = machine.command([*START, "--batch=pass"], home)
        assert done.returncode == 0, done.stderr
    return names(machine.outside(home))


def names(folder: Path) -> set[str]:
    """Return the names of all files in a home, without the user's downloads and font caches.

    The names of font caches depend on the path of the home.
    """
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in found if not name.startswith(("Downloads/", ".cache/fontconfig/"))}


def live(machine: Machine, alone: set[str], *options: str) -> Life:
    """Install, edit, update and uninstall. `alone` has the files that may be left."""
    life = Life()
    data = machine.home / ".local/share/dimilinks-gimp"
    done = machine.installer("install", *options)
    life.check(done.returncode == 0 and "It does" in done.stdout, "install", done)
    done = machine.installer("doctor")
    life.check(done.returncode == 0, "doctor", done)
    done = machine.command([*START, f"--batch={EDIT}"], machine.home, DIMILINKS_BASE_URL="sandbox")
    life.check("EDITED 1" in done.stdout + done.stderr, "edit", done)
    home = machine.outside(data)
    (home / "key").write_text(KEY)
    (home / "settings.json").write_text('{"keep_days": 7}')
    kept = {name for name in names(home) if not name.startswith("environments/")}
    life.check(any(name.startswith("jobs/") for name in kept), "a job was kept", done)
    version = machine.outside(machine.checkout) / "plugin/__init__.py"
    former = version.read_text()
    version.write_text(former.replace('__version__ = "', '__version__ = "9.'))
    done = machine.installer("install", *options)
    version.write_text(former)
    life.check("Installed Dimilinks 9." in done.stdout and done.returncode == 0, "update", done)
    life.check(kept <= names(home), "what the update kept", done)
    life.check((home / "key").read_text() == KEY, "the key", done)
    done = machine.installer("uninstall")
    life.check(done.returncode == 0, "uninstall", done)
    life.check(kept - {"profiles.txt"} <= names(home), "what uninstall kept", done)
    done = machine.installer("uninstall", "--everything")
    left = names(machine.outside(machine.home)) - alone
    life.check(not left, f"left behind: {sorted(left)}", done)
    life.check(not _traces(machine.outside(machine.home)), "our name in GIMP's files", done)
    return life


def _traces(home: Path) -> list[Path]:
    return [home / name for name in names(home) if b"imilinks" in (home / name).read_bytes()]


def copy_checkout(target: Path) -> None:
    """Copy what the installer needs of the checkout, to a folder that the user may write to."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("plugin", "installer"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=skip)
    for name in ("dimilinks_gimp.py", "LICENSE"):
        shutil.copy(CHECKOUT / name, target / name)
