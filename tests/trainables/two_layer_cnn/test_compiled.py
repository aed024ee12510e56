"""Compiled functions whose cache on disk is missing, damaged or not writable: they are compiled, and it is said."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numba
import pytest

from trainables.two_layer_cnn import compiled

SOURCE = """
from trainables.two_layer_cnn.compiled import compiled

@compiled()
def twice(number):
    return 2 * number
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which numba caches compiled code."""
    compiled._say_once.cache_clear()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(tmp_path: Path) -> ModuleType:
    """The module with a compiled function, as a process imports it."""
    path = tmp_path / "package" / "module.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_code_is_compiled_once_for_all_processes(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(tmp_path).twice(2) == 4
    again = load(tmp_path).twice
    assert again(2) == 4
    assert sum(again.stats.cache_hits.values()) == 1
    assert not warnings(caplog)


def test_without_any_folder_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__pycache__").write_text("as a folder that cannot be written")
    assert load(tmp_path).twice(2) == 4
    (said,) = warnings(caplog)
    assert "compiled code has no folder that can be written" in said
    assert "NUMBA_CACHE_DIR" in said


def test_a_cache_that_cannot_be_written_any_more(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = load(tmp_path)
    shutil.rmtree(cache)
    cache.write_text("no folder any more")
    assert module.twice(2) == 4
    assert module.twice(2.5) == 5.0
    assert all(str(cache) in line and "cannot be" in line for line in warnings(caplog))
    assert 1 <= len(warnings(caplog)) <= 2


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04damaged"])
def test_a_damaged_cache_is_made_anew(
    kind: str, content: bytes, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path).twice(2)
    (damaged,) = cache.rglob(f"*.{kind}")
    damaged.write_bytes(content)
    assert load(tmp_path).twice(2) == 4
    (said,) = warnings(caplog)
    assert "cannot be read" in said
    mended = load(tmp_path).twice
    assert mended(2) == 4
    assert sum(mended.stats.cache_hits.values()) == 1
