"""Where packs run: the executor's seam, and the one that runs them in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from orchestrator.packing import PackQueue
from trainables.pack import PackWorker
from trainables.result import TrialResult
from trainables.workload import Report

ReportSink = Callable[[Sequence[Report]], None]
"""Takes reports as they come; never blocks for long. Raises what went wrong with earlier ones, also when given none."""


_WAIT_SECONDS = 1.0


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


class InlineExecutor:
    """The same sweep in this process, one pack after another: for debuggers and small machines."""

    slots = 1

    def __init__(self, device: str = "cpu", num_threads: int = 1) -> None:
        self.device, self.num_threads = device, num_threads
        self._recorded: set[str] = set()

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        """Run everything in the queue; returns when it is finished."""
        while not queue.is_finished:
            order = queue.next_pack(self.slots)
            if order is None:
                queue.wait(_WAIT_SECONDS)
                sink(())  # raises if there is nothing to wait for: results could not be recorded
                continue
            worker = PackWorker(order)
            while not worker.is_done:
                sink(worker.step())
                worker.forget(tuple(self._recorded))
            sink(given_up_reports(queue.completed(order.pack_id)))

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """These trials are recorded: their states may go."""
        self._recorded.update(trial_ids)

    def close(self) -> None:
        """Nothing to let go of."""
