"""What a result row says about the code that produced it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import trainables
from trainables.provenance import code_digest, digest_of_sources


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of our own package, with a sub-package in it."""
    copy = tmp_path / "trainables"
    shutil.copytree(Path(trainables.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "images").mkdir()
    for name in ("__init__.py", "models.py"):
        (copy / "images" / name).write_text("DEPTH = 18\n")
    return copy


def test_the_digest_is_of_the_whole_package() -> None:
    assert code_digest() == digest_of_sources(Path(trainables.__file__).resolve().parent)


def test_a_change_in_a_sub_package_changes_the_digest(package: Path) -> None:
    before = digest_of_sources(package)
    (package / "images" / "models.py").write_text("DEPTH = 50\n")
    assert digest_of_sources(package) != before


def test_moving_a_file_changes_the_digest(package: Path) -> None:
    before = digest_of_sources(package)
    (package / "images" / "models.py").rename(package / "images" / "networks.py")
    renamed = digest_of_sources(package)
    (package / "images" / "networks.py").rename(package / "networks.py")
    assert len({before, renamed, digest_of_sources(package)}) == 3


def test_what_python_caches_is_no_source(package: Path) -> None:
    before = digest_of_sources(package)
    for folder in (package, package / "images"):
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "left_behind.py").write_text("DEPTH = 50\n")
    (package / "notes.txt").write_text("no source either")
    assert digest_of_sources(package) == before


def test_the_digest_does_not_depend_on_where_the_package_lies(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "elsewhere" / "trainables")
    assert digest_of_sources(tmp_path / "elsewhere" / "trainables") == digest_of_sources(package)
