"""What the reaper ends and deletes when a launch has ended, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.process.reaper import TOLD_OF
from tests.support.launching import ROOT
from tests.support.processes import is_running

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


MARKED = """
import os, subprocess, sys
from orchestrator.process.reaper import MARK, reaped
with reaped(sys.argv[1]):
    command = ["/bin/sh", "-c", "env -i sleep 1000 & echo ray $$ $!; sleep 1000"]
    marked = {**os.environ, MARK: sys.argv[1]}
    one = subprocess.Popen(command, env=marked, start_new_session=True)
    sleep = ["sleep", "1000"]
    own, beside = subprocess.Popen(sleep, env=marked), subprocess.Popen(sleep, stdout=subprocess.DEVNULL)
    print("launch", own.pid, beside.pid, flush=True)
    input()
"""


@pytest.mark.parametrize("ending", ["killed", "ended"])
def test_the_reaper_ends_what_has_the_mark_and_its_session_but_not_the_launchs(ending: str, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", MARKED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    of = {name: [int(pid) for pid in pids] for name, *pids in (holder.stdout.readline().split() for _ in range(2))}
    own, beside = of["launch"]
    pids = [*of["ray"], own]
    assert all(is_running(pid) for pid in (*pids, beside))
    if ending == "killed":
        holder.kill()
    holder.communicate("\n")
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert is_running(beside), "it belongs to whoever started the launch"
    os.kill(beside, signal.SIGKILL)
