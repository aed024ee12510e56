"""Writes the MLflow view of the ledger: a parent run for each sweep, a child run for each trial.

The view may fail or be deleted, and can be rebuilt from the ledger's rows; a sweep never waits for it. This is the only
module that imports mlflow, and it does so when a view is opened: the import alone takes seconds. MLflow's tracking URI,
active runs and log levels stay as they are. Environment variables that the user has not set are set for this process:
`MLFLOW_DISABLE_TELEMETRY`, and for a server also few retries, a short timeout and no printed links.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.mlflow_view.connection import (
    SQLITE,
    MlflowUnavailable,
    creation_lock,
    local_database,
    one_line,
    quiet,
    set_environment,
)
from orchestrator.mlflow_view.runs import (
    FINISHED,
    PARENT_TAG,
    RUNNING,
    TRIAL_TAG,
    ChildRun,
    KnownRun,
    child_run,
    is_final,
    known_run,
    supersedes,
)
from orchestrator.mlflow_view.sqlite import SqliteRuns, UnknownSchemaError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "lambda-atlas"
SWEEP_TAG = "lambda_atlas.sweep"
"""Marks a parent run with its sweep's name."""

Row = Mapping[str, Any]
Traces = Mapping[str, Sequence[Row]]

_BATCH_RUNS = 100
_PAGE_RUNS = 1000
NO_SUMMARY: Mapping[str, float] = MappingProxyType({})


