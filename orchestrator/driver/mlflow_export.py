"""Copies the ledger's rows into MLflow, a few at a time: neither a huge sweep nor a slow MLflow fills the memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.schema import ATTEMPT_KEY
from orchestrator.report.show import figure_folder
from orchestrator.schedulers.plan import ledger_of, plan_sweep
from orchestrator.sweeps.value import Sweep

_SLICE_TRIALS = 2000
"""Trials that are read at once: each reading opens every file of the ledger, and 2,000 traces take some 30 MB."""
_BATCH_TRIALS = 100
"""Trials that are Python objects at once."""
_EXPORT_IDLE_SECONDS = 60.0

Rows = list[dict[str, Any]]


def export_mlflow(sweep: Sweep, out: str) -> int:
    """Write every trial of the sweep that the ledger has and MLflow lacks; returns their number.

    Raises `LedgerError` for a broken ledger, and `MlflowUnavailable` if MLflow fails or does nothing for a minute.
    """
    from orchestrator.mlflow_view.background import BackgroundView
    from orchestrator.mlflow_view.connection import default_tracking_uri

    ledger = ledger_of(sweep, out)
    trial_ids, is_complete = _planned(sweep, ledger)  # a broken ledger is named before MLflow is touched
    folder = figure_folder(ledger.root, sweep)
    figures = sorted(folder.glob("*.p*")) if folder.is_dir() else []
    load = partial(recorded, ledger, sweep.workload)
    with BackgroundView(default_tracking_uri(ledger.root), sweep.name, sweep.title, load) as view:
        view.catch_up(trial_ids)
        view.finish(figures, finished=is_complete, idle_seconds=_EXPORT_IDLE_SECONDS, longest_seconds=math.inf)
    if view.error is not None:
        raise view.error
    return view.num_written


def _planned(sweep: Sweep, ledger: Ledger) -> tuple[set[str], bool]:
    """Ids of the trials known so far, and whether all are done."""
    if sweep.search is None:
        trial_ids = sweep.trial_ids()
        return trial_ids, trial_ids <= ledger.settled(sweep.workload)
    plan = plan_sweep(sweep, ledger)
    return {config.trial_id for config in plan.configs}, plan.is_complete


def recorded(ledger: Ledger, workload: str, trial_ids: Collection[str]) -> Iterator[tuple[Rows, dict[str, Rows]]]:
    """Rows and traces of these trials as the ledger has them, a few trials at a time."""
    wanted = sorted(trial_ids)  # as compacted parts are: a slice lies in few row groups
    for start in range(0, len(wanted), _SLICE_TRIALS):
        some = wanted[start : start + _SLICE_TRIALS]
        trials = ledger.trials(workload, trial_ids=some)
        traces = ledger.traces(workload, trial_ids=some).drop_columns(list(ATTEMPT_KEY[1:]))
        for first in range(0, trials.num_rows, _BATCH_TRIALS):
            batch = trials.slice(first, _BATCH_TRIALS)
            is_own = pc.is_in(traces["trial_id"], value_set=batch["trial_id"].combine_chunks())
            yield batch.to_pylist(), _by_trial(traces.filter(is_own))
        del trials, traces
        pa.default_memory_pool().release_unused()


def _by_trial(traces: pa.Table) -> dict[str, Rows]:
    by_trial: dict[str, Rows] = {}
    for point in traces.to_pylist():
        by_trial.setdefault(point["trial_id"], []).append(point)
    return by_trial
