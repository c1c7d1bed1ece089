"""The whole life of an installation in the files of a private GIMP.

`tests/bench/roots` tests other users and systems.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from installer import environment, inside
from installer.private import debian
from tests.installer import roots
from tests.installer.conftest import OFFLINE

pytestmark = pytest.mark.gimp


def test_a_life_without_a_network_in_a_home_with_spaces(tmp_path: Path) -> None:
    home, alone = tmp_path / "é ü 画", tmp_path / "alone"
    checkout = home / "Downloads/dimilinks gimp"
    for folder in (checkout, alone):
        folder.mkdir(parents=True)
    roots.copy_checkout(checkout)
    with debian.obtain("3.0") as gimp:
        if gimp.root is None:
            pytest.skip("this machine has a GIMP of its own, and its user a profile")
        python = (gimp.root / "usr/bin/python3").readlink().name.removeprefix("python")
        environment.download(tmp_path / "packages", python)

        def run(
            words: list[str], environ: Mapping[str, str], where: Path
        ) -> subprocess.CompletedProcess[str]:
            line = inside.command_line(gimp, words, environ, shares=[tmp_path], cwd=where)
            return subprocess.run(
                line,
                env=inside.bare(environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
            )

        machine = roots.Machine(Path("/"), run, home, checkout, OFFLINE)
        own = roots.names(home)
        written = roots.control(machine, alone)
        life = roots.live(machine, own | written, "--wheels", str(tmp_path / "packages"))
    assert not life.wrong, "\n\n".join(life.wrong)
