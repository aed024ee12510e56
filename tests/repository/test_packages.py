"""The folders: each is a package, none is large, and none shadows what it tests or what a user imports."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trainables.registry import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "trainables", "search_spaces")
FOLDERS = sorted({path.parent for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")})
MOST_MODULES = 15
MOST_BYTES = 1_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_folder_is_a_package(folder: Path) -> None:
    """Without `__init__.py` setuptools leaves it out of the image."""
    assert (folder / "__init__.py").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_folder_can_be_read_at_a_glance(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MOST_MODULES


def test_no_script_lies_in_tests_itself() -> None:
    """Run from there, it would find `tests/orchestrator` in place of the product."""
    assert {path.name for path in (ROOT / "tests").glob("*.py")} <= {"__init__.py", "conftest.py"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
def test_no_large_file_is_committed() -> None:
    """Such as a package that a tool has downloaded: every clone would bring it for ever."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    assert len(paths) > 100
    assert [path.name for path in paths if path.is_file() and path.stat().st_size > MOST_BYTES] == []


def test_users_find_types() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


def test_a_workload_has_a_folder_with_the_same_two_files() -> None:
    own = [place for place in WORKLOADS.values() if place.startswith("trainables.")]
    assert len(own) >= 3
    for place in own:
        folder = ROOT / place.partition(":")[0].replace(".", "/")
        assert folder.with_suffix(".py").is_file()
        assert (folder.parent / "config.py").is_file()
