"""The simulated cluster of `tests/benchmarks/scale.py`: the real driver on it records every trial once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.recorder import BATCH_SECONDS, batch_seconds
from orchestrator.ledger.ledger import Ledger
from tests.benchmarks.scale import CHECKPOINT_SECONDS, schedule, simulate, sweep_of
from tests.benchmarks.simulated_cluster import SimulatedCluster
from trainables.packs.worker import REPORT_SECONDS

WORKLOAD = "two_layer_cnn"


@pytest.mark.slow
def test_nodes_that_stay_are_busy_to_the_end(tmp_path: Path) -> None:
    cluster = SimulatedCluster(4)
    launch = simulate(200, cluster, str(tmp_path))
    assert launch.num_done == 200
    assert cluster.trained_seconds == pytest.approx(launch.work)
    assert launch.bound < cluster.makespan < 1.05 * launch.bound
    alone = SimulatedCluster(4, has_traces=False)
    assert schedule(sweep_of(200), alone) == launch.bound
    assert alone.makespan == cluster.makespan, "what is recorded takes no simulated time"


@pytest.mark.slow
def test_lost_nodes_cost_what_was_not_saved_and_no_trial_is_lost(tmp_path: Path) -> None:
    cluster = SimulatedCluster(4, losses_per_hour=100)
    launch = simulate(400, cluster, str(tmp_path))
    assert launch.num_done == 400
    assert cluster.num_lost >= 5
    assert 0 < cluster.lost_seconds < cluster.num_lost * (CHECKPOINT_SECONDS + 2 * REPORT_SECONDS)
    assert cluster.trained_seconds == pytest.approx(launch.work + cluster.lost_seconds)
    attempts: list[Any] = Ledger(str(tmp_path)).trials(WORKLOAD, columns=("attempt",))["attempt"].to_pylist()
    assert len(attempts) == 400
    assert max(attempts) >= 2


def test_an_interrupted_launch_says_how_far_it_came(tmp_path: Path) -> None:
    launch = simulate(200, SimulatedCluster(4, until=20.0), str(tmp_path))
    assert 0 < launch.num_done < 200
    assert f"{launch.num_done} of 200" in launch.row()
    assert len(Ledger(str(tmp_path)).settled(WORKLOAD)) == launch.num_done


def test_a_batch_may_take_longer_the_longer_a_run_has_taken() -> None:
    assert [batch_seconds(elapsed) for elapsed in (0.0, 300.0, 1e6)] == [BATCH_SECONDS[0], 3.0, BATCH_SECONDS[1]]


def test_a_number_of_trials_that_no_seeds_give_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--trials", "300"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert run.returncode == 2
    assert "a multiple of 200 is required, got 300" in run.stderr
