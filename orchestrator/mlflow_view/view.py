"""Writes the MLflow view of the ledger: a parent run for each sweep, a child run for each trial.

The view may fail or be deleted, and can be rebuilt from the ledger's rows; a sweep never waits for it. mlflow is
imported when a view is opened: the import alone takes seconds. MLflow's tracking URI, active runs and log levels stay
as they are. Environment variables that the user has not set are set for this process: `MLFLOW_DISABLE_TELEMETRY`, and
for a server also few retries, a short timeout and no printed links.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.mlflow_view.client import ClientRuns
from orchestrator.mlflow_view.connection import (
    MlflowUnavailable,
    creation_lock,
    local_database,
    one_line,
    quiet,
    reason,
    set_environment,
)
from orchestrator.mlflow_view.database import check_artifacts, open_client
from orchestrator.mlflow_view.runs import (
    FINISHED,
    TRIAL_TAG,
    ChildRun,
    KnownRun,
    child_run,
    is_final,
    supersedes,
)
from orchestrator.mlflow_view.sqlite import SqliteRuns, UnknownSchemaError

EXPERIMENT = "lambda-atlas"

Row = Mapping[str, Any]
Traces = Mapping[str, Sequence[Row]]

_BATCH_RUNS = 100
NO_SUMMARY: Mapping[str, float] = MappingProxyType({})


class MlflowView:
    """The runs of one sweep; adding a trial twice gives one run, and a half-written run is written again.

    `tracking_uri` is MLflow's. A database that does not exist is created, by one process at a time. A local SQLite
    database keeps artifacts in `artifact_root`, by default `mlflow-artifacts` beside it. `progress` is called whenever
    MLflow has done something. The constructor and every method raise `MlflowUnavailable` when MLflow cannot be reached.
    """

    def __init__(
        self,
        tracking_uri: str,
        sweep: str,
        title: str,
        artifact_root: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.tracking_uri, self._progress = tracking_uri, progress
        database = local_database(tracking_uri)
        if artifact_root is None and database is not None:
            artifact_root = str(database.parent / "mlflow-artifacts")
        set_environment(tracking_uri)
        with self._reported():
            with creation_lock(tracking_uri):
                self._client = open_client(tracking_uri, database, artifact_root, progress)
                experiment_id = self._find_experiment(artifact_root)
                self._by_client = ClientRuns(self._client, experiment_id, progress)
                self._parent = self._by_client.find_sweep(sweep, title)
            self._own_database = None if tracking_uri == os.environ.get("MLFLOW_TRACKING_URI") else database
            self._fast = _fast_runs(self._own_database, experiment_id, str(artifact_root))
            self._known = self._find_children()

    def present(self) -> set[str]:
        """Trials that have a complete run which nothing replaces: not failed, not pruned, not stopped early."""
        return {run.trial_id for run in self._known.values() if is_final(run)}

    def add(self, rows: Sequence[Row], traces: Traces) -> int:
        """Write the trials' runs that MLflow lacks, or that replace a run which it has; returns their number.

        `rows` are flat rows as the ledger has them (`Ledger.row`), `traces` flat trace rows by trial_id.
        """
        num_written = 0
        for start in range(0, len(rows), _BATCH_RUNS):
            new: dict[str, ChildRun] = {}
            for row in rows[start : start + _BATCH_RUNS]:
                run = child_run(row, traces.get(str(row[TRIAL_TAG]), ()))
                if supersedes(run, new.get(run.trial_id) or self._known.get(run.trial_id)):
                    new[run.trial_id] = run
            with self._reported():
                self._write(list(new.values()))
            num_written += len(new)
        return num_written

    def add_artifacts(self, paths: Sequence[Path]) -> None:
        """Copy files onto the sweep's run; a file of the same name is replaced."""
        with self._reported():
            if paths and self._own_database is not None:
                check_artifacts(self._client.get_run(self._parent.run_id).info.artifact_uri, self._own_database)
            for path in paths:
                self._client.log_artifact(self._parent.run_id, str(path))
                self._progress()

    def close(self, *, finished: bool, summary: Mapping[str, float] = NO_SUMMARY) -> None:
        """End the sweep's run as FINISHED or KILLED, with `summary` as its metrics."""
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        with self._reported():
            metrics = [Metric(name, float(value), now_ms, 0) for name, value in summary.items()]
            self._client.log_batch(self._parent.run_id, metrics=metrics)
            self._client.set_terminated(self._parent.run_id, FINISHED if finished else "KILLED", now_ms)

    def _write(self, runs: Sequence[ChildRun]) -> None:
        for run in runs:
            if old := self._known.pop(run.trial_id, None):
                self._client.delete_run(old.run_id)
        for written in self._insert(runs):
            self._known[written.trial_id] = written
        self._progress()

    def _insert(self, runs: Sequence[ChildRun]) -> Iterable[KnownRun]:
        if self._fast is not None:
            try:
                return self._fast.insert(self._parent, runs)
            except UnknownSchemaError:
                self._fast = None  # the client is slow, but knows every version of its database
        return self._by_client.insert(self._parent, runs)

    def _find_experiment(self, artifact_root: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return str(self._client.create_experiment(EXPERIMENT, artifact_root))
            except MlflowException:  # did another driver create it at the same moment?
                experiment = self._client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find_children(self) -> dict[str, KnownRun]:
        """The sweep's runs by trial_id; of two runs of one trial, left by two drivers at once, one is deleted."""
        known: dict[str, KnownRun] = {}
        lesser: list[str] = []
        for run in (self._fast or self._by_client).children(self._parent):
            rival = known.get(run.trial_id)
            if supersedes(run, rival):
                known[run.trial_id] = run
            if rival is not None:
                lesser.append((rival if known[run.trial_id] is run else run).run_id)
        for run_id in lesser:
            self._client.delete_run(run_id)
            self._progress()
        return known

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Raise MLflow's failures as `MlflowUnavailable`, and drop its log lines."""
        try:
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError
        except (ImportError, ValueError) as error:
            raise MlflowUnavailable(one_line(f"MLflow cannot be imported: {error}: see variables MLFLOW_*")) from error

        try:
            with quiet():
                yield
        # a ValueError: a variable MLFLOW_*, or a part of the URI, that is no number
        except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError, ValueError) as error:
            raise MlflowUnavailable(one_line(f"MLflow: {reason(error)} ({self.tracking_uri})")) from error


def _fast_runs(database: Path | None, experiment_id: str, artifact_root: str) -> SqliteRuns | None:
    if database is None:
        return None
    try:
        runs = SqliteRuns(database, experiment_id)
    except UnknownSchemaError:
        return None
    runs.move_artifacts(artifact_root)
    return runs
