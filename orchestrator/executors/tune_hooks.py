"""What Tune's loop calls: a searcher that pulls packs from the queue, and a scheduler that tells how they ended."""

from __future__ import annotations

import signal
from typing import Any, Protocol, Self

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.executors.executor import ReportSink
from orchestrator.executors.failures.lost_worker import why_ended
from orchestrator.executors.pack_queue import PackQueue
from orchestrator.process.stopping import requested, take_back
from trainables.packs.orders import PackOrder
from trainables.tune_trainable import PACK_ID


class Packs(Protocol):
    """The executor, as Tune's loop uses it."""

    @property
    def slots(self) -> int:
        """Number of packs that run at once."""

    def offer(self, order: PackOrder) -> dict[str, Any]:
        """Have a pack's order ready for its worker; returns the Tune config that names it."""

    def pack_ended(self, queue: PackQueue, sink: ReportSink, pack_id: str, error: str | None = None) -> None:
        """Handle the end of a pack, or with `error` the loss of its worker."""

    def check_continues(self) -> None:
        """Raise what ends the loop."""


class _DriverOnly:
    """Is pickled without its attributes: Tune pickles its searcher and scheduler, but nobody reads the result."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class PackSearcher(_DriverOnly, Searcher):
    """Pulls a pack from the queue whenever the cluster has room for one, or may grow for it."""

    def __init__(self, packs: Packs, queue: PackQueue) -> None:
        super().__init__(metric=None, mode=None)
        self._packs, self._queue = packs, queue
        self._in_flight: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The Tune config of the next pack; None while none can be started, FINISHED when the queue is."""
        self._packs.check_continues()
        if requested():
            return None
        slots = self._packs.slots
        order = self._queue.next_pack(slots) if len(self._in_flight) < slots else None
        if order is None:
            return str(Searcher.FINISHED) if self._queue.is_finished else None
        self._in_flight.add(trial_id)
        return self._packs.offer(order)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Make room for another pack; `PackEnds`, which knows the pack, tells the queue."""
        self._in_flight.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the remaining work is read from the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: see `save`."""


class PackEnds(_DriverOnly, FIFOScheduler):
    """Tells the queue how packs end.

    It is a scheduler, not a callback: Tune counts callbacks for its telemetry, and imports MLflow to do so.
    """

    def __init__(self, packs: Packs, queue: PackQueue, sink: ReportSink) -> None:
        super().__init__()
        self._packs, self._queue, self._sink = packs, queue, sink

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """End the loop if it is not to continue; Tune calls this in every round."""
        take_back(signal.SIGUSR1)  # of which Tune would end the loop as if all were done
        self._packs.check_continues()
        return super().choose_trial_to_run(tune_controller)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The pack has finished."""
        self._packs.pack_ended(self._queue, self._sink, trial.config[PACK_ID])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The pack's worker died or raised."""
        self._packs.pack_ended(self._queue, self._sink, trial.config[PACK_ID], why_ended(trial.error_file))
