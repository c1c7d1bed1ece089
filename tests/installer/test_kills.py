"""A killed installer: GIMP finds either the old version or the new one, and it is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installer.kills import Kills


@pytest.mark.campaign
def test_a_kill_at_any_moment_leaves_the_old_version_or_the_new_one(tmp_path: Path, wheels: Path):
    done = list(Kills(tmp_path, wheels).kills(4))
    assert len(done) == 4
    assert not [kill for kill in done if kill.broken]
