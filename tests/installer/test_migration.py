"""The first start of GIMP 3.2, which copies the plug-ins of 3.0: the plug-in works there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from installer import payload
from installer.private.host import PrivateGimp
from tests.installer.roots import EDIT, START

pytestmark = pytest.mark.gimp


def test_what_gimp_3_2_copies_over_from_3_0_edits(tmp_path: Path) -> None:
    parent = tmp_path / ".config/GIMP"
    with PrivateGimp("3.2", shares=[tmp_path]) as gimp:
        former = parent / "3.0"
        pythons = payload.worker_pythons(gimp.profile)
        payload.install(former, pythons)
        # This file makes GIMP copy the profile.
        (former / "gimprc").write_text("")
        command = ["env", "-u", "GIMP3_DIRECTORY", *START, f"--batch={EDIT}"]
        own = {"HOME": str(tmp_path), "DIMILINKS_BASE_URL": "sandbox"}
        done = gimp.run(command, own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    copied = payload.plugin_folder(parent / "3.2")
    assert (copied / payload.MAIN).is_file(), done.stdout
    assert payload.worker_pythons(parent / "3.2") == pythons
    assert b"EDITED 1" in done.stdout, done.stdout
