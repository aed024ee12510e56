"""Merges one driver's parts into fewer ones, without the rows that no reader needs.

Merged parts are written before their sources are deleted. A compaction that is killed in between leaves duplicates,
which readers and the next compaction count once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from orchestrator.ledger import schema as rules
from orchestrator.ledger import standing
from orchestrator.ledger.part_files import PartFiles
from orchestrator.ledger.schema import TableName

ROWS_PER_PART = 250_000
"""Compaction merges up to about this many rows into one part, so that its memory stays bounded."""


def compact(files: PartFiles) -> None:
    """Merge the driver's parts; safe to kill and to repeat."""
    for workload in files.own_workloads():
        rows = files.read(TableName.TRIALS, workload, set(standing.RANK_COLUMNS))
        kept = standing.worth_keeping(rows, files.driver_id)
        for table in TableName:
            for part in _merge(files, table, workload, kept):
                files.delete(part)


def _merge(files: PartFiles, table: TableName, workload: str, attempts: pa.Table) -> list[str]:
    """Commit the rows of `attempts` as sorted parts, and return the source parts, which may now be deleted."""
    replaced: list[str] = []
    keys = {*rules.ATTEMPT_KEY, *rules.UNIQUE_BY[table]}
    for group in _groups(files, table, workload):
        is_lone = len(group) == 1  # rewritten only if it loses rows; its key columns suffice to tell
        live = _live(files, group, table, workload, attempts, keys if is_lone else None)
        if not is_lone or live.num_rows < files.count_rows(group[0]):
            if live.num_rows:
                rows = _live(files, group, table, workload, attempts) if is_lone else live
                files.commit(table, workload, rows)
            replaced += group
        # An interrupted compaction may have left an attempt in several groups; it belongs to the first.
        attempts = standing.without(attempts, live)
    return replaced


def _live(
    files: PartFiles,
    parts: Sequence[str],
    table: TableName,
    workload: str,
    attempts: pa.Table,
    columns: Collection[str] | None = None,
) -> pa.Table:
    """The rows of `attempts` in these parts, sorted, each once."""
    rows = standing.of_attempts(files.scan(parts, table, workload, columns), attempts)
    return standing.sorted_once(rows, rules.UNIQUE_BY[table])


def _groups(files: PartFiles, table: TableName, workload: str) -> Iterator[list[str]]:
    """The driver's parts in groups to merge; a large part is its own group."""
    group: list[str] = []
    num_rows = 0
    for part in files.own_parts(table, workload):
        num_part = files.count_rows(part)
        if num_part > ROWS_PER_PART // 2:
            yield [part]
            continue
        if num_rows + num_part > ROWS_PER_PART:
            yield group
            group, num_rows = [], 0
        group.append(part)
        num_rows += num_part
    if group:
        yield group
