"""A data folder and a cache of decoded images for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.image_data import cache
from trainables.image_data import images as image_data


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder and a cache that only this test uses."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(image_data.DATA_VARIABLE, str(folder))
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder
