"""The rows of the ledger: columns derived from the result types, our files' marker, and which row of a trial stands.

Every column is nullable in the files, so that a part written before a column existed reads with nulls in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainables.config import TrialConfig
from trainables.result import RESULT_COLUMNS, SATISFYING, Outcome, Provenance, TracePoint, TrialResult

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
"""Bump when parts written so far can no longer be read."""

_MARKER = b"lambda_atlas"
_TRIAL_NAMES = {"trial_id": str, "trajectory_id": str, "workload_version": int}


class TableName(StrEnum):
    """The two tables, and the folders that they lie in."""

    TRIALS = "trials"
    TRACES = "traces"


ASKS = "asks"
"""Folder of the points that searches asked."""

ATTEMPT_KEY = ("trial_id", "attempt", "finished_at", "driver_id")
"""Columns of both tables that together name one attempt at a trial."""

RANK_COLUMNS = (*ATTEMPT_KEY, "outcome", "epochs_done", "num_epochs")
"""Columns that decide which row of a trial stands."""

SETTLING_COLUMNS = ("trial_id", "outcome", "epochs_done", "num_epochs")
"""Columns that tell whether a row settles its trial, and for whom."""

UNIQUE_BY = {TableName.TRIALS: ("trial_id",), TableName.TRACES: ("trial_id", "epoch")}
"""Columns that name one row of a table, once only the attempts that stand are left."""


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
    """The column type of a field; a constant (`workload`) is dictionary-encoded, as readers type the folder's name."""
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
    """The rows with these values in all of them."""
    for name, value in values.items():
        position = rows.schema.get_field_index(name)
        field = rows.schema.field(position)
        rows = rows.set_column(position, field, pa.array([value] * rows.num_rows, field.type))
    return rows


def fault_of_marker(metadata: Mapping[bytes, bytes] | None, table: str) -> str | None:
    """What is wrong with a part by its schema's metadata, or None."""
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
    """The ledger's row of a result: what the trial gave back, and who wrote it."""
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


def satisfying(rows: pa.Table) -> pa.BooleanArray:
    """Mask of the rows whose outcome settles their config."""
    # A pattern and not a list of values: making an Arrow array or scalar imports pandas, half a second of every plan.
    return pc.match_substring_regex(rows["outcome"], pattern=f"^({'|'.join(sorted(SATISFYING))})$")


# `TrialResult.was_stopped` for each kind of rows: the ledger's, a figure's or a table's, and a single one.


def stopped(rows: pa.Table) -> pa.BooleanArray:
    """Mask of the trials that were stopped for their certificate: stuck before the last epoch."""
    is_stuck = pc.match_substring_regex(rows["outcome"], pattern=f"^{Outcome.STUCK}$")
    return pc.and_(is_stuck, pc.less(rows["epochs_done"], rows["num_epochs"]))


def stopped_trials(trials: pd.DataFrame) -> pd.Series[bool]:
    """`stopped` of a data frame."""
    return (trials["outcome"] == Outcome.STUCK) & (trials["epochs_done"] < trials["num_epochs"])


def stopped_row(row: Mapping[str, Any]) -> bool:
    """`stopped` of one row."""
    return bool(row["outcome"] == Outcome.STUCK and row["epochs_done"] < row["num_epochs"])


class Ending(IntEnum):
    """How far an attempt came; the furthest of a trial's attempts stands."""

    OPEN = 0
    """Failed, pruned or unfinished: the trial is not settled."""
    STOPPED = 1
    """Stopped for its certificate."""
    ENDED = 2
    """Ran to its last epoch, or diverged."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What decides which of a trial's attempts stands; `finished_at` in any unit."""

    ending: Ending
    number: int
    finished_at: float
    driver_id: str

    def stands_before(self, other: Attempt) -> bool:
        """The rule on duplicates, for two attempts at one trial; `standing` is the same for a table.

        The one that came further wins: to its end, then to a certificate. Among such equals the earliest `finished_at`
        wins (what was read once stays true), then the smaller `driver_id`. Among attempts that settle nothing the
        highest number wins, then the latest `finished_at`, then the greater `driver_id`.
        """
        if self.ending is not other.ending:
            return self.ending > other.ending
        if self.ending is Ending.OPEN:
            return self._last_tried > other._last_tried
        return self._first_settled < other._first_settled

    @property
    def _first_settled(self) -> tuple[float, str, int]:
        return self.finished_at, self.driver_id, self.number

    @property
    def _last_tried(self) -> tuple[int, float, str]:
        return self.number, self.finished_at, self.driver_id


