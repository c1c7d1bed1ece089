"""Real GIMPs, 3.0 and 3.2: scripts of `scripts/` run inside, and what they found comes back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from installer.host import PrivateGimp
from tests.gimp.run_inside import run_inside

Inside = Callable[..., Any]


@pytest.fixture(scope="session", params=["3.0", "3.2"])
def gimp(request: pytest.FixtureRequest, photo_files: Path) -> Iterator[PrivateGimp]:
    """A private GIMP of each version, with this checkout's plug-in, shared by all tests."""
    with PrivateGimp(request.param, shares=[photo_files]) as running:
        yield running


@pytest.fixture
def inside(gimp: PrivateGimp, tmp_path: Path, photo_files: Path) -> Inside:
    """Run a script in GIMP and return what it found: `inside("edit", DIMILINKS_BASE_URL=…)`.

    The script's argument is a folder of the test's, with a link-free path to the photographs in
    DIMILINKS_TEST_PHOTOS; it leaves its findings there as `found.json`.
    """

    return functools.partial(run_inside, gimp, tmp_path, photo_files, timeout=500)
