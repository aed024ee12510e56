"""Signals to all processes of a launch on Ray, as a terminal or `kill -- -GROUP` sends them."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from orchestrator.process.stopping import DRAIN_SECONDS
from tests.orchestrator.endless import make_endless, saved
from tests.support.clusters import NodeType, autoscaled_cluster
from tests.support.launching import ROOT, descendants, session, wait_for
from tests.support.processes import is_running
from trainables.machine.cpus import usable_cpus

pytestmark = pytest.mark.slow
RUN = ("endless", "--module", "endless_sweeps", "--checkpoint-seconds", "1000", "--no-figures")
RESUMES = ": the same command resumes where this one stopped"
SAYS = {"SIGINT": "interrupted", "SIGTERM": "interrupted by SIGTERM", "SIGHUP": "interrupted by SIGHUP"}
"""Signals that Ray or Tune would treat in ways of their own; `process/test_stopping` has all of them without Ray."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short TMPDIR: Ray's sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="stop-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def started(folder: Path, *arguments: str, **more: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A launch that leads a session, with its output in files."""
    return session(folder, *arguments, LAMBDA_ATLAS_ENDLESS=str(folder), PYTHONUNBUFFERED="1", **more)


def check_stops(process: subprocess.Popen[str], folder: Path, name: str) -> None:
    """Send the signal to the launch's group: it ends in time with one line and its code, and no process is left."""
    family = dict(descendants(process.pid))
    asked = time.monotonic()
    os.killpg(process.pid, signal.Signals[name])
    code = process.wait(timeout=60)
    assert time.monotonic() - asked < DRAIN_SECONDS + 1
    assert code == 128 + signal.Signals[name], (folder / "stderr").read_text()
    assert (folder / "stderr").read_text() == f"{SAYS[name]}{RESUMES}\n"
    time.sleep(1)
    assert not [line for pid, line in family.items() if is_running(pid)]


def num_training(folder: Path) -> int:
    return len([*folder.glob("training-*")])


def statuses(database: Path) -> list[str]:
    """Of the runs in MLflow."""
    if not database.exists():
        return []
    try:
        return [status for (status,) in sqlite3.connect(database).execute("select status from runs")]
    except sqlite3.OperationalError:  # its tables are being created
        return []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_packs_in_training_save_their_states(name: str, tmp_path: Path, temporary: Path) -> None:
    folder = make_endless(tmp_path)
    num_packs = min(2, usable_cpus())
    database = folder / "results" / "mlflow.db"
    with started(folder, *RUN, TMPDIR=str(temporary)) as process:
        wait_for(lambda: num_training(folder) == num_packs and statuses(database) == ["RUNNING"], process)
        check_stops(process, folder, name)
    assert len(saved(folder)) == num_packs, "their first states were due in 1000 s"
    assert statuses(database) == ["KILLED"]
    assert not list(temporary.glob("atlas-*"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_while_ray_starts(name: str, tmp_path: Path, temporary: Path) -> None:
    folder = make_endless(tmp_path)
    with started(folder, *RUN, "--no-mlflow", TMPDIR=str(temporary)) as process:
        wait_for(lambda: [*temporary.glob("atlas-*/session_*/sockets/raylet*")], process)
        check_stops(process, folder, name)
    assert not list(temporary.glob("atlas-*"))


@pytest.mark.parametrize("name", ["SIGTERM"])
def test_while_figures_are_drawn(name: str, tmp_path: Path, temporary: Path) -> None:
    sizes = ("--set", "num_epochs=3", "--set", "batch_size=20,200", "--seeds", "0")
    with started(tmp_path, "grid_bsz", *sizes, "--no-mlflow", TMPDIR=str(temporary)) as process:
        wait_for(lambda: "parquet " in (tmp_path / "stdout").read_text(), process)
        check_stops(process, tmp_path, name)


def test_on_a_cluster_at_an_address(tmp_path: Path) -> None:
    folder = make_endless(tmp_path)
    with autoscaled_cluster(cpu=NodeType({"CPU": 1}, most=1)) as cluster:
        grow = ("--address", cluster.address, "--max-nodes", "1", "--no-mlflow")
        access = {**cluster.environment, "PYTHONPATH": f"{ROOT}:{folder}"}
        with started(folder, *RUN, *grow, **access) as process:
            wait_for(lambda: num_training(folder), process)
            check_stops(process, folder, "SIGTERM")
    assert len(saved(folder)) == 1
