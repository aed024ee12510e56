"""Trains one two-layer CNN: slices of epochs, trace points, the certificate and the exact state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from trainables.certificates import Certificate
from trainables.contract import Member, State
from trainables.outcome import outcome
from trainables.packs.trial_run import Digests, Proof, Trainer
from trainables.result import Outcome, TracePoint
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.trace import trace_epochs, trace_point

if TYPE_CHECKING:
    from trainables.two_layer_cnn.patch_data import PatchData
    from trainables.two_layer_cnn.state import Engine
    from trainables.two_layer_cnn.stuck_box import WeightBox


class TwoLayerCNNTrainer(Trainer):
    """Trains in slices of epochs; a slice ends at the latest at the next epoch that is measured."""

    point_type: type[TwoLayerCNNTracePoint] = TwoLayerCNNTracePoint
    slices_grow = True

    def __init__(self, member: Member, engine: str) -> None:
        self.config = cast(TwoLayerCNNConfig, member.config)
        self.engine = engine
        self._until_epoch = member.until_epoch

    @property
    def epoch(self) -> int:
        """Number of epochs trained."""
        return self._state.epoch

    def continues(self, state: State) -> bool:
        """Whether to resume from a state: not from one of an earlier version, which did not look for certificates."""
        return "certificate_epoch" in state

    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        """Make the data, the engine and the weights, or take the weights from `state`."""
        from trainables.two_layer_cnn.patch_data import patch_data
        from trainables.two_layer_cnn.state import TrainState, initial_state

        self._trace = trace
        self._data = patch_data(self.config)
        self._engine = make_engine(self.engine, self.config, self._data)
        self._state = initial_state(self.config) if state is None else TrainState.from_arrays(state, self.config)
        if trace:
            self._initial_norm = trace[0].weight_norm
        certificate_epoch = -1 if state is None else int(state["certificate_epoch"])
        self.proof = None if certificate_epoch < 0 else Proof(Certificate.WEIGHT_BOX, certificate_epoch)

    def train_slice(self, size: int) -> TracePoint | None:
        """Train up to `size` epochs and measure if the last one has a point; the first call only measures epoch 0."""
        if self._trace:
            self._train(min(self._next_measured_epoch(), self._state.epoch + size))
        if self._state.epoch not in trace_epochs(self.config.num_epochs):
            return None
        point = self._point()
        if not self._trace:
            self._initial_norm = point.weight_norm
        if self.proof is None and self._box is not None and self._box.holds(self._state):
            self.proof = Proof(Certificate.WEIGHT_BOX, point.epoch)
        return point

    def arrays(self) -> State:
        """The state in training, and the epoch at which it was certified (-1: not certified)."""
        certificate_epoch = -1 if self.proof is None else self.proof.epoch
        return {**self._state.arrays(), "certificate_epoch": np.array(certificate_epoch)}

    def digests(self) -> Digests:
        """Hashes of data, initial weights and the first epochs' batch order; equal for the two trials of a pair."""
        from trainables.random_streams import digest
        from trainables.two_layer_cnn.state import epoch_orders, initial_state

        orders = epoch_orders(self.config, 0, self.config.num_epochs)
        return Digests(self._data.digest, digest(initial_state(self.config).weights), digest(orders))

    def outcome(self, trace: Sequence[TracePoint]) -> Outcome:
        """The outcome, by the thresholds for two classes."""
        return outcome(trace, self.config.num_classes)

    def _train(self, until_epoch: int) -> None:
        self._engine.train(self._state, until_epoch)

    def _point(self) -> TwoLayerCNNTracePoint:
        """Measure the current state."""
        return trace_point(self.config, self._data, self._state, self._engine.probe(self._state))

    @cached_property
    def _box(self) -> WeightBox | None:
        from trainables.two_layer_cnn.stuck_box import stuck_box

        return stuck_box(self.config, self._data, self._initial_norm)

    def _next_measured_epoch(self) -> int:
        later = (epoch for epoch in trace_epochs(self.config.num_epochs) if epoch > self._state.epoch)
        return min(self._until_epoch, next(later))


def make_engine(name: str, config: TwoLayerCNNConfig, data: PatchData) -> Engine:
    """Make the engine of that name, importing it only now: `fused-cpu` needs no torch, and `reference` no numba."""
    if name == "fused-cpu":
        from trainables.two_layer_cnn.fused import FusedEngine

        return FusedEngine(config, data)
    from trainables.two_layer_cnn.reference import ReferenceEngine

    return ReferenceEngine(config, data)
