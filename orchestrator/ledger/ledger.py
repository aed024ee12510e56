"""The Parquet truth: append, read, dedupe, compact.

`<root>/trials/workload=W/part-<driver>-<n>.parquet`, and the same under `traces/`; what searches asked is beside them
(`asks`). Rules that keep it true:

- A commit is one rename locally, one PUT on an object store; a part is never overwritten and never changes.
- An append writes its traces before its trials; a trace whose trial never came is ignored by readers.
- Part names carry the driver's id, and a driver compacts its own parts only: drivers share a ledger without a lock.
- Compaction writes merged parts before it deletes their sources; killed in between, it leaves duplicates, and readers
  count a trial once by `standing.standing`.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator.errors import LedgerError, unknown_name
from orchestrator.ledger import schema as rules
from orchestrator.ledger import standing
from orchestrator.ledger.asks import Asks
from orchestrator.ledger.parts import read_part
from orchestrator.ledger.schema import TableName
from orchestrator.ledger.standing import RANK_COLUMNS
from orchestrator.ledger.storage import Storage
from trainables.registry import workload as find_workload
from trainables.result import Outcome, TrialResult

ROWS_PER_PART = 250_000
"""Compaction merges up to about this many rows into one part, so that its memory stays bounded."""
ROWS_PER_GROUP = 16_384
"""Rows of a Parquet row group, the least that a look-up of one trial reads."""

_READERS = 16  # an object store answers slowly, but many at once
_LISTINGS = 10
_READS = 100
_WORKLOAD_FOLDER = "workload="


def new_driver_id() -> str:
    """A new id that sorts by time and is safe in file names: UTC time, host, process, random."""
    host = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:32]
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Ledger:
    """The ledger reads and writes all results under one folder or object-store URI.

    Any number of processes may write at once, and all methods are thread-safe. `trials` has one row for each trial,
    `traces` one for each trial and epoch, both as pyarrow tables. A folder that does not exist gives empty tables.

    Args:
        root: Folder or object-store URI (`s3://bucket/path`): the `out` of a launch.
        driver_id: The writer's name in files and rows, of letters, digits, `.`, `_` and `-`. None makes a new one.
        accept_certificates: Whether trials that were stopped for a certificate count. If not, they are not read, so a
            sweep trains them to their end.

    Raises:
        LedgerError: `root` cannot be opened, `driver_id` has other characters, or a file is truncated or not ours.

    Example:
        >>> from orchestrator import Ledger
        >>> from trainables import Member, config_from_values, workload
        >>> adam = {"optimizer": "adam", "weight_decay": 1e-5}
        >>> values = {"workload": "two_layer_cnn", **adam, "batch_size": 20, "seed": 0}
        >>> config = config_from_values({**values, "num_epochs": 5})
        >>> (report,) = workload("two_layer_cnn").open([Member(config, until_epoch=5)]).advance(seconds=60)
        >>> ledger = Ledger("results")
        >>> ledger.append([report.result])
        >>> ledger.trials("two_layer_cnn", columns=["optimizer", "epochs_done"]).to_pylist()
        [{'optimizer': 'adam', 'epochs_done': 5}]
        >>> ledger.traces("two_layer_cnn")["epoch"].to_pylist()[0]
        0
    """

    def __init__(self, root: str, driver_id: str | None = None, *, accept_certificates: bool = True) -> None:
        self._accepts = accept_certificates
        self.driver_id = driver_id or new_driver_id()
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.driver_id):
            raise LedgerError(f"a driver id has letters, digits, '.', '_', '-' only, got {self.driver_id!r}")
        self._storage = Storage(root)
        self.root, self._files, self._path = self._storage.root, self._storage.files, self._storage.path
        self.asks = Asks(self._storage, self.driver_id)
        self._own = re.compile(rf"part-{re.escape(self.driver_id)}-(\d+)\.parquet")
        self._lock = threading.RLock()
        self._last_number: dict[str, int] = {}

    def wait_for_store(self, seconds: float) -> None:
        """From now on ask an object store that does not answer again, for that long at most, before it is an error."""
        self._storage.patience_seconds = seconds

    def check_writable(self) -> None:
        """Create the folders and write a file into each; raises `LedgerError` in one line."""
        for table in TableName:
            probe = f"{self._path}/{table}/.probe-{self.driver_id}"
            self._storage.write(probe, pa.py_buffer(b"writable"))
            self._storage.delete(probe)

    def append(self, results: Sequence[TrialResult]) -> None:
        """Record results; they are durable and visible when this returns, all of one workload at the same moment."""
        by_workload: dict[str, list[TrialResult]] = defaultdict(list)
        for result in results:
            by_workload[result.config.workload].append(result)
        with self._lock:
            for name, group in by_workload.items():
                trials = rules.trial_table(group, _schema(TableName.TRIALS, name), self.driver_id)
                traces = rules.trace_table(group, trials, _schema(TableName.TRACES, name))
                if traces.num_rows:
                    self._commit(TableName.TRACES, name, traces)
                self._commit(TableName.TRIALS, name, trials)

    def row(self, result: TrialResult) -> dict[str, Any]:
        """The row that `append` records of a result; a view that takes it is the one that is rebuilt from the parts."""
        return rules.trial_row(result, self.driver_id)

    def trials(
        self, workload: str, *, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """One row for each trial; `LedgerError` for an unknown column."""
        names = _schema(TableName.TRIALS, workload).names
        wanted = names if columns is None else list(columns)
        for name in wanted:
            if name not in names:
                raise LedgerError(unknown_name("column", name, names))
        rows = self._accepted(self._read(TableName.TRIALS, workload, {*wanted, *RANK_COLUMNS}, trial_ids))
        stands = standing.standing(rows)
        rows = rows.select(wanted)
        return rows if len(stands) == rows.num_rows else rows.take(stands)

    def traces(self, workload: str, *, trial_ids: Collection[str] | None = None) -> pa.Table:
        """One row for each trial and epoch, sorted by them, of the attempts that `trials` shows."""
        attempts = self.trials(workload, trial_ids=trial_ids, columns=rules.ATTEMPT_KEY)
        rows = self._read(TableName.TRACES, workload, None, trial_ids)
        return standing.sorted_once(standing.of_attempts(rows, attempts), rules.UNIQUE_BY[TableName.TRACES])

    def settled(self, workload: str) -> set[str]:
        """Ids of the trials that need not run again."""
        rows = self._accepted(self._read(TableName.TRIALS, workload, standing.SETTLING_COLUMNS))
        ids: list[Any] = rows["trial_id"].filter(standing.satisfying(rows)).to_pylist()
        return set(ids)

    def attempts(self, workload: str) -> dict[str, int]:
        """The attempt number of each trial that is not settled: failed, unfinished or pruned."""
        rows = self.trials(workload, columns=("trial_id", "attempt", "outcome"))
        rows = rows.filter(pc.invert(standing.satisfying(rows)))
        return dict(zip(rows["trial_id"].to_numpy(), rows["attempt"].to_numpy().tolist(), strict=True))

    def failed(self, workload: str) -> set[str]:
        """Ids of the trials whose last attempt failed."""
        rows = self.trials(workload, columns=("trial_id", "outcome"))
        is_failed = pc.equal(rows["outcome"], pa.scalar(str(Outcome.FAILED)))
        ids: list[Any] = rows["trial_id"].filter(is_failed).to_pylist()
        return set(ids)

    def mark_pruned(self, workload: str, trial_ids: Collection[str]) -> list[str]:
        """Record of these unfinished trials that they were stopped; returns those that were not settled meanwhile."""
        rows = self.trials(workload, trial_ids=trial_ids)
        rows = rows.filter(pc.equal(rows["outcome"], pa.scalar(str(Outcome.UNFINISHED))))
        if not rows.num_rows:
            return []
        attempts = rows.select(list(rules.ATTEMPT_KEY))
        traces = standing.of_attempts(self._read(TableName.TRACES, workload, None, trial_ids), attempts)
        changed: dict[str, Any] = {"finished_at": time.time(), "driver_id": self.driver_id}
        with self._lock:
            self._commit(TableName.TRACES, workload, rules.with_values(traces, changed))
            self._commit(
                TableName.TRIALS, workload, rules.with_values(rows, {**changed, "outcome": str(Outcome.PRUNED)})
            )
        ids: list[Any] = rows["trial_id"].to_pylist()
        return ids

    def count_other_versions(self, workload: str, version: int) -> int:
        """Number of trials recorded under another version of the workload, which a version change left behind."""
        rows = self._read(TableName.TRIALS, workload, {"trial_id", "workload_version"})
        if rows["workload_version"].unique().to_pylist() in ([], [version]):
            return 0
        others = rows.filter(pc.not_equal(rows["workload_version"], pa.scalar(version)))
        return int(pc.count_distinct(others["trial_id"]).as_py())

    def compact(self) -> None:
        """Merge this driver's parts, without the rows that no reader needs; safe to kill and to repeat."""
        with self._lock:
            for name in self._workloads_of_driver():
                kept = standing.worth_keeping(self._read(TableName.TRIALS, name, set(RANK_COLUMNS)), self.driver_id)
                for table in TableName:
                    for part in self._merge(table, name, kept):
                        self._storage.delete(part)

    def _merge(self, table: TableName, workload: str, attempts: pa.Table) -> list[str]:
        """Commit the rows of `attempts` as sorted parts; the sources, now superfluous, are returned."""
        replaced: list[str] = []
        keys = {*rules.ATTEMPT_KEY, *rules.UNIQUE_BY[table]}
        for group in self._groups(table, workload):
            is_lone = len(group) == 1  # rewritten only if it loses rows, and a look at its keys tells
            live = self._live(group, table, workload, attempts, keys if is_lone else None)
            if not is_lone or live.num_rows < self._count_rows(group[0]):
                if live.num_rows:
                    rows = self._live(group, table, workload, attempts) if is_lone else live
                    self._commit(table, workload, rows)
                replaced += group
            # An interrupted compaction may have left an attempt in several groups; it belongs to the first.
            attempts = standing.without(attempts, live)
        return replaced

    def _live(
        self,
        parts: Sequence[str],
        table: TableName,
        workload: str,
        attempts: pa.Table,
        columns: Collection[str] | None = None,
    ) -> pa.Table:
        """The rows of `attempts` in some parts, sorted, each once."""
        rows = standing.of_attempts(self._scan(parts, table, workload, columns), attempts)
        return standing.sorted_once(rows, rules.UNIQUE_BY[table])

    def _groups(self, table: TableName, workload: str) -> Iterator[list[str]]:
        """This driver's parts in groups to be merged; large parts stay alone."""
        group: list[str] = []
        num_rows = 0
        for part in self._parts(table, workload):
            if not self._number(part):
                continue
            num_part = self._count_rows(part)
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

    def _accepted(self, rows: pa.Table) -> pa.Table:
        """The rows that this reader takes note of."""
        return rows if self._accepts else rows.filter(pc.invert(standing.stopped(rows)))

    def _read(
        self,
        table: TableName,
        workload: str,
        columns: Collection[str] | None = None,
        trial_ids: Collection[str] | None = None,
    ) -> pa.Table:
        """The rows of all parts, duplicates included."""
        for _ in range(_READS):
            try:
                return self._scan(self._parts(table, workload), table, workload, columns, trial_ids)
            except FileNotFoundError:
                continue  # another driver's compaction replaced the part after the listing
        raise LedgerError(f"parts of {self._folder(table, workload)} vanish while they are read; is it being deleted?")

    def _scan(
        self,
        parts: Sequence[str],
        table: TableName,
        workload: str,
        columns: Collection[str] | None = None,
        trial_ids: Collection[str] | None = None,
    ) -> pa.Table:
        schema = _schema(table, workload).remove_metadata()
        schema = pa.schema([field for field in schema if columns is None or field.name in columns])
        wanted = None if trial_ids is None else sorted(trial_ids)
        read = partial(read_part, self._storage, table=table, schema=schema, trial_ids=wanted)
        with ThreadPoolExecutor(_READERS) as pool:
            return pa.concat_tables([pa.Table.from_batches([], schema), *pool.map(read, parts)])

    def _commit(self, table: TableName, workload: str, rows: pa.Table) -> None:
        """Write one new part, whole or not at all."""
        sink = pa.BufferOutputStream()
        rows = rows.cast(_schema(table, workload))
        pq.write_table(rows, sink, row_group_size=ROWS_PER_GROUP, compression="zstd", write_statistics=["trial_id"])
        self._last_number[workload] = number = self._last(workload) + 1
        part = f"{self._folder(table, workload)}/part-{self.driver_id}-{number:06d}.parquet"
        if self._storage.exists(part):
            raise LedgerError(f"{part} exists already; another driver uses the id {self.driver_id!r}")
        self._storage.write(part, sink.getvalue())

    def _last(self, workload: str) -> int:
        """The highest number among this driver's parts."""
        if workload not in self._last_number:
            numbers = [self._number(part) for table in TableName for part in self._parts(table, workload)]
            self._last_number[workload] = max(numbers, default=0)
        return self._last_number[workload]

    def _number(self, part: str) -> int:
        """Number (from 1) of this driver's part, 0 for another's."""
        match = self._own.fullmatch(part.rpartition("/")[2])
        return int(match[1]) if match else 0

    def _count_rows(self, part: str) -> int:
        return int(self._storage.patiently(lambda: pq.read_metadata(part, filesystem=self._files)).num_rows)

    def _workloads_of_driver(self) -> list[str]:
        folders = [
            path for table in TableName for path in self._storage.list(f"{self._path}/{table}", pafs.FileType.Directory)
        ]
        names = {path.rpartition(f"/{_WORKLOAD_FOLDER}")[2] for path in folders if f"/{_WORKLOAD_FOLDER}" in path}
        return sorted(name for name in names if self._last(name))

    def _parts(self, table: TableName, workload: str) -> list[str]:
        """Paths of all drivers' parts, sorted.

        A listing is not atomic: while another driver compacts, one may miss both the merged part and its deleted
        sources. Two equal listings in a row rule that out.
        """
        folder = self._folder(table, workload)
        parts = self._storage.list(folder, pafs.FileType.File)
        for _ in range(_LISTINGS):
            previous, parts = parts, self._storage.list(folder, pafs.FileType.File)
            if parts == previous:
                break
        return [part for part in parts if part.endswith(".parquet")]

    def _folder(self, table: TableName, workload: str) -> str:
        return f"{self._path}/{table}/{_WORKLOAD_FOLDER}{workload}"


@cache
def _schema(table: TableName, workload: str) -> pa.Schema:
    found = find_workload(workload)
    if table is TableName.TRACES:
        return rules.trace_schema(found.trace_point_type)
    return rules.trial_schema(found.config_type, found.trace_point_type)
