"""Names, lists, reads and writes the part files of one ledger."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator.errors import LedgerError
from orchestrator.ledger.parts import count_rows, read_part
from orchestrator.ledger.schema import TableName, schema_of
from orchestrator.ledger.sealed_parquet import seal
from orchestrator.ledger.storage import Storage

ROWS_PER_GROUP = 16_384
"""Rows of a Parquet row group; a look-up of one trial reads at least one group."""

_READERS = 16  # an object store answers slowly, but many at once
_LISTINGS = 10
_READS = 100
WORKLOAD_FOLDER = "workload="
_checked: set[str] = set()
"""Parts whose footers this process has checked: they never change, and `status all` opens a folder for each sweep."""


class PartFiles:
    """Reads all drivers' parts, and writes one driver's own: `part-<driver>-<n>.parquet`, n from 1.

    Callers that write must hold a lock: part numbers are assigned here without one.
    """

    def __init__(self, storage: Storage, driver_id: str) -> None:
        self.storage, self.driver_id = storage, driver_id
        self._own = re.compile(rf"part-{re.escape(driver_id)}-(\d+)\.parquet")
        self._last_number: dict[str, int] = {}
        self._first_seen: dict[tuple[TableName, str], frozenset[str]] = {}

    def read(
        self,
        table: TableName,
        workload: str,
        columns: Collection[str] | None = None,
        trial_ids: Collection[str] | None = None,
    ) -> pa.Table:
        """The rows of all parts, duplicates included."""
        for _ in range(_READS):
            try:
                return self.scan(self.parts(table, workload), table, workload, columns, trial_ids)
            except FileNotFoundError:
                continue  # another driver's compaction replaced the part after the listing
        raise LedgerError(
            f"parts of {self._folder(table, workload)} keep disappearing while they are read: is someone deleting them?"
        )

    def scan(
        self,
        parts: Sequence[str],
        table: TableName,
        workload: str,
        columns: Collection[str] | None = None,
        trial_ids: Collection[str] | None = None,
    ) -> pa.Table:
        """The rows of these parts."""
        schema = schema_of(table, workload).remove_metadata()
        schema = pa.schema([field for field in schema if columns is None or field.name in columns])
        wanted = None if trial_ids is None else sorted(trial_ids)
        read = partial(read_part, self.storage, table=table, schema=schema, trial_ids=wanted)
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables([pa.Table.from_batches([], schema), *pool.map(read, parts)])

    def commit(self, table: TableName, workload: str, rows: pa.Table) -> None:
        """Write one new part, whole or not at all."""
        sink = pa.BufferOutputStream()
        rows = rows.cast(schema_of(table, workload))
        pq.write_table(
            rows,
            sink,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            write_statistics=["trial_id"],
            write_page_checksum=True,  # for readers that do not know our seal
        )
        self._last_number[workload] = number = self._last(workload) + 1
        part = f"{self._folder(table, workload)}/part-{self.driver_id}-{number:06d}.parquet"
        if self.storage.exists(part):
            raise LedgerError(f"{part} exists already; another driver uses the id {self.driver_id!r}")
        self.storage.write(part, seal(sink.getvalue()))

    def check_footers(self, table: TableName, workload: str) -> None:
        """Raise `LedgerError` for a part that does not end as a part does; what is in it is checked when it is read."""

        def check(part: str) -> None:
            with suppress(FileNotFoundError):  # compacted meanwhile
                count_rows(self.storage, part)
                _checked.add(f"{self.storage.root} {part}")

        new = [part for part in self.parts(table, workload) if f"{self.storage.root} {part}" not in _checked]
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(check, new))

    def delete(self, part: str) -> None:
        """Remove one part."""
        self.storage.delete(part)

    def count_rows(self, part: str) -> int:
        """Number of rows of a part, read from its footer."""
        return count_rows(self.storage, part)

    def own_parts(self, table: TableName, workload: str) -> list[str]:
        """Paths of this driver's parts, sorted."""
        return [part for part in self.parts(table, workload) if self._number(part)]

    def own_workloads(self) -> list[str]:
        """Workloads for which this driver has written parts."""
        path = self.storage.path
        folders = [
            folder for table in TableName for folder in self.storage.list(f"{path}/{table}", pafs.FileType.Directory)
        ]
        names = {folder.rpartition(f"/{WORKLOAD_FOLDER}")[2] for folder in folders if f"/{WORKLOAD_FOLDER}" in folder}
        return sorted(name for name in names if self._last(name))

    def parts(self, table: TableName, workload: str) -> list[str]:
        """Paths of all drivers' parts, sorted.

        A listing is not atomic: while another driver compacts, one may miss both the merged part and its deleted
        sources. Two equal listings in a row rule that out.
        """
        folder = self._folder(table, workload)
        parts = self.storage.list(folder, pafs.FileType.File)
        for _ in range(_LISTINGS):
            previous, parts = parts, self.storage.list(folder, pafs.FileType.File)
            if parts == previous:
                break
        found = [part for part in parts if part.endswith(".parquet")]
        self._first_seen.setdefault((table, workload), frozenset(found))
        return found

    def has_news(self, table: TableName, workload: str) -> bool:
        """Whether another driver has written a part since this object first listed the parts."""
        parts = self.parts(table, workload)
        first = self._first_seen[table, workload]
        return any(part not in first and not self._number(part) for part in parts)

    def _last(self, workload: str) -> int:
        """The highest number among this driver's parts."""
        if workload not in self._last_number:
            numbers = [self._number(part) for table in TableName for part in self.parts(table, workload)]
            self._last_number[workload] = max(numbers, default=0)
        return self._last_number[workload]

    def _number(self, part: str) -> int:
        """Number (from 1) of this driver's part, 0 for another's."""
        match = self._own.fullmatch(part.rpartition("/")[2])
        return int(match[1]) if match else 0

    def _folder(self, table: TableName, workload: str) -> str:
        return f"{self.storage.path}/{table}/{WORKLOAD_FOLDER}{workload}"
