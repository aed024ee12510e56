"""Writes child runs straight into MLflow's SQLite database, many in one transaction: 10 times as fast as its client.

MLflow's client builds an object for each of a run's 600 metric points, about 80 ms of processor time a run, which the
driver does not have while it feeds a sweep. This module knows five tables of MLflow and refuses a database in which
they have other columns than it knows (`UnknownSchemaError`); the caller then uses the client. It is used only for the
view under the output folder. That view can be rebuilt from Parquet, so a write does not wait for the disk.
"""

from __future__ import annotations

import math
import sqlite3
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from orchestrator.mlflow_view.runs import KNOWN_TAGS, PARENT_TAG, TRIAL_OF_TAG, ChildRun, KnownRun, SweepRun, known_run

_TABLES = {
    "runs": (
        *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time"),
        *("end_time", "deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
    ),
    "tags": ("key", "value", "run_uuid"),
    "params": ("key", "value", "run_uuid"),
    "metrics": ("key", "value", "timestamp", "step", "is_nan", "run_uuid"),
    "latest_metrics": ("key", "value", "timestamp", "step", "is_nan", "run_uuid"),
}
BUSY_SECONDS = 20.0
"""How long another process may hold the lock of a SQLite database; MLflow waits as long."""

_TABLES_DIFFER = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
"""SQLite's codes for statements that do not fit the tables; any other code is about the file or the disk."""

_ADOPT = """
    UPDATE tags SET value = ? WHERE key = ? AND value <> ?
    AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)
    AND run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = ?)
"""
_CHILDREN = """
    SELECT runs.run_uuid, runs.status, runs.end_time, trial.value, stopped.value, attempt.value, driver.value
    FROM tags AS parent
    JOIN runs ON runs.run_uuid = parent.run_uuid AND runs.lifecycle_stage = 'active'
    JOIN tags AS trial ON trial.run_uuid = parent.run_uuid AND trial.key = ?
    LEFT JOIN tags AS stopped ON stopped.run_uuid = parent.run_uuid AND stopped.key = ?
    LEFT JOIN tags AS attempt ON attempt.run_uuid = parent.run_uuid AND attempt.key = ?
    LEFT JOIN tags AS driver ON driver.run_uuid = parent.run_uuid AND driver.key = ?
    WHERE parent.key = ? AND parent.value = ?
    ORDER BY runs.start_time, runs.run_uuid
"""


class UnknownSchemaError(Exception):
    """The database's tables are not the ones that this module knows."""


class SqliteRuns:
    """Reads and writes the child runs of one experiment in a local MLflow database.

    Raises `UnknownSchemaError` for another schema, and sqlite3's errors if the file or the disk fails.
    """

    def __init__(self, database: Path, experiment_id: str) -> None:
        self._database, self._experiment_id = database, experiment_id
        with self._transaction() as connection:
            for table, columns in _TABLES.items():
                found = {column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
                if found != set(columns):
                    raise UnknownSchemaError(f"{database}: table {table} has columns {sorted(found)}")

    def children(self, parent: SweepRun) -> list[KnownRun]:
        """Active runs of the sweep's trials, oldest first; those that are not under `parent` are moved there."""
        wanted = (PARENT_TAG, parent.run_id, TRIAL_OF_TAG, parent.sweep, int(self._experiment_id))
        with self._transaction() as connection:
            connection.execute(_ADOPT, (parent.run_id, *wanted))
            found = connection.execute(_CHILDREN, (*KNOWN_TAGS, PARENT_TAG, parent.run_id))
            return [
                known_run(run_id, status, end_ms, _present(zip(KNOWN_TAGS, values, strict=True)))
                for run_id, status, end_ms, *values in found
            ]

    def insert(self, parent: SweepRun, runs: Sequence[ChildRun]) -> list[KnownRun]:
        """Write the runs with everything in them, all or none.

        Raises `UnknownSchemaError` if they do not fit the tables.
        """
        try:
            return self._insert(parent, runs)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _TABLES_DIFFER:
                raise UnknownSchemaError(str(error)) from error
            raise

    def _insert(self, parent: SweepRun, runs: Sequence[ChildRun]) -> list[KnownRun]:
        written = []
        with self._transaction() as connection:
            artifacts = self._artifact_location(connection)
            for run in runs:
                run_id = uuid.uuid4().hex
                _insert_run(
                    connection,
                    run,
                    run_id=run_id,
                    parent=parent,
                    artifact_uri=f"{artifacts}/{run_id}/artifacts",
                    experiment_id=self._experiment_id,
                )
                written.append(run.known(run_id))
        return written

    def move_artifacts(self, location: str) -> None:
        """Point the runs to artifacts under `location`: the output folder may have moved since they were written."""
        with self._transaction() as connection:
            old = self._artifact_location(connection)
            if old == location:
                return
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE experiment_id = ?",
                (location, len(old) + 1, self._experiment_id),
            )
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (location, self._experiment_id)
            )

    def _artifact_location(self, connection: sqlite3.Connection) -> str:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
        (location,) = connection.execute(query, (self._experiment_id,)).fetchone()
        return str(location)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        address = (
            f"{self._database.absolute().as_uri()}?mode=rw"  # a database deleted meanwhile is not created again, empty
        )
        with closing(sqlite3.connect(address, timeout=BUSY_SECONDS, isolation_level=None, uri=True)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -16384")  # in KiB: most of a batch's pages stay in memory
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _present(tags: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """The tags that a run has."""
    return {name: value for name, value in tags if value is not None}


def _insert_run(
    connection: sqlite3.Connection, run: ChildRun, run_id: str, parent: SweepRun, artifact_uri: str, experiment_id: str
) -> None:
    """The rows that `MlflowClient` writes for create_run, log_batch and set_terminated."""
    run_row = (run_id, run.name, "UNKNOWN", "", "", "unknown", run.status, run.start_ms, run.end_ms, None, "", "active")
    _insert(connection, "runs", [(*run_row, artifact_uri, int(experiment_id))])
    tags = {**run.tags, **parent.child_tags, "mlflow.runName": run.name}
    _insert(connection, "tags", ((key, value, run_id) for key, value in tags.items()))
    _insert(connection, "params", ((key, value, run_id) for key, value in run.params.items()))
    metrics = []
    for (key, step), value in run.points.items():
        number, is_nan = _stored(value)
        metrics.append((key, number, run.end_ms, step, is_nan, run_id))
    _insert(connection, "metrics", metrics)
    latest = {metric[0]: metric for metric in sorted(metrics, key=lambda metric: metric[3])}
    _insert(connection, "latest_metrics", latest.values())


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = _TABLES[table]
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", rows)


def _stored(value: float) -> tuple[float, bool]:
    """A metric's value as MLflow stores it, without nan or infinity, and whether it was nan."""
    if math.isnan(value):
        return 0.0, True
    return max(-sys.float_info.max, min(value, sys.float_info.max)), False
