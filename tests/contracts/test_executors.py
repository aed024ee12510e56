"""What every executor promises: each trial reaches the ledger once, with the same numbers as on any other."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from orchestrator.driver.options import RunOptions
from orchestrator.driver.run import run_sweep
from orchestrator.errors import SweepError
from orchestrator.executors.executor import Executor, ReportSink
from orchestrator.executors.pack_queue import PackQueue
from orchestrator.executors.registry import EXECUTORS, ExecutorSettings, Place, executor
from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.value import Grid, Sweep
from tests.contracts.toy_executor import TurnsExecutor
from tests.support.launching import CIRCUMSTANCES

SIZES = {"num_train": 20, "num_test": 50, "dimension": 30, "noise_sparsity": 5, "num_filters": 2, "num_epochs": 20}
DECAYS = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
SWEEP = Sweep("contract", "eight short trials", (Grid(DECAYS, {"batch_size": (2, 10)}, SIZES),), seeds=(0, 1))
PLACES = [pytest.param(name, marks=pytest.mark.slow if name == "ray" else ()) for name in sorted(EXECUTORS)]


def rows(executor: str, out: Path) -> list[dict[str, object]]:
    """The ledger's rows after a launch, without columns that may differ between two trainings of one trial."""
    before = dict(os.environ)
    summary = run_sweep(SWEEP, RunOptions(out=str(out), executor=executor, mlflow=False, figures=False, device="cpu"))
    left = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert not [name for name in left if name.startswith(("TUNE_", "RAY_AIR"))], "other Tune runs read them"
    table = Ledger(str(out)).trials(SWEEP.workload)
    found = [{k: v for k, v in row.items() if k not in CIRCUMSTANCES} for row in table.to_pylist()]
    assert summary.finished == len(found)
    return sorted(found, key=lambda row: str(row["trial_id"]))


def test_the_toy_is_found_by_its_name() -> None:
    assert {"inline", "ray", "turns"} <= set(EXECUTORS)


@pytest.mark.parametrize("name", PLACES)
def test_every_trial_is_recorded_once_with_its_numbers(name: str, tmp_path: Path) -> None:
    found = rows(name, tmp_path / "here")
    assert [row["trial_id"] for row in found] == sorted(config.trial_id for config in SWEEP.configs())
    assert found == rows("inline", tmp_path / "inline")


class _Losing(TurnsExecutor):
    """Drops the last report of each pack."""

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        super().run(queue, lambda reports: sink([report for report in reports if report.result is None]))


def test_an_executor_that_loses_a_report_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(settings: ExecutorSettings) -> AbstractContextManager[Executor]:
        return closing(_Losing())

    monkeypatch.setitem(EXECUTORS, "losing", Place(losing))
    with pytest.raises((AssertionError, SweepError)):
        test_every_trial_is_recorded_once_with_its_numbers("losing", tmp_path)


@pytest.mark.parametrize("name", ["inline", "ray"])
def test_a_name_of_ours_is_refused(name: str) -> None:
    with pytest.raises(SweepError, match=rf"^an executor named '{name}' is registered by orchestrator\.executors\."):
        executor(name)(lambda settings: closing(TurnsExecutor()))
