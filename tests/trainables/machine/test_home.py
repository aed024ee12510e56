"""A process without a usable home folder: where its caches go, and what it says."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from trainables.image_data.cache import cache_root
from trainables.machine.home import ensure_home, private_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder and the current one, with nothing set that says where caches go."""
    for name in ("XDG_CACHE_HOME", "LAMBDA_ATLAS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("home", ["/dev/null", "/nowhere/at/all", "not/absolute"])
def test_caches_go_into_a_private_folder_without_a_home(
    home: str, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", home)
    ensure_home()
    ensure_home()
    folder = temporary / f"lambda-atlas-{os.getuid()}"
    assert Path.home() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [record.getMessage() for record in caplog.records] == [
        f"the home folder {home} cannot be written: caches are in {folder}"
    ]
    assert cache_root() == folder / ".cache" / "lambda-atlas" / "images"
    assert [path.name for path in temporary.iterdir()] == [folder.name], "no folder named ~ or after the home"


def test_a_usable_home_stays(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    ensure_home()
    assert Path.home() == temporary
    assert cache_root() == temporary / ".cache" / "lambda-atlas" / "images"
    assert not caplog.records
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("planted", ["open to all", "a file", "a link"])
def test_a_folder_that_others_may_have_made_is_not_used(planted: str, temporary: Path) -> None:
    name = temporary / f"lambda-atlas-{os.getuid()}"
    if planted == "open to all":
        name.mkdir()
        name.chmod(0o777)
    elif planted == "a file":
        name.write_text("")
    else:
        (temporary / "theirs").mkdir(mode=0o700)
        name.symlink_to(temporary / "theirs")
    folder = private_folder()
    assert folder != name
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
