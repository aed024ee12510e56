"""Records results as they arrive, in a thread that writes the ledger and feeds the views: no executor waits for it."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Sequence

from orchestrator.driver.inbox_thread import InboxThread
from orchestrator.ledger.ledger import Ledger
from trainables.contract import Report
from trainables.result import TrialResult

BATCH_SECONDS = (1.0, 10.0)
"""Results that arrive within this time are written in one commit; its minimum, and its maximum in long runs."""
BATCH_SHARE = 0.01
"""Share of the time since the start that a batch may take: a day of steady results makes 9,000 commits, not 86,400."""


def batch_seconds(elapsed: float) -> float:
    """How long a batch stays open, `elapsed` seconds after the start."""
    least, most = BATCH_SECONDS
    return min(max(least, BATCH_SHARE * elapsed), most)


class Recorder(InboxThread[Sequence[Report]]):
    """Context manager: `put` takes reports from any thread; leaving it writes the remaining results.

    `on_recorded` is called with each committed batch, `on_moved` with every report of a trial that is still training,
    both in the recorder's thread. An exception there, from a full disk for instance, is raised by the next `put` and on
    leaving. A batch ends early if `is_waited_for` says, after a `put`, that no result arrives until it is recorded.
    """

    def __init__(
        self,
        ledger: Ledger,
        on_recorded: Callable[[Sequence[TrialResult]], None],
        on_moved: Callable[[Report], None],
        is_waited_for: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__("recorder")
        self._ledger, self._on_recorded, self._on_moved = ledger, on_recorded, on_moved
        self._is_waited_for = is_waited_for
        self._started = time.monotonic()

    def put(self, reports: Sequence[Report]) -> None:
        """Take reports; returns at once."""
        self.check()
        self._inbox.put(reports)

    def _work(self) -> None:
        is_open = True
        while is_open:
            results, is_open = self._next_batch()
            if results:
                self._ledger.append(results)
                self._on_recorded(results)

    def _next_batch(self) -> tuple[list[TrialResult], bool]:
        """Results that arrive until `batch_seconds` after the first one, and whether more may follow."""
        results: list[TrialResult] = []
        deadline = math.inf
        while True:
            try:
                wait = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
                reports = self._inbox.get(timeout=wait)
            except queue.Empty:
                return results, True
            if reports is None:
                return results, False
            self._take(reports, results)
            if results and self._is_waited_for():
                return results, True
            if results and deadline == math.inf:
                now = time.monotonic()
                deadline = now + batch_seconds(now - self._started)

    def _take(self, reports: Sequence[Report], results: list[TrialResult]) -> None:
        """Add the results of ended trials to the batch, and pass on the other reports."""
        for report in reports:
            if report.result is not None:
                results.append(report.result)
            else:
                self._on_moved(report)
