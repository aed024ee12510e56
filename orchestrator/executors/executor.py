"""Where packs run: the protocol that every executor has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from orchestrator.executors.pack_queue import PackQueue
from trainables.contract import Report
from trainables.result import TrialResult

ReportSink = Callable[[Sequence[Report]], None]
"""Takes reports and returns soon. Re-raises an error from recording earlier reports, even for an empty sequence."""


def given_up_reports(results: Sequence[TrialResult]) -> list[Report]:
    """Results of trials that no worker will report, as reports."""
    return [Report(result.trial_id, result.epochs_done, (), result) for result in results]


class Executor(Protocol):
    """Pulls packs until the queue is finished, and hands their reports on."""

    device: str
    """Kind of device that packs train on."""
    num_threads: int
    """Threads of a pack on the CPU."""

    @property
    def slots(self) -> int:
        """Packs that run at once."""
        ...

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        """Run everything in the queue; returns when it is finished."""
        ...

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """These trials are recorded: their states may go."""
        ...

    def close(self) -> None:
        """Let go of what runs packs; returns at once."""
        ...
