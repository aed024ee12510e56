"""What the reaper does with the folder of a launch that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.process.reaper import TOLD_OF
from tests.support.launching import ROOT

HOLDER = """
import subprocess, sys, time
from orchestrator.executors.ray_folder import launch_folder
from orchestrator.process.reaper import MARK, reaped
with launch_folder() as folder, reaped(str(folder)):
    writes = "import time\\nwhile True: open('log', 'a').write('x'); time.sleep(0.01)"
    session = folder / "session"
    session.mkdir()
    subprocess.Popen([sys.executable, "-c", writes], env={MARK: str(folder)}, cwd=session, stdout=subprocess.DEVNULL)
    while not (session / "log").exists():
        time.sleep(0.01)
    print(folder, flush=True)
    if input() == "fail":
        raise SystemExit("failed")
"""


@contextmanager
def holder(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A launch with a process of its Ray that writes into its folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "RAY_TMPDIR": str(place), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def is_gone(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not folder.exists()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder with a short path."""
    folder = Path(f"/tmp/reaper-{os.getpid()}")
    folder.mkdir()
    yield folder
    folder.rmdir()


def test_the_folder_of_a_killed_launch_is_deleted_when_nobody_writes_into_it_any_more(place: Path) -> None:
    with holder(place) as (launch, folder):
        assert (folder / "session" / "log").exists()
        launch.kill()
        assert is_gone(folder, 10)


@pytest.mark.slow
def test_a_folder_that_a_message_has_named_is_kept_and_so_is_that_of_a_launch_that_failed(place: Path) -> None:
    with holder(place) as (killed, told_of), holder(place) as (failing, failed):
        (told_of / TOLD_OF).touch()
        killed.kill()
        failing.communicate("fail\n")
        assert failing.returncode == 1
        time.sleep(4)
        assert (told_of / "session" / "log").exists()
        assert (failed / "session" / "log").exists()
    with holder(place) as (later, _):
        assert not told_of.exists()
        assert not failed.exists()
        later.communicate("\n")
        assert later.returncode == 0
