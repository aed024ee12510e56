"""What a result row says about the code that produced it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainables
from tests.support.product_copy import copy_product
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


SHOW = "from trainables.provenance import provenance; here = provenance('any'); print(here.git_sha, here.git_dirty)"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the product with one commit, beside the user's own repository in `theirs`."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_product(folder)
    (folder / "theirs").mkdir()
    for repository in (folder, folder / "theirs"):
        (repository / ".gitignore").write_text("theirs\n")
        git(repository, "init", "-q")
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", f"of {repository.name}")
    return folder


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", f"safe.directory={repository}")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *identity, "-C", str(repository), *arguments]
    return subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("circumstance", ["in another repository", "in a hook of another", "of another owner"])
def test_the_commit_is_that_of_the_code(circumstance: str, checkout: Path) -> None:
    variables = {"PYTHONPATH": str(checkout), "HOME": str(checkout)}
    if circumstance == "in a hook of another":
        theirs = checkout / "theirs"
        variables |= {"GIT_DIR": str(theirs / ".git"), "GIT_WORK_TREE": str(theirs), "GIT_INDEX_FILE": "/nowhere"}
    owner = checkout.stat().st_uid
    if circumstance == "of another owner":
        if os.getuid() != 0:
            pytest.skip("needs root to give a folder to another user")
        os.chown(checkout, 12345, -1)
    try:
        done = subprocess.run(
            [sys.executable, "-c", SHOW],
            cwd=checkout / "theirs",
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.chown(checkout, owner, -1)
    assert done.stdout.split() == [git(checkout, "rev-parse", "HEAD"), "False"]
