"""An executor as a user's module would add it: two packs in this process, one step of each in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from contextlib import AbstractContextManager, closing

from orchestrator.executors.executor import Executor, ReportSink, given_up_reports
from orchestrator.executors.pack_queue import PackQueue
from orchestrator.executors.registry import ExecutorSettings, executor
from trainables.packs.worker import PackWorker


class TurnsExecutor:
    """Runs two packs in turns."""

    slots = 2
    device = "cpu"
    num_threads = 1

    def __init__(self) -> None:
        self._recorded: set[str] = set()

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        running: deque[tuple[str, PackWorker]] = deque()
        while not queue.is_finished:
            while len(running) < self.slots and (order := queue.next_pack(self.slots)) is not None:
                running.append((order.pack_id, PackWorker(order)))
            if not running:
                queue.wait(1.0)
                sink(())
                continue
            pack_id, worker = running.popleft()
            sink(worker.step())
            worker.forget(tuple(self._recorded))
            if worker.is_done:
                sink(given_up_reports(queue.completed(pack_id)))
            else:
                running.append((pack_id, worker))

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        self._recorded.update(trial_ids)

    def close(self) -> None:
        """Nothing to release."""


@executor("turns")
def turns(settings: ExecutorSettings) -> AbstractContextManager[Executor]:
    return closing(TurnsExecutor())
