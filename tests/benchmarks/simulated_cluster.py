"""An executor without training: devices that pull packs, report and are lost as a Ray cluster's, in simulated time.

Reports cost the driver as much as real ones do: they are pickled, as on their way through Ray.
"""

from __future__ import annotations

import heapq
import math
import pickle
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from orchestrator.driver.recorder import Recorder, batch_seconds
from orchestrator.executors.executor import ReportSink
from orchestrator.executors.pack_queue import PackQueue
from tests.benchmarks.simulated_pack import Results, SimulatedPack
from trainables.contract import Report
from trainables.result import TrialResult

PACK_START_SECONDS = 0.045
"""From a pack's end to the next one's first step: Tune with reused actors on two cores."""
NOTICE_SECONDS = 4.0
"""From a node's loss to the driver's knowing of it: SIGKILL of a node of a local Ray cluster."""
REPLACE_SECONDS = 120.0
"""From a node's loss to its successor's first pack: an assumption."""

HOUR = 3600.0


class SimulatedCluster:
    """An executor of `devices` nodes with a device each, of which a share `losses_per_hour` is lost in an hour.

    Time is simulated: `makespan` is when the last pack ended, or Ctrl-C came at `until` seconds. `simulation_seconds`
    is the CPU time that is not the driver's.
    """

    device = "cpu"
    num_threads = 1

    def __init__(
        self, devices: int, losses_per_hour: float = 0.0, until: float = math.inf, has_traces: bool = True
    ) -> None:
        self.devices, self.losses_per_hour, self._until = devices, losses_per_hour, until
        self.slots = 0
        self.makespan = 0.0
        self.num_packs = self.num_reports = self.num_lost = 0
        self.trained_seconds = self.lost_seconds = self.simulation_seconds = 0.0
        self._random = random.Random(0)
        self._results = Results(has_traces)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._num_events = 0
        self._idle: list[int] = []
        self._running: dict[int, SimulatedPack] = {}
        self._states: dict[str, float] = {}
        self._is_recorded = threading.Semaphore(0)
        self._batch_ends = math.inf

    def least_makespan(self, seconds: Sequence[float]) -> float:
        """The least makespan of trials that take so long."""
        return max(sum(seconds) / self.devices, max(seconds))

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        """Let time pass until the queue is finished; `KeyboardInterrupt` if that is later than `until`."""
        self._queue, self._sink = queue, sink
        self._driver_seconds, started = 0.0, time.thread_time()
        for node in range(self.devices):
            self._add(node)
        self._start()
        while not queue.is_finished and self.makespan < self._until:
            now, _, happen = heapq.heappop(self._events)
            if now > self._batch_ends:
                self._end_batch()
            self.makespan = now
            happen()
        self._end_batch()
        self.simulation_seconds = time.thread_time() - started - self._driver_seconds
        if not queue.is_finished:
            raise KeyboardInterrupt

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """A batch is recorded."""
        self._is_recorded.release()

    def close(self) -> None:
        """Nothing to let go of."""

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (seconds, self._num_events, happen))

    def _driver(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.thread_time()
        result = call(*arguments)
        self._driver_seconds += time.thread_time() - started
        return result

    def _join(self, node: int) -> None:
        self._add(node)
        self._start()

    def _add(self, node: int) -> None:
        self.slots += 1
        if self.losses_per_hour:
            self._at(self.makespan + self._random.expovariate(self.losses_per_hour / HOUR), lambda: self._lose(node))
        self._idle.append(node)

    def _start(self) -> None:
        """Free nodes pull packs."""
        while self._idle and (order := self._driver(self._queue.next_pack, self.slots)) is not None:
            self.num_packs += 1
            pack = SimulatedPack(order, self.makespan + PACK_START_SECONDS, self._states)
            node = self._idle.pop()
            self._running[node] = pack
            self._expect_report(node, pack)

    def _expect_report(self, node: int, pack: SimulatedPack) -> None:
        self._at(pack.next_report(self.makespan), lambda: self._report(node, pack))

    def _report(self, node: int, pack: SimulatedPack) -> None:
        if self._running.get(node) is not pack:
            return  # the node was lost
        self.num_reports += 1
        self._deliver(pack.advance(self.makespan, self._results))
        if not pack.is_done:
            self._expect_report(node, pack)
            return
        self.trained_seconds += pack.trained_seconds(self.makespan)
        del self._running[node]
        self._idle.append(node)
        self._driver(self._queue.completed, pack.order.pack_id)
        self._start()

    def _deliver(self, reports: Sequence[Report]) -> None:
        if self._batch_ends == math.inf and any(report.result is not None for report in reports):
            self._batch_ends = self.makespan + batch_seconds(self.makespan)
        packed = pickle.dumps(reports)
        self._driver(lambda: self._sink(pickle.loads(packed)))

    def _lose(self, node: int) -> None:
        self.slots -= 1
        self._at(self.makespan + REPLACE_SECONDS, lambda: self._join(node))
        pack = self._running.pop(node, None)
        if pack is None:
            self._idle.remove(node)
        else:
            self.num_lost += 1
            self.trained_seconds += pack.trained_seconds(self.makespan)
            self.lost_seconds += pack.lost_seconds(self.makespan)
            self._at(self.makespan + NOTICE_SECONDS, lambda: self._notice(pack))

    def _notice(self, pack: SimulatedPack) -> None:
        given_up = self._driver(self._queue.lost, pack.order.pack_id, "its node was lost", pack.index())
        if given_up:
            self._deliver([Report(result.trial_id, result.epochs_done, (), result) for result in given_up])
        self._start()

    def _end_batch(self) -> None:
        """Have everything that arrived so far recorded, and wait for it."""
        if self._batch_ends < math.inf:
            self._sink(())
            while not self._is_recorded.acquire(timeout=1.0):
                self._sink(())  # raises what stopped the recorder
        self._batch_ends = math.inf


class SimulatedRecorder(Recorder):
    """A recorder whose batches end when an empty one arrives: by the simulated clock."""

    def _next_batch(self) -> tuple[list[TrialResult], bool]:
        results: list[TrialResult] = []
        while reports := self._inbox.get():
            self._take(reports, results)
        return results, reports is not None
