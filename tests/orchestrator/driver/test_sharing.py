"""Launches that share a results folder: each trial is trained by one of them, and all have its result."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.driver import sharing
from orchestrator.driver.loop import Training
from orchestrator.driver.options import RunOptions, RunSummary
from orchestrator.driver.run import run_sweep
from orchestrator.executors.inline import InlineExecutor
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.recorded import recorded
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.space import LogUniform
from tests.support.launching import WORKLOAD, check_went_on, plant_seconds
from tests.support.made_results import made_result
from tests.support.scheduling import trained
from trainables.config import TrialConfig
from trainables.contract import Member
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.packs.state_store import StateStore
from trainables.packs.worker import PackWorker
from trainables.registry import workload
from trainables.result import Outcome

SMALL: dict[str, Any] = {"num_train": 40, "num_test": 50, "dimension": 60, "noise_sparsity": 10, "num_filters": 4}
ARMS = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
SWEEP = Sweep("s", "s", (Grid(ARMS, {"batch_size": (5, 40)}, {**SMALL, "num_epochs": 9}),), seeds=(0,))
SPACE = {"learning_rate": LogUniform(1e-5, 1e-1), "weight_decay": LogUniform(1e-6, 1.0)}
SEARCHED = Sweep(
    "searched",
    "s",
    (Grid({"adam": {}}, {}, {**SMALL, "batch_size": 5, "num_epochs": 9}),),
    seeds=(0, 1),
    search=HalvingSearch({"adam": SPACE}, rounds=2, per_round=6),
)

Launch = Callable[..., Future[RunSummary]]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Starts a launch into `tmp_path` in a thread."""
    monkeypatch.setattr(sharing, "POLL_SECONDS", (0.02, 0.1))
    with ThreadPoolExecutor() as threads:
        options = RunOptions(out=str(tmp_path), executor="inline", mlflow=False, figures=False, device="cpu")
        yield lambda sweep=SWEEP: threads.submit(run_sweep, sweep, options)


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows in the files: a trial that was trained twice has two."""
    parts = (out / "trials").rglob("*.parquet")
    return [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]


def until_settled(ledger: Ledger, number: int, launched: Future[RunSummary]) -> None:
    deadline = time.monotonic() + 100
    while len(ledger.settled(WORKLOAD)) < number:
        assert not launched.done()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ids(configs: Sequence[TrialConfig]) -> set[str]:
    return {config.trial_id for config in configs}


def test_what_another_driver_trains_is_waited_for_and_counts(tmp_path: Path, launch: Launch) -> None:
    other, theirs = Ledger(str(tmp_path)), SWEEP.configs()[:2]
    with other.claims.held():
        assert other.claims.claim(ids(theirs)) == ids(theirs)
        launched = launch()
        until_settled(other, 2, launched)
        assert not other.settled(WORKLOAD) & ids(theirs)
        other.append([trained(config, 9) for config in theirs])
        summary = launched.result()
    assert (summary.finished, summary.failed) == (4, 0)
    assert summary.outcomes == Counter(row["outcome"] for row in rows(tmp_path))
    assert Counter(row["driver_id"] == other.driver_id for row in rows(tmp_path)) == {True: 2, False: 2}


def test_what_another_driver_leaves_half_trained_goes_on_from_its_state(tmp_path: Path, launch: Launch) -> None:
    other, (theirs, *_) = Ledger(str(tmp_path)), SWEEP.configs()
    with other.claims.held():
        other.claims.claim({theirs.trial_id})
        launched = launch()
        until_settled(other, 3, launched)
        order = PackOrder(
            pack_id=theirs.trial_id,
            members=(MemberOrder(theirs, until_epoch=4),),
            states_root=str(tmp_path / "states"),
            checkpoint_seconds=0.0,
        )
        PackWorker(order).step(math.inf)
        planted = plant_seconds(tmp_path)
    summary = launched.result()
    assert summary.finished == 4
    check_went_on(tmp_path, planted)
    assert len(rows(tmp_path)) == 4


def test_a_trial_that_failed_elsewhere_meanwhile_failed_here_and_runs_again_next_time(
    tmp_path: Path, launch: Launch
) -> None:
    other, (theirs, *_) = Ledger(str(tmp_path)), SWEEP.configs()
    failed = replace(trained(theirs, 9), outcome=Outcome.FAILED, error="Traceback ...\nValueError: its reason")
    with other.claims.held():
        other.claims.claim({theirs.trial_id})
        launched = launch()
        until_settled(other, 3, launched)
        other.append([failed])
        summary = launched.result()
    assert (summary.finished, summary.failed, summary.errors) == (4, 1, {"ValueError: its reason": 1})
    assert len(rows(tmp_path)) == 4
    again = launch().result()
    assert (again.finished, again.failed) == (1, 0)


def test_two_searches_of_the_same_points_train_each_once(tmp_path: Path, launch: Launch) -> None:
    both = [launch(sweep) for sweep in (SEARCHED, replace(SEARCHED, name="again"))]
    assert [one.result().failed for one in both] == [0, 0]
    assert plan_sweep(SEARCHED, Ledger(str(tmp_path))).is_complete
    found = rows(tmp_path)
    reached = Counter((row["trial_id"], row["epochs_done"]) for row in found if row["outcome"] != Outcome.PRUNED)
    assert set(reached.values()) == {1}
    alone = tmp_path / "alone"
    run_sweep(SEARCHED, RunOptions(out=str(alone), executor="inline", mlflow=False, figures=False, device="cpu"))
    standing = [
        {(row["trial_id"], row["outcome"], row["train_loss"]) for row in Ledger(str(out)).trials(WORKLOAD).to_pylist()}
        for out in (tmp_path, alone)
    ]
    assert standing[0] == standing[1]


def test_a_state_is_kept_while_another_driver_trains_on_it(tmp_path: Path) -> None:
    """Such as that of a trial that a certificate settles for one sweep, while another trains it to its end."""
    (config, *_) = SWEEP.configs()
    store = StateStore(str(tmp_path / "states"))
    order = PackOrder(
        pack_id="pack", members=(MemberOrder(config, until_epoch=4),), states_root=str(tmp_path / "states"),
        checkpoint_seconds=0.0,
    )  # fmt: skip
    PackWorker(order).step(math.inf)
    ledger, other = Ledger(str(tmp_path)), Ledger(str(tmp_path))
    ledger.append([trained(config, 9)])

    def launch_once() -> None:
        plan = plan_sweep(SWEEP, ledger)
        Training(plan, ledger, InlineExecutor(), None, str(tmp_path / "states"), 30.0).run(Console(quiet=True))

    with other.claims.held():
        other.claims.claim({config.trial_id})
        launch_once()
        assert set(store.index()) == {config.trial_id}
    launch_once()
    assert store.index() == {}


def test_a_state_that_was_saved_anew_meanwhile_is_the_one_to_go_on_from(tmp_path: Path) -> None:
    """The worker of a launch that was stopped trains on, and replaces its file after another launch has chosen it."""
    (config, *_), store = SWEEP.configs(), StateStore(str(tmp_path))
    run = workload(config.workload).open([Member(config, until_epoch=4)])
    run.advance(math.inf)
    store.save("pack", run.states())
    chosen = store.index()[config.trial_id]
    store.save("pack", run.states())
    found = store.load(chosen, config.trial_id)
    assert found is not None
    assert int(found["epoch"]) == 4
    store.save("pack", {})
    assert store.load(chosen, config.trial_id) is None


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_recorded_result_is_what_was_recorded(outcome: Outcome, tmp_path: Path) -> None:
    config = SWEEP.configs()[0]
    error = "ValueError: no" if outcome is Outcome.FAILED else None
    before = replace(made_result(config, outcome), error=error, attempt=3)
    ledger = Ledger(str(tmp_path))
    ledger.append([before])
    (row,) = ledger.trials(WORKLOAD).to_pylist()
    (found,) = recorded(ledger, WORKLOAD, [(config, row)])
    assert found.result == before
    assert found.row == ledger.row(before)
    assert [point["epoch"] for point in found.trace] == [point.epoch for point in before.trace]
