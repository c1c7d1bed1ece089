"""Fixtures that run the scripts of `scripts/` in real GIMPs, 3.0 and 3.2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from installer.private.host import PrivateGimp
from tests.gimp.run_inside import run_inside

Inside = Callable[..., Any]


@pytest.fixture(scope="session", params=["3.0", "3.2"])
def gimp(request: pytest.FixtureRequest, photo_files: Path) -> Iterator[PrivateGimp]:
    """Yield a private GIMP of each series with this checkout's plug-in, shared by all tests."""
    with PrivateGimp(request.param, shares=[photo_files]) as running:
        yield running


@pytest.fixture
def inside(gimp: PrivateGimp, tmp_path: Path, photo_files: Path) -> Inside:
    """Return a function that runs a script in GIMP and returns what the script found.

    For example, `inside("echo", DIMILINKS_BASE_URL=…)`. It calls `run_inside` with `tmp_path` as
    the folder.
    """

    return functools.partial(run_inside, gimp, tmp_path, photo_files, timeout=500)
