"""Measures the trace points of the two-layer CNN, and says at which epochs."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.patch_data import PatchData
from trainables.two_layer_cnn.state import Floats, Probe, TrainState

POINTS_PER_DECADE = 10


@cache
def trace_epochs(num_epochs: int) -> tuple[int, ...]:
    """Epochs that are measured: 0, ten per decade on a grid that does not depend on `num_epochs`, and the last one."""
    decades = math.ceil(math.log10(num_epochs)) + 1
    grid = {round(10 ** (k / POINTS_PER_DECADE)) for k in range(decades * POINTS_PER_DECADE)}
    return tuple(sorted({0, num_epochs} | {epoch for epoch in grid if epoch <= num_epochs}))


@np.errstate(invalid="ignore", over="ignore")  # the outputs of a diverged trial are inf or nan, and recorded as such
def trace_point(config: TwoLayerCNNConfig, data: PatchData, state: TrainState, probe: Probe) -> TwoLayerCNNTracePoint:
    """Measure one state; a margin F_+1 - F_-1 of exactly 0 or nan counts as a misclassification."""
    y_train, y_test = data.train.labels, data.test.labels
    train_margins, test_margins = y_train * probe.train_margins, y_test * probe.test_margins
    train_wrong, test_wrong = ~(train_margins > 0), ~(test_margins > 0)
    per_class: dict[str, float] = {}
    for name, label, columns in (
        ("positive", 1, slice(0, config.num_filters)),
        ("negative", -1, slice(config.num_filters, None)),
    ):
        noise = probe.noise[y_train == label, columns].max(axis=1, initial=-np.inf)
        per_class |= {
            f"train_error_{name}": _mean(train_wrong[y_train == label]),
            f"test_error_{name}": _mean(test_wrong[y_test == label]),
            f"feature_learning_{name}": float((label * state.weights[0, columns]).max()),
            f"noise_min_{name}": float(noise.min()) if noise.size else math.nan,
            f"noise_max_{name}": float(noise.max()) if noise.size else math.nan,
        }
    return TwoLayerCNNTracePoint(
        epoch=state.epoch,
        # log(1 + exp(-y (F_+1 - F_-1))), without overflow
        train_loss=float(np.logaddexp(0.0, -train_margins.astype(np.float64)).mean()),
        train_error=_mean(train_wrong),
        test_error=_mean(test_wrong),
        weight_norm=weight_norm(state.weights),
        **per_class,
    )


def weight_norm(weights: Floats) -> float:
    """Frobenius norm of all filters, summed in float64."""
    return float(np.sqrt(np.square(weights, dtype=np.float64).sum()))


def _mean(wrong: npt.NDArray[np.bool_]) -> float:
    return float(wrong.mean()) if wrong.size else math.nan
