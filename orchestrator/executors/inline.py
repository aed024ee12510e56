"""The executor that runs packs in this process, for debuggers and small machines."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, closing

from orchestrator.executors.executor import Executor, ReportSink, given_up_reports
from orchestrator.executors.pack_queue import PackQueue
from orchestrator.executors.registry import ExecutorSettings
from orchestrator.process.stopping import requested
from trainables.packs.worker import PackWorker

_WAIT_SECONDS = 1.0


class InlineExecutor:
    """Runs a sweep's packs in this process, one after another."""

    slots = 1

    def __init__(self, device: str = "cpu", num_threads: int = 1) -> None:
        self.device, self.num_threads = device, num_threads
        self._recorded: set[str] = set()

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        """Run every pack of the queue; returns when the queue is finished, or when a stop is requested."""
        while not (queue.is_finished or requested()):
            order = queue.next_pack(self.slots)
            if order is None:
                queue.wait(_WAIT_SECONDS)
                sink(())  # raises if results could not be recorded: then no pack would ever follow
                continue
            worker = PackWorker(order)
            while not worker.is_done:
                sink(worker.step())
                worker.forget(tuple(self._recorded))
                if requested():
                    worker.save()
                    return
            sink(given_up_reports(queue.completed(order.pack_id)))

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """Take note that these trials are recorded: workers may delete their states."""
        self._recorded.update(trial_ids)

    def close(self) -> None:
        """Do nothing: this process holds no resources for packs."""


def connect(settings: ExecutorSettings) -> AbstractContextManager[Executor]:
    """An executor in this process."""
    return closing(InlineExecutor(settings.device or "cpu", settings.cpus_per_trial))
