"""Reads one part of the ledger, and says why a part cannot be read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator.errors import LedgerError
from orchestrator.ledger import schema as rules
from orchestrator.ledger.schema import TableName
from orchestrator.ledger.storage import STORE_REMEDY, Storage, is_store_fault, reason
from trainables.atomic_files import is_absent


def read_part(
    storage: Storage, part: str, table: TableName, schema: pa.Schema, trial_ids: Sequence[str] | None
) -> pa.Table:
    """The rows of a part, in `schema`: columns missing in the file are null, unknown columns are left out.

    Raises `LedgerError` if the part cannot be read or is foreign, FileNotFoundError if it does not exist.
    """
    try:
        rows = storage.patiently(lambda: _rows(storage.files, part, table, schema, trial_ids))
    except (OSError, pa.ArrowException) as error:
        if is_absent(error):
            raise FileNotFoundError(part) from None
        raise unreadable(part, error) from None
    if trial_ids is None:
        return rows
    return rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(trial_ids, pa.string())))


def _rows(
    files: pafs.FileSystem, part: str, table: TableName, schema: pa.Schema, trial_ids: Sequence[str] | None
) -> pa.Table:
    """The rows of the row groups that may contain the trials, in `schema`."""
    with pq.ParquetFile(part, filesystem=files) as file:
        own = file.schema_arrow  # once: each access builds the whole schema anew
        fault = rules.fault_of_marker(own.metadata, table)
        if fault:
            raise bad_part(part, fault)
        present = set(own.names)
        names = [name for name in schema.names if name in present]
        groups = _row_groups(file.metadata, trial_ids)
        rows = file.read_row_groups(groups, columns=names, use_threads=len(groups) > 1)
    rows = rows.replace_schema_metadata(None)
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
        return LedgerError(f"cannot read {part} ({reason(error)}); {STORE_REMEDY}")
    return bad_part(part, f"is truncated, damaged or not a Parquet file ({reason(error)})")


def bad_part(part: str, fault: str) -> LedgerError:
    """The error that names a part, what is wrong with it, and the remedy."""
    return LedgerError(f"{part} {fault}; move it out of the ledger or delete it; its trials are then trained again")
