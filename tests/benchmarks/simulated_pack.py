"""A pack in simulated training: when its members end, what it reports and saves, and results as costly as real ones.

Results have distinct numbers, and traces as long as their epochs ask for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from itertools import accumulate

import numpy as np

from trainables.config import TRIAL_ID_DIGITS, TrialConfig
from trainables.contract import Report
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.packs.worker import REPORT_SECONDS
from trainables.provenance import provenance
from trainables.registry import workload
from trainables.result import Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNTracePoint
from trainables.two_layer_cnn.trace import trace_epochs

SECONDS_PER_COST = (0.40, 0.55)
"""A trial's seconds over its cost: least and most of 24 trials, B = 2 to 200 (CPU time of one core of an AMD EPYC)."""
_ROWS_AT_ONCE = 8192


def seconds_of(config: TrialConfig) -> float:
    """How long its training takes, the same in every attempt."""
    least, most = SECONDS_PER_COST
    share = int(config.trial_id, 16) / 16**TRIAL_ID_DIGITS
    return workload(config.workload).cost(config) * (least + share * (most - least))


class Results:
    """Makes results that cost the driver and the ledger what real ones do: random numbers, as fine as the real ones."""

    def __init__(self, has_traces: bool) -> None:
        self._has_traces = has_traces
        self._rng = np.random.default_rng(0)
        self._provenance = provenance("fused-cpu")
        self._rows = self._random_rows()
        self._started = time.time()

    def of(self, order: PackOrder, member: MemberOrder, seconds: float, finished_at: float) -> TrialResult:
        """A trial that ran to its end."""
        config = member.config
        epochs = trace_epochs(config.num_epochs) if self._has_traces else ()
        digest = self._rng.bytes(8).hex()
        return TrialResult(
            config=config,
            outcome=Outcome.LEARNED,
            epochs_done=config.num_epochs,
            trace=tuple(TwoLayerCNNTracePoint(t, *next(self._rows)) for t in epochs),
            data_digest=digest,
            init_digest=digest,
            order_digest=digest,
            train_seconds=seconds,
            finished_at=self._started + finished_at,
            provenance=self._provenance,
            pack_id=order.pack_id,
            attempt=member.attempt,
        )

    def _random_rows(self) -> Iterator[list[float]]:
        """Values of a trace point: errors are counts over 200 training and 10,000 test samples, noise is float32."""
        names = [f.name for f in fields(TwoLayerCNNTracePoint) if f.name != "epoch"]
        samples = np.array([200 * ("train_error" in name) + 10_000 * ("test_error" in name) for name in names])
        is_single = np.array([name.startswith(("feature_learning", "noise")) for name in names])
        while True:
            values = self._rng.random((_ROWS_AT_ONCE, len(names)))
            values = np.where(samples > 0, np.round(values * samples) / np.maximum(samples, 1), values)
            yield from np.where(is_single, values.astype(np.float32), values).tolist()


class SimulatedPack:
    """A pack on its worker, whose members train in turn; `states` are shares of a trial by the saved file's path."""

    def __init__(self, order: PackOrder, started: float, states: dict[str, float]) -> None:
        self.order, self._states = order, states
        self._done_before = [states.get(m.state_path or "", 0.0) for m in order.members]
        self._seconds = [seconds_of(m.config) for m in order.members]
        left = [s * (1 - done) for s, done in zip(self._seconds, self._done_before, strict=True)]
        self._begins = list(accumulate(left, initial=started))
        self._num_ended = 0
        self._saved_at = started
        self._index: dict[str, str] = {}

    @property
    def is_done(self) -> bool:
        """Whether every member has ended."""
        return self._num_ended == len(self.order.members)

    def next_report(self, now: float) -> float:
        """When its worker reports next."""
        return min(max(now, self._begins[0]) + REPORT_SECONDS, self._begins[-1])

    def advance(self, now: float, results: Results) -> list[Report]:
        """What the worker reports at that time; it may save a state then."""
        reports = []
        while not self.is_done and self._begins[self._num_ended + 1] <= now:
            member, seconds = self.order.members[self._num_ended], self._seconds[self._num_ended]
            result = results.of(self.order, member, seconds, self._begins[self._num_ended + 1])
            reports.append(Report(result.trial_id, result.epochs_done, (), result))
            self._num_ended += 1
        if not self.is_done:
            config, share = self.order.members[self._num_ended].config, self._share(now)
            reports.append(Report(config.trial_id, int(share * config.num_epochs), ()))
            if now - self._saved_at >= self.order.checkpoint_seconds:
                path = f"{self.order.pack_id}.{now}"
                self._index, self._states[path] = {config.trial_id: path}, share
                self._saved_at = now
        return reports

    def index(self) -> dict[str, str]:
        """The newest state's file of each member that has one."""
        return self._index

    def trained_seconds(self, now: float) -> float:
        """Training so far, lost training included."""
        return max(0.0, now - self._begins[0])

    def lost_seconds(self, now: float) -> float:
        """Training that a loss at that time costs: what was neither reported nor saved."""
        return max(0.0, now - max(self._saved_at, self._begins[self._num_ended]))

    def _share(self, now: float) -> float:
        """How much of the member in training is done."""
        k = self._num_ended
        return self._done_before[k] + (now - self._begins[k]) / self._seconds[k]
