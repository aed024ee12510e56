"""The ledger: appends results as Parquet files, reads them, counts duplicates once, and compacts.

Trials are in `<root>/trials/workload=W/part-<driver>-<n>.parquet`, traces likewise under `traces/`, the points that
searches asked under `asks/` (module `asks`), and the trials in training under `.claims/` (module `claims`). These rules
keep the ledger consistent:

- A commit is one rename locally, one PUT on an object store; a part is never overwritten and never changes.
- An append writes traces before trials; readers ignore a trace whose trial was never written.
- Part names contain the driver's id, and a driver compacts only its own parts, so drivers share a ledger without a
  lock.
- Compaction writes merged parts before it deletes their sources. If it is killed in between, duplicates remain, and
  readers count each trial once by `standing.standing`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import LedgerError, unknown_name
from orchestrator.ledger import schema as rules
from orchestrator.ledger import standing
from orchestrator.ledger.asks import Asks
from orchestrator.ledger.claims import Claims
from orchestrator.ledger.compaction import compact
from orchestrator.ledger.inspection import unused
from orchestrator.ledger.part_files import PartFiles
from orchestrator.ledger.schema import TableName, schema_of
from orchestrator.ledger.standing import RANK_COLUMNS
from orchestrator.ledger.storage import Storage
from trainables.result import Outcome, TrialResult

_logger = logging.getLogger(__name__)


def new_driver_id() -> str:
    """A new id that sorts by time and is safe in file names: UTC time, host, process, random."""
    host = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:32]
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Ledger:
    """The ledger reads and writes all results under one folder or object-store URI.

    Any number of processes may write at once, and all methods are thread-safe. `trials` has one row for each trial,
    `traces` one for each trial and epoch, both as pyarrow tables. If the folder does not exist, the tables are empty.

    Args:
        root: Folder or object-store URI (`s3://bucket/path`): the `out` of a launch.
        driver_id: The writer's name in files and rows, of letters, digits, `.`, `_` and `-`. None makes a new one.
        accept_certificates: Whether trials that were stopped for a certificate count. If not, they are not read, so a
            sweep trains them to their last epoch.

    Raises:
        LedgerError: `root` cannot be opened, `driver_id` has other characters, or a file is truncated or foreign.

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
        self.root = self._storage.root
        self.asks = Asks(self._storage, self.driver_id)
        self.claims = Claims(self._storage, self.driver_id)
        self._parts = PartFiles(self._storage, self.driver_id)
        self._lock = threading.RLock()

    def wait_for_store(self, seconds: float) -> None:
        """From now on repeat requests that an object store does not answer for up to `seconds` before they fail."""
        self._storage.patience_seconds = seconds

    def check_writable(self) -> None:
        """Create the folders, and write and delete a file in each; raises `LedgerError` if that fails."""
        for table in TableName:
            probe = f"{self._storage.path}/{table}/.probe-{self.driver_id}"
            self._storage.write(probe, pa.py_buffer(b"writable"))
            self._storage.delete(probe)

    def check_files(self, workload: str) -> None:
        """Warn of files that look like results and are not read; raises `LedgerError` for a trace part that was cut."""
        for found in unused(self._storage):
            _warn_once(found.path, found.why)
        self._parts.check_footers(TableName.TRACES, workload)

    def append(self, results: Sequence[TrialResult]) -> None:
        """Record results; they are durable when this returns, and those of one workload become visible at once.

        Raises `LedgerError` if this driver lost its claims: then other drivers train what it has not recorded.
        """
        self.claims.check()
        by_workload: dict[str, list[TrialResult]] = defaultdict(list)
        for result in results:
            by_workload[result.config.workload].append(result)
        with self._lock:
            for name, group in by_workload.items():
                trials = rules.trial_table(group, schema_of(TableName.TRIALS, name), self.driver_id)
                traces = rules.trace_table(group, trials, schema_of(TableName.TRACES, name))
                if traces.num_rows:
                    self._parts.commit(TableName.TRACES, name, traces)
                self._parts.commit(TableName.TRIALS, name, trials)

    def row(self, result: TrialResult) -> dict[str, Any]:
        """The row that `append` records for a result, so that a view of results equals one rebuilt from the parts."""
        return rules.trial_row(result, self.driver_id)

    def trials(
        self, workload: str, *, trial_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """One row for each trial; raises `LedgerError` for an unknown column."""
        names = schema_of(TableName.TRIALS, workload).names
        wanted = names if columns is None else list(columns)
        for name in wanted:
            if name not in names:
                raise LedgerError(unknown_name("column", name, names))
        rows = self._accepted(self._parts.read(TableName.TRIALS, workload, {*wanted, *RANK_COLUMNS}, trial_ids))
        stands = standing.standing(rows)
        rows = rows.select(wanted)
        return rows if len(stands) == rows.num_rows else rows.take(stands)

    def traces(self, workload: str, *, trial_ids: Collection[str] | None = None) -> pa.Table:
        """One row for each trial and epoch, sorted by both, of the attempts that `trials` returns."""
        attempts = self.trials(workload, trial_ids=trial_ids, columns=rules.ATTEMPT_KEY)
        rows = self._parts.read(TableName.TRACES, workload, None, trial_ids)
        return standing.sorted_once(standing.of_attempts(rows, attempts), rules.UNIQUE_BY[TableName.TRACES])

    def settled(self, workload: str) -> set[str]:
        """Ids of the trials that need no more training."""
        rows = self._accepted(self._parts.read(TableName.TRIALS, workload, standing.SETTLING_COLUMNS))
        ids: list[Any] = rows["trial_id"].filter(standing.satisfying(rows)).to_pylist()
        return set(ids)

    def attempts(self, workload: str) -> dict[str, int]:
        """The attempt number of each trial that is not settled: failed, unfinished or pruned."""
        rows = self.trials(workload, columns=("trial_id", "attempt", "outcome"))
        rows = rows.filter(pc.invert(standing.satisfying(rows)))
        return dict(zip(rows["trial_id"].to_numpy(), rows["attempt"].to_numpy().tolist(), strict=True))

    def failed(self, workload: str) -> set[str]:
        """Ids of the trials whose last attempt failed."""
        return self._with_outcome(workload, Outcome.FAILED)

    def pruned(self, workload: str) -> set[str]:
        """Ids of the trials that a search has stopped early."""
        return self._with_outcome(workload, Outcome.PRUNED)

    def _with_outcome(self, workload: str, outcome: Outcome) -> set[str]:
        rows = self.trials(workload, columns=("trial_id", "outcome"))
        ids: list[Any] = rows["trial_id"].filter(pc.equal(rows["outcome"], pa.scalar(str(outcome)))).to_pylist()
        return set(ids)

    def mark_pruned(self, workload: str, trial_ids: Collection[str]) -> list[str]:
        """Record that these trials were stopped; return the ids of those that were still unfinished.

        Raises `LedgerError` as `append` does.
        """
        self.claims.check()
        rows = self.trials(workload, trial_ids=trial_ids)
        rows = rows.filter(pc.equal(rows["outcome"], pa.scalar(str(Outcome.UNFINISHED))))
        if not rows.num_rows:
            return []
        attempts = rows.select(list(rules.ATTEMPT_KEY))
        traces = standing.of_attempts(self._parts.read(TableName.TRACES, workload, None, trial_ids), attempts)
        changed: dict[str, Any] = {"finished_at": time.time(), "driver_id": self.driver_id}
        with self._lock:
            self._parts.commit(TableName.TRACES, workload, rules.with_values(traces, changed))
            self._parts.commit(
                TableName.TRIALS, workload, rules.with_values(rows, {**changed, "outcome": str(Outcome.PRUNED)})
            )
        ids: list[Any] = rows["trial_id"].to_pylist()
        return ids

    def has_news(self, workload: str) -> bool:
        """Whether other drivers have recorded trials since this object first read any; reads no part."""
        return self._parts.has_news(TableName.TRIALS, workload)

    def count_other_versions(self, workload: str, version: int) -> int:
        """Number of trials recorded under another version of the workload, which this version does not use."""
        rows = self._parts.read(TableName.TRIALS, workload, {"trial_id", "workload_version"})
        if rows["workload_version"].unique().to_pylist() in ([], [version]):
            return 0
        others = rows.filter(pc.not_equal(rows["workload_version"], pa.scalar(version)))
        return int(pc.count_distinct(others["trial_id"]).as_py())

    def compact(self) -> None:
        """Merge this driver's parts, without the rows that no reader needs; safe to kill and to repeat.

        Deletes the files that killed drivers have not finished, too.
        """
        with self._lock:
            compact(self._parts)
        for folder in (*TableName, rules.ASKS):
            self._storage.delete_abandoned(f"{self._storage.path}/{folder}")

    def _accepted(self, rows: pa.Table) -> pa.Table:
        """The rows that this reader accepts."""
        return rows if self._accepts else rows.filter(pc.invert(standing.stopped(rows)))


@cache
def _warn_once(path: str, why: str) -> None:
    """Warn of an unused file, once a process: `status all` opens the same folder for each sweep."""
    _logger.warning("%s looks like results, but is not used: %s", path, why)
