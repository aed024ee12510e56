"""Derives the ledger's columns from the result types, and marks its files as lambda-atlas's.

Every column is nullable, so that a part written before a column existed is read with nulls in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa

from trainables.config import TrialConfig
from trainables.registry import workload as find_workload
from trainables.result import RESULT_COLUMNS, Provenance, TracePoint, TrialResult

FORMAT_VERSION = 1
"""Increase this when older parts can no longer be read."""

_MARKER = b"lambda_atlas"
_TRIAL_NAMES = {"trial_id": str, "trajectory_id": str, "workload_version": int}


class TableName(StrEnum):
    """The two tables, and the names of their folders."""

    TRIALS = "trials"
    TRACES = "traces"


ASKS = "asks"
"""Folder of the points that searches asked, and the table name in those files' marker."""

ATTEMPT_KEY = ("trial_id", "attempt", "finished_at", "driver_id")
"""Columns of both tables that together identify one attempt at a trial."""


UNIQUE_BY = {TableName.TRIALS: ("trial_id",), TableName.TRACES: ("trial_id", "epoch")}
"""Columns that identify a row of a table in which each trial has one attempt."""


def trial_schema(config_type: type[TrialConfig], trace_point_type: type[TracePoint]) -> pa.Schema:
    """Columns of a trial in the order of `TrialResult.trial_row`, then `driver_id`."""
    result, point = get_type_hints(TrialResult), get_type_hints(trace_point_type)
    columns: dict[str, Any] = {
        **_TRIAL_NAMES,
        **{name: field.annotation for name, field in config_type.model_fields.items()},
        **{name: result[name] for name in RESULT_COLUMNS},
        **{f.name: point[f.name] for f in fields(trace_point_type) if f.name != "epoch"},
        **get_type_hints(Provenance),
        "driver_id": str,
    }
    return _schema(TableName.TRIALS, columns)


def trace_schema(trace_point_type: type[TracePoint]) -> pa.Schema:
    """Columns of a trace point, and the attempt that it belongs to."""
    result, point = get_type_hints(TrialResult), get_type_hints(trace_point_type)
    columns: dict[str, Any] = {
        "trial_id": str,
        **{f.name: point[f.name] for f in fields(trace_point_type)},
        **{name: result.get(name, str) for name in ATTEMPT_KEY[1:]},
    }
    return _schema(TableName.TRACES, columns)


def _schema(table: TableName, columns: Mapping[str, Any]) -> pa.Schema:
    marker: dict[bytes | str, bytes | str] = {_MARKER: f"{table}/{FORMAT_VERSION}".encode()}
    return pa.schema([(name, _arrow_type(annotation)) for name, annotation in columns.items()], metadata=marker)


def _arrow_type(annotation: Any) -> pa.DataType:
    """The column type of a field. A constant (`workload`) is dictionary-encoded, as readers type the folder's name."""
    if get_origin(annotation) is Literal:
        return pa.dictionary(pa.int32(), pa.string())
    (plain,) = [part for part in get_args(annotation) if part is not NoneType] or [annotation]
    for python_type, arrow_type in ((str, pa.string()), (bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        if issubclass(plain, python_type):
            return arrow_type
    raise TypeError(f"no column type for a field of type {annotation!r}")


def asks_marker() -> dict[bytes, bytes]:
    """Schema metadata of a file of asks."""
    return {_MARKER: f"{ASKS}/{FORMAT_VERSION}".encode()}


def with_values(rows: pa.Table, values: Mapping[str, Any]) -> pa.Table:
    """The rows, with each of these columns set to one value."""
    for name, value in values.items():
        position = rows.schema.get_field_index(name)
        field = rows.schema.field(position)
        rows = rows.set_column(position, field, pa.array([value] * rows.num_rows, field.type))
    return rows


def fault_of_marker(metadata: Mapping[bytes, bytes] | None, table: str) -> str | None:
    """What is wrong with a part according to its schema's metadata, or None."""
    marker = (metadata or {}).get(_MARKER, b"").decode(errors="replace")
    if not marker:
        return "is a Parquet file that lambda-atlas did not write"
    name, _, version = marker.partition("/")
    if name != table:
        return f"belongs to the table {name!r}, not to {str(table)!r}"
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        return f"has format {version}, and this version of lambda-atlas reads up to {FORMAT_VERSION}"
    return None


def trial_row(result: TrialResult, driver_id: str) -> dict[str, Any]:
    """The ledger's row of a result: the trial's row, and the driver that wrote it."""
    return {**result.trial_row(), "driver_id": driver_id}


def trial_table(results: Sequence[TrialResult], schema: pa.Schema, driver_id: str) -> pa.Table:
    """One row for each result."""
    return pa.Table.from_pylist([trial_row(result, driver_id) for result in results], schema=schema)


def trace_table(results: Sequence[TrialResult], trials: pa.Table, schema: pa.Schema) -> pa.Table:
    """One row for each trace point of each result; `trials` are the rows of `results`."""
    points = [point for result in results for point in result.trace]
    owners = np.repeat(np.arange(len(results)), [len(result.trace) for result in results])
    keys = trials.select(list(ATTEMPT_KEY)).take(owners)
    columns: dict[str, Any] = {name: keys[name] for name in ATTEMPT_KEY}
    for name in schema.names:
        if name not in columns:
            columns[name] = [getattr(point, name) for point in points]
    return pa.table(columns, schema=schema)


@cache
def schema_of(table: TableName, workload: str) -> pa.Schema:
    """Columns of a table for that workload."""
    found = find_workload(workload)
    if table is TableName.TRACES:
        return trace_schema(found.trace_point_type)
    return trial_schema(found.config_type, found.trace_point_type)
