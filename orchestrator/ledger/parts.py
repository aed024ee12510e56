"""Reads one part of the ledger, and says why a part cannot be read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import LedgerError, StoreError
from orchestrator.ledger import schema as rules
from orchestrator.ledger.schema import TableName
from orchestrator.ledger.sealed_parquet import SealedParquet
from orchestrator.ledger.storage import STORE_REMEDY, Storage, is_store_fault, reason
from trainables.atomic_files import is_absent

_T = TypeVar("_T")


def read_part(
    storage: Storage, part: str, table: TableName, schema: pa.Schema, trial_ids: Sequence[str] | None
) -> pa.Table:
    """The rows of a part, in `schema`: columns missing in the file are null, unknown columns are left out.

    Raises `LedgerError` if the part cannot be read or is foreign, FileNotFoundError if it does not exist.
    """
    rows = read_or_name(storage, part, lambda file: _rows(file, part, table, schema, trial_ids))
    if trial_ids is None:
        return rows
    return rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(trial_ids, pa.string())))


def count_rows(storage: Storage, part: str) -> int:
    """Number of rows of a part, read from its footer; raises as `read_part` does."""
    return read_or_name(storage, part, lambda file: int(file.metadata.num_rows))


def read_or_name(storage: Storage, part: str, read: Callable[[SealedParquet], _T]) -> _T:
    """What `read` makes of the file; raises `LedgerError` that names it, or FileNotFoundError if it does not exist."""

    def opened() -> _T:
        with storage.files.open_input_file(part) as file:
            return read(SealedParquet(file))

    try:
        return storage.patiently(opened)
    except (OSError, pa.ArrowException) as error:
        if is_absent(error):
            raise FileNotFoundError(part) from None
        raise unreadable(part, error) from None


def _rows(
    file: SealedParquet, part: str, table: TableName, schema: pa.Schema, trial_ids: Sequence[str] | None
) -> pa.Table:
    """The rows of the row groups that may contain the trials, in `schema`."""
    fault = rules.fault_of_marker(file.schema.metadata, table)
    if fault:
        raise bad_part(part, fault)
    present = set(file.schema.names)
    names = [name for name in schema.names if name in present]
    rows = file.read(_row_groups(file.metadata, trial_ids), names).replace_schema_metadata(None)
    return pa.concat_tables([pa.Table.from_batches([], schema), rows], promote_options="default")


def _row_groups(metadata: pq.FileMetaData, trial_ids: Sequence[str] | None) -> list[int]:
    """The row groups that may contain one of `trial_ids`, which are sorted, as the rows of compacted parts are."""
    numbers = range(metadata.num_row_groups)
    if trial_ids is None:
        return list(numbers)
    held = []
    for number in numbers:
        ids: Any = metadata.row_group(number).column(0).statistics
        nearest = bisect_left(trial_ids, ids.min)
        if nearest < len(trial_ids) and trial_ids[nearest] <= ids.max:
            held.append(number)
    return held


def unreadable(part: str, error: BaseException) -> LedgerError:
    """The error for a part that could not be read: the store failed, or the file is damaged."""
    if is_store_fault(error):
        return StoreError(f"cannot read {part} ({reason(error)}); {STORE_REMEDY}")
    if getattr(error, "errno", None):
        return StoreError(f"cannot read {part} ({reason(error)})")
    return bad_part(part, f"is truncated, damaged or not a Parquet file ({reason(error)})")


def bad_part(part: str, fault: str) -> LedgerError:
    """The error that names a part, what is wrong with it, and the remedy."""
    return LedgerError(f"{part} {fault}; move it out of the ledger or delete it; its trials are then trained again")
