"""The folder of a launch for Ray's files: one that Ray can use, and none of a killed launch stays."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from orchestrator.errors import ClusterError
from orchestrator.executors import ray_folder
from orchestrator.executors.ray_folder import launch_folder
from tests.support.launching import ROOT

HOLDER = """
from orchestrator.executors.ray_folder import launch_folder
with launch_folder() as folder:
    (folder / "session").mkdir()
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short path."""
    short = Path(f"/tmp/{os.getpid()}")
    short.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(short))
    yield short
    shutil.rmtree(short)


def holder(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another launch, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_launch_deletes_its_folder_and_those_of_killed_ones_but_of_no_living_one(place: Path) -> None:
    killed, left_behind = holder(place)
    living, kept = holder(place)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    foreign = place / f"atlas-{os.getuid()}-postgresql"
    (foreign / "data").mkdir(parents=True)
    assert (left_behind / "session").is_dir()
    with launch_folder() as folder:
        assert folder.parent == place
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not left_behind.exists()
        assert (kept / "session").is_dir()
    assert not folder.exists()
    living.communicate("\n")
    assert living.returncode == 0
    assert [path.name for path in place.iterdir()] == [foreign.name], "without a lock it is none of ours"


def test_the_logs_of_a_launch_that_fails_stay_until_the_next(place: Path) -> None:
    with pytest.raises(ClusterError, match="no room"), launch_folder() as folder:
        raise ClusterError("no room")
    assert folder.is_dir()
    with launch_folder():
        assert not folder.exists()


def test_a_folder_into_which_processes_of_a_killed_launch_still_write_is_deleted_by_a_later_one(place: Path) -> None:
    killed, left_behind = holder(place)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    is_dying = threading.Event()
    for number in range(1000):  # deleting them takes longer than writing another one
        (left_behind / "session" / f"earlier-{number}").touch()

    def write_on() -> None:
        numbers = itertools.count()
        while not is_dying.is_set():
            with suppress(FileNotFoundError):
                (left_behind / "session" / f"log-{next(numbers)}").touch()

    (left_behind / "session_latest").symlink_to(left_behind / "session")
    with ThreadPoolExecutor(1) as process:
        process.submit(write_on)
        with launch_folder():
            is_dying.set()
    with launch_folder():
        assert not left_behind.exists()


@pytest.mark.parametrize("named", ["long", "missing", "relative", "a file"])
def test_a_temporary_folder_that_ray_cannot_use_is_passed_over(
    named: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = place / ("ü" * 40)
    long.mkdir(parents=True)
    (place / "file").write_text("")
    places = {"long": str(long), "missing": "/nowhere", "relative": "tmp", "a file": str(place / "file")}
    monkeypatch.setenv("TMPDIR", places[named])
    with launch_folder() as folder:
        assert str(folder).startswith("/tmp/atlas-")
    assert not list(long.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_temporary_folder_without_locks_is_passed_over(
    code: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def flock_elsewhere(file: IO[bytes], operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{file.fileno()}").startswith(f"{place}/"):  # noqa: PTH115
            raise OSError(code, os.strerror(code))
        flock(file, operation)

    monkeypatch.setattr("fcntl.flock", flock_elsewhere)
    assert ray_folder._fault(place, "atlas-") == f"has no locks ({os.strerror(code)})"
    with launch_folder() as folder:
        assert folder.parent == Path("/tmp")
    assert not list(place.iterdir())


def test_sockets_of_the_longest_folder_that_is_taken_can_be_bound(place: Path) -> None:
    prefix = f"atlas-{os.getuid()}-"
    taken = [size for size in range(1, 100) if not _is_too_long(place / ("x" * size), prefix)]
    deepest = place / ("x" * max(taken)) / f"{prefix}{ray_folder._SOCKET}"
    deepest.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(deepest))
    assert len(taken) < 99
    assert deepest.is_socket()


def _is_too_long(folder: Path, prefix: str) -> bool:
    folder.mkdir(exist_ok=True)
    return ray_folder._fault(folder, prefix) == "has too long a path for sockets"


def test_full_disks_are_one_line_with_each_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(ClusterError) as refused, launch_folder():
        pass
    assert re.fullmatch(r"Ray finds no folder .*--executor inline\)", str(refused.value))
    assert f"{place} has 1 MB free, of 100 that Ray needs" in str(refused.value)
    assert "/tmp has 1 MB free" in str(refused.value)
    assert "RAY_TMPDIR" in str(refused.value)