def standing(rows: pa.Table) -> npt.NDArray[np.int64]:
    """Positions, ascending, of the one row of each trial that counts; needs `RANK_COLUMNS`.

    The rule is `Attempt.stands_before`, here for all rows at once. The order is total over attempts, so all readers and
    all compactions agree on the winner whatever order they see the rows in.
    """
    codes = rows["trial_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    contested = np.bincount(codes)[codes] > 1 if len(codes) else np.zeros(0, dtype=bool)
    positions = np.flatnonzero(contested)
    rivals = rows.select(list(RANK_COLUMNS)).take(positions).append_column("position", pa.array(positions))
    settled, early = satisfying(rivals), stopped(rivals)
    first_settled = ("finished_at", "driver_id", "attempt")
    last_tried = ("attempt", "finished_at", "driver_id")
    ranked = np.concatenate(
        [
            *(
                rivals.filter(rank).sort_by([(name, "ascending") for name in first_settled])["position"].to_numpy()
                for rank in (pc.and_not(settled, early), early)
            ),
            rivals.filter(pc.invert(settled))
            .sort_by([(name, "descending") for name in last_tried])["position"]
            .to_numpy(),
        ]
    )
    _, first = np.unique(codes[ranked], return_index=True)
    return np.sort(np.concatenate([np.flatnonzero(~contested), ranked[first]]))


def worth_keeping(rows: pa.Table, driver_id: str) -> pa.Table:
    """Of all drivers' rows, those of one driver that its compaction keeps: at most one for each trial.

    A row that loses against another driver's that ran to its end goes; as the winner is the same for everyone, it is
    never dropped itself, even when all drivers compact at once. A stopped winner displaces no row of another driver:
    not every reader accepts it.
    """
    winners = rows.take(standing(rows))
    this_driver = pa.scalar(driver_id)
    ended = pc.and_not(satisfying(winners), stopped(winners))
    others = pc.and_(ended, pc.not_equal(winners["driver_id"], this_driver))
    own = rows.filter(pc.equal(rows["driver_id"], this_driver))
    own = own.take(standing(own))
    return without(own, winners.filter(others))


def without(rows: pa.Table, others: pa.Table) -> pa.Table:
    """The rows whose trial has no row among `others`."""
    return rows.filter(pc.invert(pc.is_in(rows["trial_id"], value_set=others["trial_id"].combine_chunks())))


def of_attempts(rows: pa.Table, attempts: pa.Table) -> pa.Table:
    """The rows of either table that belong to `attempts`, which name one attempt for each trial."""
    if rows.num_rows < attempts.num_rows:  # one of a large ledger's many groups: no table of all trials for each
        ids = pc.unique(rows["trial_id"])
        attempts = attempts.filter(pc.is_in(attempts["trial_id"], value_set=ids))
    at = pc.index_in(rows["trial_id"], value_set=attempts["trial_id"].combine_chunks())
    belongs = pc.is_valid(at)
    for name in ATTEMPT_KEY[1:]:
        belongs = pc.and_(belongs, pc.equal(rows[name], attempts[name].combine_chunks().take(at)))
    return rows.filter(belongs)


def sorted_once(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows sorted by `names`, one of each; an interrupted compaction leaves equal rows behind."""
    rows = rows.sort_by([(name, "ascending") for name in names])
    if rows.num_rows < 2:
        return rows
    is_new = np.zeros(rows.num_rows, dtype=bool)
    is_new[0] = True
    for name in names:
        column = rows[name].combine_chunks()
        is_new[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return rows if is_new.all() else rows.filter(pa.array(is_new))
