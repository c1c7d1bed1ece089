"""Several edits in one GIMP, which must not hold more and more. `tests/bench/soak` makes many."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.private.host import PrivateGimp
from plugin.worker.sandbox import Sandbox
from tests.gimp import soak

pytestmark = pytest.mark.gimp


@pytest.mark.campaign
@pytest.mark.parametrize("mode", soak.MODES)
def test_what_is_held_does_not_grow(
    gimp: PrivateGimp, sandbox: Sandbox, tmp_path: Path, photo_files: Path, mode: str
) -> None:
    rows = soak.run(gimp, tmp_path, photo_files, sandbox.base_url, mode, 15, 1)
    assert len(rows) == 15
    assert not soak.judge(rows)

    # Growth would be noticed.
    for row in rows[-5:]:
        row["script"]["files"] += 5
    assert soak.judge(rows)
