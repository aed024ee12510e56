"""The chaos with a few strikes of each kind, and its schedule."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.chaos.judge import Judge, differences
from tests.chaos.launches import MARK, Folder
from tests.chaos.schedule import LONGEST_DELAYS, Fault, Moment, schedule
from tests.orchestrator.ledger.test_ledger import WORKLOAD, result
from tests.support.launching import ROOT, environment
from tests.support.processes import kill_marked, marked
from trainables.result import Outcome


def test_a_schedule_is_a_function_of_its_seed_and_has_each_fault_equally_often() -> None:
    assert schedule(1, 48) == schedule(1, 48) != schedule(2, 48)
    assert schedule(1, 30) == schedule(1, 48)[:30]
    counts = Counter(strike.fault for strike in schedule(1, 48))
    assert set(counts) == set(Fault)
    assert set(counts.values()) == {48 // len(Fault)}
    assert {strike.moment for strike in schedule(1, 48)} == set(Moment)
    assert all(0 <= strike.delay <= LONGEST_DELAYS[strike.moment] for strike in schedule(1, 48))


def test_processes_are_found_by_their_mark_whoever_their_parent_is() -> None:
    mark = f"{MARK}={secrets.token_hex(8)}"
    orphan = "import subprocess, sys; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"
    name, _, value = mark.partition("=")
    started = subprocess.run(
        [sys.executable, "-c", orphan], env={**os.environ, name: value}, stdout=subprocess.PIPE, check=True
    )
    (found,) = marked(mark)
    assert (found.pid, found.line) == (int(started.stdout), "sleep 60")
    kill_marked(mark)
    assert not found.is_alive
    assert marked(mark) == []


def test_the_judge_sees_what_is_lost_and_what_is_trained_twice_and_forgives_pruning_and_compaction(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path / "storm", "token")
    judge, ledger = Judge(folder), Ledger(str(folder.out), "a")
    ended, stopped = result(0), result(1, Outcome.UNFINISHED)
    ledger.append([ended, stopped])
    assert judge.look() == ([], [])
    ledger.mark_pruned(WORKLOAD, [stopped.trial_id])
    ledger.compact()
    assert judge.look() == ([], [])
    Ledger(str(folder.out), "b").append([result(0, attempt=2, finished_at=2.0)])
    lost, twice = judge.look()
    assert (lost, len(twice)) == ([], 1)
    assert twice[0].startswith(ended.trial_id)
    shutil.rmtree(folder.out / "trials")
    lost, twice = judge.look()
    assert {line.split()[0] for line in lost} == {ended.trial_id, stopped.trial_id}
    assert twice == [], "what was said is not said again"


def test_a_zero_with_another_sign_is_another_number(tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", -0.0)):
        Ledger(str(tmp_path / name)).append([result(0, value=value)])
    assert differences(tmp_path / "a", tmp_path / "a") == []
    found = differences(tmp_path / "a", tmp_path / "b")
    assert len(found) == 3, "a row, and two points of its trace"
    assert all("train_loss" in line for line in found)


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_nothing_is_lost_trained_twice_changed_or_left_behind() -> None:
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "tests.chaos", "--kills", str(len(Fault)), "--seed", "0"]
    before = set(Path("/tmp").glob("chaos-*"))
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(**{MARK: token}), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        kill_marked(f"{MARK}={token}")
    assert set(Path("/tmp").glob("chaos-*")) <= before