class MlflowView:
    """The runs of one sweep; adding a trial twice gives one run, and a half-written run is written again.

    `tracking_uri` is MLflow's. A database that does not exist is created, by one process at a time. A local SQLite
    database keeps artifacts in `artifact_root`, by default `mlflow-artifacts` beside it. The constructor and every
    method raise `MlflowUnavailable` within seconds when MLflow cannot be reached.
    """

    def __init__(self, tracking_uri: str, sweep: str, title: str, artifact_root: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._sweep = sweep
        self._database = local_database(tracking_uri)
        if artifact_root is None and self._database is not None:
            artifact_root = str(self._database.parent / "mlflow-artifacts")
        set_environment(tracking_uri)
        self._fast: SqliteRuns | None = None
        with self._reported():
            with creation_lock(tracking_uri):
                self._client = _open_client(tracking_uri, self._database, artifact_root)
                self._experiment_id = self._find_experiment(artifact_root)
                self._parent_id = self._find_parent(title)
            if self._database is not None and tracking_uri != os.environ.get("MLFLOW_TRACKING_URI"):
                self._fast = _fast_runs(self._database, self._experiment_id, artifact_root)
            self._known = self._find_children()

    def present(self) -> set[str]:
        """Trials that have a complete run which nothing replaces: not failed, not pruned, not stopped early."""
        return {run.trial_id for run in self._known.values() if is_final(run)}

    def add(self, rows: Sequence[Row], traces: Traces) -> int:
        """Write the trials' runs that MLflow lacks, or that replace a run which it has; returns their number.

        `rows` are flat rows as the ledger has them (`Ledger.row`), `traces` flat trace rows by trial_id.
        """
        new: dict[str, ChildRun] = {}
        for row in rows:
            run = child_run(row, traces.get(str(row[TRIAL_TAG]), ()))
            if supersedes(run, new.get(run.trial_id) or self._known.get(run.trial_id)):
                new[run.trial_id] = run
        runs = list(new.values())
        with self._reported():
            for start in range(0, len(runs), _BATCH_RUNS):
                self._write(runs[start : start + _BATCH_RUNS])
        return len(runs)

    def add_artifacts(self, paths: Sequence[Path]) -> None:
        """Copy files onto the sweep's run; a file of the same name is replaced."""
        with self._reported():
            for path in paths:
                self._client.log_artifact(self._parent_id, str(path))

    def close(self, *, finished: bool, summary: Mapping[str, float] = NO_SUMMARY) -> None:
        """End the sweep's run as FINISHED or KILLED, with `summary` as its metrics."""
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        with self._reported():
            metrics = [Metric(name, float(value), now_ms, 0) for name, value in summary.items()]
            self._client.log_batch(self._parent_id, metrics=metrics)
            self._client.set_terminated(self._parent_id, FINISHED if finished else "KILLED", now_ms)

    def _write(self, runs: Sequence[ChildRun]) -> None:
        for run in runs:
            if old := self._known.pop(run.trial_id, None):
                self._client.delete_run(old.run_id)
        if self._fast is not None:
            try:
                self._remember(self._fast.insert(self._parent_id, runs))
                return
            except sqlite3.Error:
                self._fast = None  # the client is slow, but knows every version of its database
        for run in runs:
            self._remember([self._write_by_client(run)])

    def _remember(self, runs: Sequence[KnownRun]) -> None:
        self._known.update((run.trial_id, run) for run in runs)

    def _write_by_client(self, run: ChildRun) -> KnownRun:
        """Write in three requests; the last one sets the status, so a run without it is known as half-written."""
        from mlflow.entities import Metric, Param

        tags = {**run.tags, PARENT_TAG: self._parent_id}
        run_id = self._client.create_run(self._experiment_id, run.start_ms, tags, run.name).info.run_id
        metrics = [Metric(name, value, run.end_ms, step) for (name, step), value in run.points.items()]
        params = [Param(name, value) for name, value in run.params.items()]
        self._client.log_batch(run_id, metrics, params)
        self._client.set_terminated(run_id, run.status, run.end_ms)
        return run.known(run_id)

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

    def _find_parent(self, title: str) -> str:
        """The sweep's run, found by its tag or created, and running again."""
        tags = {SWEEP_TAG: self._sweep, "mlflow.note.content": title}
        found = self._search(f"tags.`{SWEEP_TAG}` = '{self._sweep}'")
        if not found:
            return str(self._client.create_run(self._experiment_id, tags=tags, run_name=self._sweep).info.run_id)
        parent_id = str(found[0].info.run_id)
        self._client.update_run(parent_id, status=RUNNING)
        return parent_id

    def _find_children(self) -> dict[str, KnownRun]:
        """The sweep's runs by trial_id; of two runs of one trial, left by two drivers at once, one is deleted."""
        known: dict[str, KnownRun] = {}
        for run in self._fast.children(self._parent_id) if self._fast else self._children_by_client():
            lesser: KnownRun | None = run
            if supersedes(run, known.get(run.trial_id)):
                lesser, known[run.trial_id] = known.get(run.trial_id), run
            if lesser is not None:
                self._client.delete_run(lesser.run_id)
        return known

    def _children_by_client(self) -> list[KnownRun]:
        return [
            known_run(run.info.run_id, run.info.status, run.info.end_time, run.data.tags)
            for run in self._search(f"tags.`{PARENT_TAG}` = '{self._parent_id}'")
            if TRIAL_TAG in run.data.tags
        ]

    def _search(self, condition: str) -> list[Any]:
        """Active runs of the experiment, oldest first."""
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                condition,
                max_results=_PAGE_RUNS,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Raise MLflow's failures as `MlflowUnavailable`, and drop its log lines."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with quiet():
                yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
            raise MlflowUnavailable(one_line(f"MLflow at {self.tracking_uri}: {error}")) from error


def _open_client(tracking_uri: str, database: Path | None, artifact_root: str | None) -> MlflowClient:
    from mlflow import MlflowClient

    if database is not None:
        if not database.exists():
            _create_database(database, str(artifact_root))
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            # MLflow would try for minutes to open a file that is not a database
            connection.execute("PRAGMA schema_version").fetchone()
    return MlflowClient(tracking_uri)


def _create_database(database: Path, artifact_root: str) -> None:
    """Create the tables under another name first: a driver killed meanwhile would leave a database half migrated."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    open_store: Callable[[str, str], Any] = SqlAlchemyStore
    draft = database.with_name(f"{database.name}.new")
    draft.unlink(missing_ok=True)
    open_store(f"{SQLITE}{draft}", artifact_root).engine.dispose()
    draft.replace(database)
    # MLflow keeps connections by URI; this process may hold some to a database of this name that was deleted since
    open_store(f"{SQLITE}{database}", artifact_root).engine.dispose()


def _fast_runs(database: Path, experiment_id: str, artifact_root: str | None) -> SqliteRuns | None:
    try:
        runs = SqliteRuns(database, experiment_id)
    except UnknownSchemaError:
        return None
    runs.move_artifacts(str(artifact_root))
    return runs
