"""One trial of the two-layer CNN in training: slices of epochs, trace points, state, result."""

from __future__ import annotations

import time
from dataclasses import astuple, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from trainables.certificates import Certificate, is_audited
from trainables.contract import Member, Report, State
from trainables.outcome import is_finite, outcome
from trainables.provenance import provenance
from trainables.result import Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.trace import trace_epochs, trace_point

if TYPE_CHECKING:
    from trainables.two_layer_cnn.patch_data import PatchData
    from trainables.two_layer_cnn.state import Engine
    from trainables.two_layer_cnn.stuck_box import WeightBox


class TwoLayerCNNRun:
    """One trial in training. Opened lazily, so that a fault in its data is its own."""

    point_type: type[TwoLayerCNNTracePoint] = TwoLayerCNNTracePoint

    def __init__(self, member: Member, engine: str) -> None:
        self.config = cast(TwoLayerCNNConfig, member.config)
        self._until_epoch = min(member.until_epoch, self.config.num_epochs)
        self._may_stop = member.may_stop and not is_audited(self.config.trial_id)
        self._certificate_epoch: int | None = None
        self._given_state = member.state
        self._engine_name = engine
        self._train_seconds = 0.0
        self._trace: list[TwoLayerCNNTracePoint] = []
        self._num_reported = 0
        self.has_begun = False

    def advance(self, deadline: float) -> Report:
        """Train until the deadline (at least one slice) or the end."""
        started = time.perf_counter()
        if not self.has_begun:
            self._begin()
        ended = self._measure()
        epochs_slice = 1
        while not ended:
            slice_started = time.monotonic()
            self._train(min(self._next_measured_epoch(), self._state.epoch + epochs_slice))
            ended = self._measure()
            now = time.monotonic()
            if now >= deadline:
                break
            # Slices grow while they are short beside what is left: the kernel is called often only near the deadline.
            epochs_slice = (
                epochs_slice * 2 if now - slice_started < 0.1 * (deadline - now) else max(1, epochs_slice // 2)
            )
        self._train_seconds += time.perf_counter() - started
        points, self._num_reported = tuple(self._trace[self._num_reported :]), len(self._trace)
        return Report(self.config.trial_id, self._state.epoch, points, self._result() if ended else None)

    def failed(self, error: str) -> Report:
        """The report of a trial that raised `error`."""
        epochs_done = self._state.epoch if self.has_begun else 0
        result = self._make_result(Outcome.FAILED, epochs_done, error)
        return Report(self.config.trial_id, epochs_done, (), result)

    def state_arrays(self) -> State:
        """Everything needed to go on exactly here."""
        return {
            **self._state.arrays(),
            "trace": np.array([astuple(point) for point in self._trace], np.float64),
            "train_seconds": np.array(self._train_seconds),
            "engine": np.array(self._engine_name),
            "certificate_epoch": np.array(-1 if self._certificate_epoch is None else self._certificate_epoch),
        }

    def close(self) -> None:
        """Nothing: it holds memory of this process only."""

    def _begin(self) -> None:
        from trainables.two_layer_cnn.patch_data import patch_data

        self._data = patch_data(self.config)
        given, self._given_state = self._given_state, None
        # Another engine rounds differently: its half of a trajectory is not continued; nor an earlier version's state.
        if given is not None and (str(given["engine"]) != self._engine_name or "certificate_epoch" not in given):
            given = None
        if given is not None:
            self._trace = [self._point_from_row(row) for row in given["trace"]]
            self._num_reported = len(self._trace)
            self._train_seconds = float(given["train_seconds"])
            certificate_epoch = int(given["certificate_epoch"])
            self._certificate_epoch = certificate_epoch if certificate_epoch >= 0 else None
        self._open(given)
        self.has_begun = True

    def _open(self, given: State | None) -> None:
        """Make the engine and the state, from `given` or anew."""
        from trainables.two_layer_cnn.state import TrainState, initial_state

        self._engine = make_engine(self._engine_name, self.config, self._data)
        self._state = initial_state(self.config) if given is None else TrainState.from_arrays(given)
        if self._state.weights.shape != (self.config.dimension, 2 * self.config.num_filters):
            raise ValueError(f"a state of shape {self._state.weights.shape} is not this trial's")

    def _train(self, until_epoch: int) -> None:
        self._engine.train(self._state, until_epoch)

    def _point(self) -> TwoLayerCNNTracePoint:
        """Measure the state as it is."""
        return trace_point(self.config, self._data, self._state, self._engine.probe(self._state))

    def _measure(self) -> bool:
        """Add a trace point if this epoch has one; whether the trial has ended."""
        epoch = self._state.epoch
        if epoch in trace_epochs(self.config.num_epochs) and not (self._trace and self._trace[-1].epoch == epoch):
            self._trace.append(self._point())
            if self._certificate_epoch is None and self._box is not None and self._box.holds(self._state):
                self._certificate_epoch = epoch
        return epoch >= self._until_epoch or not is_finite(self._trace[-1]) or self._is_stopped

    @property
    def _is_stopped(self) -> bool:
        return self._may_stop and self._certificate_epoch is not None

    @cached_property
    def _box(self) -> WeightBox | None:
        from trainables.two_layer_cnn.stuck_box import stuck_box

        return stuck_box(self.config, self._data, self._trace[0].weight_norm)

    def _next_measured_epoch(self) -> int:
        later = (epoch for epoch in trace_epochs(self.config.num_epochs) if epoch > self._state.epoch)
        return min(self._until_epoch, next(later))

    def _result(self) -> TrialResult:
        if self._state.epoch >= self.config.num_epochs or not is_finite(self._trace[-1]):
            ending = outcome(self._trace, self.config.num_classes)
        elif self._is_stopped:
            return self._stopped_result()
        else:
            ending = Outcome.UNFINISHED
        return self._make_result(ending, self._state.epoch)

    def _stopped_result(self) -> TrialResult:
        """As of the epoch of its certificate, also if the state that it was resumed from had gone further."""
        assert self._certificate_epoch is not None
        whole = self._make_result(Outcome.STUCK, self._certificate_epoch)
        trace = tuple(point for point in whole.trace if point.epoch <= self._certificate_epoch)
        return replace(whole, trace=trace)

    def _make_result(self, ending: Outcome, epochs_done: int, error: str | None = None) -> TrialResult:
        digests = _digests(self.config, self._data.digest) if self.has_begun else (None, None, None)
        certificate, certificate_epoch = Certificate.WEIGHT_BOX, self._certificate_epoch
        if ending is Outcome.DIVERGED and certificate_epoch is None:  # else the certificate was wrong, and stays
            certificate, certificate_epoch = Certificate.NON_FINITE, epochs_done
        return TrialResult(
            config=self.config,
            outcome=ending,
            epochs_done=epochs_done,
            trace=tuple(self._trace),
            data_digest=digests[0],
            init_digest=digests[1],
            order_digest=digests[2],
            train_seconds=self._train_seconds,
            finished_at=time.time(),
            provenance=provenance(self._engine_name),
            error=error,
            certificate=None if certificate_epoch is None else certificate,
            certificate_epoch=certificate_epoch,
        )

    def _point_from_row(self, row: np.ndarray[Any, np.dtype[np.float64]]) -> TwoLayerCNNTracePoint:
        return self.point_type(int(row[0]), *(float(x) for x in row[1:]))


def make_engine(name: str, config: TwoLayerCNNConfig, data: PatchData) -> Engine:
    """Engines are imported when used: the fused one without torch, the reference without compilation."""
    if name == "fused-cpu":
        from trainables.two_layer_cnn.fused import FusedEngine

        return FusedEngine(config, data)
    from trainables.two_layer_cnn.reference import ReferenceEngine

    return ReferenceEngine(config, data)


def _digests(config: TwoLayerCNNConfig, data_digest: str) -> tuple[str, str, str]:
    """Digests of data, initial weights and the first epochs' batch order: equal for the halves of a pair."""
    from trainables.random_streams import digest
    from trainables.two_layer_cnn.state import epoch_orders, initial_state

    return data_digest, digest(initial_state(config).weights), digest(epoch_orders(config, 0, config.num_epochs))
