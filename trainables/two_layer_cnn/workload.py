"""The synthetic workload: packs of two-layer CNN trials, trained one after another on one core."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

from trainables.config import Optimizer, TrialConfig, make_config
from trainables.contract import Member
from trainables.errors import ConfigError, unknown_name
from trainables.names import check_torch_rule
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.trial_run import TrialRun
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.trace import trace_epochs
from trainables.two_layer_cnn.trial import TwoLayerCNNTrainer

ENGINES = ("fused-cpu", "reference")

# Seconds on one core, from the fused engine's benchmark; used only to balance packs and to forecast time.
_SECONDS_PER_WEIGHT_UPDATE = 3.6e-10
_SECONDS_PER_SAMPLE_PRODUCT = 1.6e-10
_SECONDS_PER_PROBED_PRODUCT = 6e-11
_SECONDS_PER_TRIAL = 0.01


class TwoLayerCNN:
    """Definitions 3.1 and 3.2 as a workload."""

    config_type: type[TrialConfig] = TwoLayerCNNConfig
    trace_point_type: type[TwoLayerCNNTracePoint] = TwoLayerCNNTracePoint
    devices = ("cpu",)
    num_classes: int | None = TwoLayerCNNConfig.num_classes
    shared_test_data: str | None = None
    reads_data_sets = False
    _trainer_type = TwoLayerCNNTrainer

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The config that the values describe; raises `ConfigError` with every fault in one line."""
        return make_config(self.config_type, values)

    def pack_key(self, config: TrialConfig) -> Hashable:
        """Members of a pack share all sizes; optimizer, rates, batch size and seed may differ."""
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
        """Bytes of weights, moments, gradient and samples of a member in training."""
        c = _own(config)
        itemsize = np.dtype(c.precision.value).itemsize
        samples = (c.num_train + c.num_test) * (c.noise_sparsity + 1) * (2 * itemsize + 12)
        return 4 * c.dimension * 2 * c.num_filters * itemsize + samples

    def side_by_side(self, device: str) -> int:
        """One, so that each member has the core's cache to itself."""
        return 1

    def last_engine(self, device: str) -> str | None:
        """None: on the reference engine, one trial would take as long as thirty."""
        return None

    def check_rule(self, optimizer: Optimizer) -> None:
        """The reference engine takes every optimizer that has a rule in torch."""
        check_torch_rule(optimizer)

    def check_certificates(self, optimizer: Optimizer) -> None:
        """Raise `ConfigError` for an optimizer without a bound on its updates: no box holds its weights."""
        from trainables.two_layer_cnn.stuck_box import check_bound

        check_bound(optimizer)

    def open(
        self, members: Sequence[Member], device: str = "cpu", engine: str | None = None, num_threads: int = 1
    ) -> MemberPackRun:
        """Start or resume a pack; raises `ConfigError` for a device or engine that is not available."""
        if device != "cpu":
            raise ConfigError(f"the two-layer CNN trains on device 'cpu', got {device!r}")
        if engine is not None and engine not in ENGINES:
            raise ConfigError(unknown_name("engine", engine, ENGINES))

        def open_member(member: Member) -> TrialRun:
            return TrialRun(member, self._trainer_type(member, engine or _fastest_engine(member.config)))

        return MemberPackRun(members, open_member)


def _fastest_engine(config: TrialConfig) -> str:
    """Chosen for each member, not for the pack, so that its numbers are the same in any pack."""
    if not find_spec("numba"):
        return "reference"
    from trainables.two_layer_cnn.fused import IS_ADAM

    return "fused-cpu" if config.optimizer in IS_ADAM else "reference"


def _own(config: TrialConfig) -> TwoLayerCNNConfig:
    return cast(TwoLayerCNNConfig, config)
