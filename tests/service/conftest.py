"""Fixtures for the tests of the worker: short pauses, another place for results, and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from plugin.worker import keeping
from plugin.worker.service import patience


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't repeat POSTs, and keep the pauses short.

    This applies to this process only, not to workers in processes of their own.
    """
    monkeypatch.setattr(patience, "CONNECTING", 0)
    monkeypatch.setattr(patience, "BUSY", 0)
    monkeypatch.setattr(patience, "POLLS", (0.05, 0.1, 0.2))
    monkeypatch.setattr(patience, "UNKNOWN", 0)
    monkeypatch.setattr(patience, "WRITING", 0)
    monkeypatch.setattr(patience, "LOOKS", 0.05)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that receives results that can't be written to their jobs."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(keeping, "_parents", lambda: iter([folder]))
    return folder


@pytest.fixture
def photo(tmp_path: Path, coffee: Image.Image) -> Path:
    path = tmp_path / "my photo 照片.png"
    coffee.save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path, coffee: Image.Image) -> Path:
    picture = Image.new("L", coffee.size, 0)
    picture.paste(255, (200, 100, 400, 300))
    picture.paste(99, (190, 150, 200, 250))
    path = tmp_path / "mask.png"
    picture.save(path)
    return path
