"""The workload of Mechanism 3: trains a two-layer CNN beside SignSGD, and compares their updates (Lemma C.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

from trainables.config import MOMENT_FIELDS, SIGN_DESCENTS, TrialConfig, make_config
from trainables.contract import State
from trainables.names import entry_of
from trainables.result import TracePoint
from trainables.sign_agreement.config import SignAgreementConfig, SignAgreementTracePoint
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.trace import trace_epochs, trace_point, weight_norm
from trainables.two_layer_cnn.trial import TwoLayerCNNTrainer, make_engine
from trainables.two_layer_cnn.workload import TwoLayerCNN

_SHADOW = "sign_"
"""Prefix of the names of the arrays in SignSGD's state."""
_SECONDS_PER_COMPARED_WEIGHT = 5e-8


class SignAgreementTrainer(TwoLayerCNNTrainer):
    """Trains a trial of Adam or AdamW, and SignSGD or SignSGDW to the same epochs beside it."""

    point_type = SignAgreementTracePoint

    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        """Start or resume both trainings; they start from the same weights."""
        from trainables.two_layer_cnn.state import TrainState, initial_state

        super().begin(state, trace)
        self._shadow_config = sign_config(self.config)
        self._shadow_engine = make_engine(self.engine, self._shadow_config, self._data)
        self._initial_weights = initial_state(self.config).weights
        if state is None:
            self._shadow = initial_state(self._shadow_config)
        else:
            self._shadow = TrainState.from_arrays(
                {name.removeprefix(_SHADOW): state[name] for name in state if name.startswith(_SHADOW)},
                self._shadow_config,
            )

    def arrays(self) -> State:
        """The states of both trainings."""
        shadow = {f"{_SHADOW}{name}": array for name, array in self._shadow.arrays().items()}
        return {**super().arrays(), **shadow}

    def _train(self, until_epoch: int) -> None:
        super()._train(until_epoch)
        self._shadow_engine.train(self._shadow, until_epoch)

    def _point(self) -> TwoLayerCNNTracePoint:
        from trainables.sign_agreement.comparison import AdamSteps, agreement

        own, state = super()._point(), self._state
        shadow = trace_point(self._shadow_config, self._data, self._shadow, self._shadow_engine.probe(self._shadow))
        steps = AdamSteps(self.config, self._data, state.weights, self._engine.moments(state), state.step)
        return SignAgreementTracePoint(
            **asdict(own),
            **asdict(agreement(steps.epoch(state.epoch), self.config.learning_rate)),
            travelled=weight_norm(state.weights - self._initial_weights),
            sign_distance=weight_norm(state.weights - self._shadow.weights),
            sign_train_error=shadow.train_error,
            sign_test_error=shadow.test_error,
            sign_weight_norm=shadow.weight_norm,
        )


class SignAgreement(TwoLayerCNN):
    """The synthetic workload with updates that are compared with SignSGD's."""

    config_type = SignAgreementConfig
    trace_point_type = SignAgreementTracePoint
    _trainer_type = SignAgreementTrainer

    def cost(self, config: TrialConfig) -> float:
        """Rough seconds of one trial on one core: two trainings and the comparisons."""
        c = cast(TwoLayerCNNConfig, config)
        compared = len(trace_epochs(c.num_epochs)) * c.steps_per_epoch * c.dimension * 2 * c.num_filters
        return 2 * super().cost(config) + compared * _SECONDS_PER_COMPARED_WEIGHT

    def memory(self, config: TrialConfig) -> int:
        """Bytes of both states, and of the comparison in float64: dense noise patches and eight matrices (d, 2m)."""
        c = cast(TwoLayerCNNConfig, config)
        return 2 * super().memory(config) + 8 * c.dimension * (c.num_train + 8 * 2 * c.num_filters)


def sign_config(config: TwoLayerCNNConfig) -> TwoLayerCNNConfig:
    """The config of SignSGD (SignSGDW for AdamW) for a trial of Adam; the decay and all other fields are the same."""
    optimizer = entry_of(config.optimizer, SIGN_DESCENTS, "the sign descent that it is compared with")
    values = config.model_dump(exclude={*MOMENT_FIELDS, "workload"})
    return cast(TwoLayerCNNConfig, make_config(TwoLayerCNNConfig, {**values, "optimizer": optimizer}))
