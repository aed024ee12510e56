"""Real launches that share a folder or a bucket, of which one is killed, or stopped and continued."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.part_files import PartFiles
from orchestrator.ledger.schema import TableName
from orchestrator.ledger.storage import Storage
from tests.support.launching import WORKLOAD, half_done, make_folder, start, wait_for
from tests.support.servers import ObjectStore, object_store

pytestmark = pytest.mark.slow

TWINS = """

@sweep
def longer_too() -> Sweep:
    from dataclasses import replace
    return replace(longer(), name="longer_too")
"""
SAVES = ("--checkpoint-seconds", "0.2")
INLINE = ("--executor", "inline", "--no-figures", "--no-mlflow", *SAVES, "--seeds", "0,1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(params=["folder", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder, or a new bucket, which this process can reach."""
    if request.param == "folder":
        return str(tmp_path / "results")
    running: ObjectStore = request.getfixturevalue("store")
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running.make_bucket(f"shared-{time.monotonic_ns()}") + "/p"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder whose sweeps `longer` and `longer_too` have the same trials, of two seeds here."""
    made = make_folder(tmp_path)
    with (made / "my_sweeps.py").open("a") as file:
        file.write(TWINS)
    return made


def rows(out: str) -> list[dict[str, Any]]:
    """All rows in the files: a trial that was trained twice has two."""
    table: list[dict[str, Any]] = PartFiles(Storage(out), "reader").read(TableName.TRIALS, WORKLOAD).to_pylist()
    return table


def claiming(out: str) -> set[int]:
    """The processes that claim trials now."""
    storage, found = Storage(out), []
    paths = [info.path for info in storage.infos(f"{storage.path}/.claims") if info.path.endswith(".json")]
    for content in map(storage.read, paths):
        with suppress(ValueError):  # replaced by a longer one while it was read: only its beginning
            found.append(json.loads(content or b"{}"))
    return {claims["pid"] for claims in found if claims.get("trials")}


def left(out: str) -> list[str]:
    storage = Storage(out)
    return [info.base_name for info in storage.infos(f"{storage.path}/.claims")]


def check_each_has_one_row(out: str) -> None:
    counts = Counter(row["trial_id"] for row in rows(out))
    assert len(counts) == 4
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(("out", "executor"), [("folder", "inline"), ("bucket", "ray")], indirect=["out"])
def test_two_launches_train_each_trial_once(executor: str, out: str, folder: Path) -> None:
    """Claims are the driver's, which does not know where its packs run: each place and each executor is here once."""
    options = ("--executor", executor, *INLINE[2:], "--out", out)
    both = [start(folder, name, *options) for name in ("longer", "longer_too")]
    for process in both:
        printed = "".join(process.communicate(timeout=400))
        assert process.returncode == 0, printed
        assert "4/4 trials" in printed
    check_each_has_one_row(out)
    assert {row["attempt"] for row in rows(out)} == {1}
    assert left(out) == []


def test_a_launch_goes_on_with_what_a_killed_one_had_in_training(out: str, folder: Path) -> None:
    killed = start(folder, "longer", *INLINE, "--out", out)
    wait_for(lambda: half_done(out), killed)
    os.kill(killed.pid, signal.SIGSTOP)  # else it might be done before the other has begun
    living = start(folder, "longer_too", *INLINE, "--out", out)
    wait_for(lambda: living.pid in claiming(out), living)
    killed.kill()
    killed.communicate()
    before = {row["trial_id"]: row for row in rows(out)}
    printed = "".join(living.communicate(timeout=400))
    assert living.returncode == 0, printed
    check_each_has_one_row(out)
    after = {row["trial_id"]: row for row in rows(out)}
    assert {trial_id: after[trial_id] for trial_id in before} == before


def test_a_launch_that_was_stopped_records_nothing_that_another_took_over(out: str, folder: Path) -> None:
    stopped = start(folder, "longer", *INLINE, "--out", out)
    wait_for(lambda: half_done(out), stopped)
    living = start(folder, "longer_too", *INLINE, "--out", out)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        printed = "".join(living.communicate(timeout=400))
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert living.returncode == 0, printed
    stdout, stderr = stopped.communicate(timeout=200)
    assert stopped.returncode == 2, stdout + stderr
    assert [line for line in stderr.splitlines() if "another launch took over its trials" in line], stderr
    assert "Traceback" not in stderr
    check_each_has_one_row(out)
    assert Ledger(out).settled(WORKLOAD) == {row["trial_id"] for row in rows(out)}
    assert left(out) == []
