"""The protocol of executors, which run packs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from orchestrator.executors.pack_queue import PackQueue
from trainables.contract import Report
from trainables.result import TrialResult

ReportSink = Callable[[Sequence[Report]], None]
"""Takes reports and returns soon. Re-raises the failure to record earlier reports, even for an empty sequence."""


def given_up_reports(results: Sequence[TrialResult]) -> list[Report]:
    """Reports with the results of trials that were given up, which no worker will report."""
    return [Report(result.trial_id, result.epochs_done, (), result) for result in results]


class Executor(Protocol):
    """Pulls packs from the queue until it is finished, and passes their reports to the sink."""

    device: str
    """Kind of device that packs are trained on."""
    num_threads: int
    """Number of threads of a pack on the CPU."""

    @property
    def slots(self) -> int:
        """Number of packs that run at once."""
        ...

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        """Run every pack of the queue; returns when the queue is finished.

        If `stopping.requested`, it has the states of its packs saved and returns within `stopping.SAVE_SECONDS`.
        """
        ...

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """Take note that these trials are recorded: workers may delete their states."""
        ...

    def close(self) -> None:
        """Begin to release what runs packs; returns at once."""
        ...
