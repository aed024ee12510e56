"""A copy of the product that a test changes as a contributor would, and launches."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.launching import ROOT, command, environment

PACKAGES = ("orchestrator", "trainables", "search_spaces")


def copy_product(folder: Path) -> Path:
    """The three packages, in `folder`."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def patch(path: Path, old: str, new: str) -> None:
    """Put `new` in the place of `old`, which stands there once."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def launch_copy(product: Path, folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Launch that copy in `folder`, where a user's modules lie."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(PYTHONPATH=str(product), **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
