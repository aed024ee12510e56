"""The synthetic workload: packs of two-layer CNN trials, trained one after another on one core."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from trainables.config import TrialConfig, TwoLayerCNNConfig, make_config
from trainables.errors import ConfigError, unknown_name
from trainables.member_pack import MemberPackRun
from trainables.outcome import is_finite, outcome
from trainables.provenance import provenance
from trainables.result import Outcome, TrialResult, TwoLayerCNNTracePoint
from trainables.two_layer_cnn_trace import trace_epochs, trace_point
from trainables.workload import Member, Report, State

if TYPE_CHECKING:
    from trainables.patch_data import PatchData
    from trainables.two_layer_cnn_state import Engine

ENGINES = ("fused-cpu", "reference")

# Seconds on one core, from the fused engine's benchmark: they balance packs and forecast, they decide nothing.
_SECONDS_PER_WEIGHT_UPDATE = 3.6e-10
_SECONDS_PER_SAMPLE_PRODUCT = 1.6e-10
_SECONDS_PER_PROBED_PRODUCT = 6e-11
_SECONDS_PER_TRIAL = 0.01


class TwoLayerCNN:
    """Definitions 3.1 and 3.2 as a workload."""

    config_type = TwoLayerCNNConfig
    trace_point_type = TwoLayerCNNTracePoint
    devices = ("cpu",)

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The config of these values; raises `ConfigError` with every fault in one line."""
        return make_config(TwoLayerCNNConfig, values)

    def pack_key(self, config: TrialConfig) -> Hashable:
        """Members of a pack share sizes; optimizer, rates, batch size and seed may differ."""
        c = _own(config)
        sizes = (c.num_train, c.num_test, c.dimension, c.noise_sparsity, c.num_filters)
        return c.workload, c.precision, *sizes, c.noise_std, c.feature_noise

    def cost(self, config: TrialConfig) -> float:
        """Rough seconds of one trial on one core."""
        c = _own(config)
        width = 2 * c.num_filters * (2 if c.precision.value == "float64" else 1)
        update = c.num_epochs * c.steps_per_epoch * c.dimension * width * _SECONDS_PER_WEIGHT_UPDATE
        products = (c.noise_sparsity + 1) * width
        samples = c.num_epochs * c.num_train * products * _SECONDS_PER_SAMPLE_PRODUCT
        probes = len(trace_epochs(c.num_epochs)) * (c.num_test + c.num_train) * products * _SECONDS_PER_PROBED_PRODUCT
        return _SECONDS_PER_TRIAL + update + samples + probes

    def memory(self, config: TrialConfig) -> int:
        """Bytes of weights, moments, gradient and samples of the member in training."""
        c = _own(config)
        itemsize = np.dtype(c.precision.value).itemsize
        samples = (c.num_train + c.num_test) * (c.noise_sparsity + 1) * (2 * itemsize + 12)
        return 4 * c.dimension * 2 * c.num_filters * itemsize + samples

    def side_by_side(self, device: str) -> int:
        """One: each member has the core's cache to itself."""
        return 1

    def open(
        self, members: Sequence[Member], device: str = "cpu", engine: str | None = None, num_threads: int = 1
    ) -> MemberPackRun:
        """Start or resume a pack; raises `ConfigError` for a device or engine that is not there."""
        if device != "cpu":
            raise ConfigError(f"two_layer_cnn trains on device 'cpu', got {device!r}")
        if engine is None:
            engine = "fused-cpu" if find_spec("numba") else "reference"
        if engine not in ENGINES:
            raise ConfigError(unknown_name("engine", engine, ENGINES))
        return MemberPackRun(members, lambda member: _MemberRun(member, engine))


class _MemberRun:
    """One trial in training. Opened lazily, so that a fault in its data is its own."""

    def __init__(self, member: Member, engine: str) -> None:
        self.config = _own(member.config)
        self._until_epoch = min(member.until_epoch, self.config.num_epochs)
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
            self._engine.train(self._state, min(self._next_measured_epoch(), self._state.epoch + epochs_slice))
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
        }

    def _begin(self) -> None:
        from trainables.patch_data import patch_data
        from trainables.two_layer_cnn_state import TrainState, initial_state

        self._data = patch_data(self.config)
        self._engine = _make_engine(self._engine_name, self.config, self._data)
        given = self._given_state
        # Another engine rounds differently: its half of a trajectory is not continued.
        if given is None or str(given["engine"]) != self._engine_name:
            self._state = initial_state(self.config)
        else:
            self._state = TrainState.from_arrays(given)
            if self._state.weights.shape != (self.config.dimension, 2 * self.config.num_filters):
                raise ValueError(f"a state of shape {self._state.weights.shape} is not this trial's")
            self._trace = [_point_from_row(row) for row in given["trace"]]
            self._num_reported = len(self._trace)
            self._train_seconds = float(given["train_seconds"])
        self._given_state = None
        self.has_begun = True

    def _measure(self) -> bool:
        """Add a trace point if this epoch has one; whether the trial has ended."""
        epoch = self._state.epoch
        if epoch in trace_epochs(self.config.num_epochs) and not (self._trace and self._trace[-1].epoch == epoch):
            probe = self._engine.probe(self._state)
            self._trace.append(trace_point(self.config, self._data, self._state, probe))
        return epoch >= self._until_epoch or not is_finite(self._trace[-1])

    def _next_measured_epoch(self) -> int:
        later = (epoch for epoch in trace_epochs(self.config.num_epochs) if epoch > self._state.epoch)
        return min(self._until_epoch, next(later))

    def _result(self) -> TrialResult:
        ran_to_end = self._state.epoch >= self.config.num_epochs or not is_finite(self._trace[-1])
        return self._make_result(
            outcome(self._trace, num_classes=2) if ran_to_end else Outcome.UNFINISHED, self._state.epoch
        )

    def _make_result(self, ending: Outcome, epochs_done: int, error: str | None = None) -> TrialResult:
        digests = _digests(self.config, self._data.digest) if self.has_begun else (None, None, None)
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
        )


def _make_engine(name: str, config: TwoLayerCNNConfig, data: PatchData) -> Engine:
    """Engines are imported when used: the fused one without torch, the reference without compilation."""
    if name == "fused-cpu":
        from trainables.two_layer_cnn_fused import FusedEngine

        return FusedEngine(config, data)
    from trainables.two_layer_cnn_reference import ReferenceEngine

    return ReferenceEngine(config, data)


def _digests(config: TwoLayerCNNConfig, data_digest: str) -> tuple[str, str, str]:
    """Digests of data, initial weights and the first epochs' batch order: equal for the halves of a pair."""
    from trainables.streams import digest
    from trainables.two_layer_cnn_state import epoch_orders, initial_state

    return data_digest, digest(initial_state(config).weights), digest(epoch_orders(config, 0, config.num_epochs))


def _point_from_row(row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> TwoLayerCNNTracePoint:
    return TwoLayerCNNTracePoint(int(row[0]), *(float(x) for x in row[1:]))


def _own(config: TrialConfig) -> TwoLayerCNNConfig:
    return cast(TwoLayerCNNConfig, config)
