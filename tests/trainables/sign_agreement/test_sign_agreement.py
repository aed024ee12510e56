"""Mechanism 3's measurement: the measured trial equals the plain one, its companion SignSGD; the shares are right."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator.errors import UserError
from tests.orchestrator.figures.test_figures import figure_of
from trainables.contract import Member
from trainables.errors import ConfigError
from trainables.registry import config_from_values, workload
from trainables.result import TrialResult
from trainables.sign_agreement.comparison import AdamSteps, Updates, agreement
from trainables.sign_agreement.config import SignAgreementTracePoint
from trainables.sign_agreement.workload import sign_config
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.patch_data import patch_data
from trainables.two_layer_cnn.state import initial_state
from trainables.two_layer_cnn.trial import make_engine

SMALL = {
    "learning_rate": 1e-3,
    "num_epochs": 30,
    "seed": 3,
    "num_train": 20,
    "num_test": 50,
    "dimension": 40,
    "noise_sparsity": 8,
    "num_filters": 3,
    "init_std": 0.1,
    "precision": "float64",
}
ARMS: list[dict[str, Any]] = [
    {"optimizer": "adam", "weight_decay": 1e-2},
    {"optimizer": "adamw", "weight_decay": 0.5},
    {"optimizer": "adam", "weight_decay": 1e-2, "bias_correction": False, "epsilon_rule": "lambda_eta"},
]


def make(workload_name: str = "sign_agreement", **values: Any) -> TwoLayerCNNConfig:
    config = config_from_values({"workload": workload_name, "batch_size": 6, **SMALL, **values})
    assert isinstance(config, TwoLayerCNNConfig)
    return config


def run(config: TwoLayerCNNConfig) -> TrialResult:
    pack = workload(config.workload).open([Member(config, config.num_epochs)])
    (report,) = pack.advance(math.inf)
    assert report.result is not None
    assert report.result.error is None
    return report.result


def points(config: TwoLayerCNNConfig) -> list[SignAgreementTracePoint]:
    found = run(config).trace
    assert all(isinstance(point, SignAgreementTracePoint) for point in found)
    return list(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("engine_name", ["fused-cpu", "reference"])
@pytest.mark.parametrize("batch_size", [1, 6, 20])
def test_the_compared_steps_are_the_engines_own(arm: dict[str, Any], engine_name: str, batch_size: int) -> None:
    config = make("two_layer_cnn", batch_size=batch_size, **arm)
    data = patch_data(config)
    engine, state = make_engine(engine_name, config, data), initial_state(config)
    engine.train(state, 7)
    steps = AdamSteps(config, data, state.weights, engine.moments(state), state.step)
    before = steps.weights.copy()
    assert len(list(steps.epoch(7))) == config.steps_per_epoch
    engine.train(state, 8)
    np.testing.assert_allclose(steps.weights, state.weights, rtol=0, atol=1e-12)
    assert np.abs(steps.weights - before).max() > 1e-3  # a step apart would be seen


def test_agreement_counts_signs_and_sizes_in_each_group() -> None:
    # large gradients: one agrees fully, one in sign only, one in nothing; small: one fully, one of exactly zero
    gradient = np.array([[3.0, -2.0, 1.0, 0.5, 0.0]])
    update = np.array([[0.6, -2.1, -1.0, 2.0, 0.0]])
    found = agreement(iter([Updates(gradient, update)] * 2), threshold=1.0)
    assert found.large_share == pytest.approx(3 / 5)
    assert (found.same_sign_large, found.same_size_large) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (found.same_sign_small, found.same_size_small) == (1.0, 1.0)


def test_a_group_without_weights_has_no_share() -> None:
    ones = np.ones((2, 2))
    found = agreement(iter([Updates(ones, ones)]), threshold=2.0)
    assert found.large_share == 0.0
    assert math.isnan(found.same_sign_large)
    assert found.same_size_small == 1.0


def test_a_weight_that_moves_without_a_gradient_does_not_agree() -> None:
    found = agreement(iter([Updates(np.zeros((1, 2)), np.array([[0.0, 1.0]]))]), threshold=1.0)
    assert (found.same_sign_small, found.same_size_small) == (0.5, 0.5)


@pytest.mark.parametrize("arm", ARMS[:2])
def test_the_observed_trial_is_the_plain_one_and_its_shadow_the_plain_sign_descent(arm: dict[str, Any]) -> None:
    observed = make(**arm)
    plain, signed = run(make("two_layer_cnn", **arm)), run(sign_config(observed))
    names = [field.name for field in fields(TwoLayerCNNTracePoint)]
    for point, own, shadow in zip(points(observed), plain.trace, signed.trace, strict=True):
        assert [getattr(point, name) for name in names] == [getattr(own, name) for name in names]
        assert (point.sign_train_error, point.sign_test_error, point.sign_weight_norm) == (
            shadow.train_error,
            shadow.test_error,
            shadow.weight_norm,
        )
    assert points(observed)[-1].sign_distance > 0


def test_adam_without_memory_is_sign_descent() -> None:
    """beta1 = 0 and beta2, epsilon near 0 leave g / |g|: all shares are 1, and the two runs stay together."""
    last = points(make(optimizer="adam", weight_decay=1e-2, beta1=0.0, beta2=1e-12, epsilon=1e-20))[-1]
    assert (last.same_sign_large, last.same_size_large) == (1.0, 1.0)
    assert (last.same_sign_small, last.same_size_small) == (1.0, 1.0)
    assert last.sign_distance < 1e-4 * last.travelled


def test_coupled_decay_is_shadowed_by_coupled_decay() -> None:
    for optimizer, expected in (("adam", "signsgd"), ("adamw", "signsgdw")):
        config = make(optimizer=optimizer, weight_decay=1e-2)
        shadow = sign_config(config)
        assert shadow.optimizer == expected
        same = ("weight_decay", "learning_rate", "batch_size", "seed", "num_epochs", "init_std", "precision")
        assert [getattr(shadow, name) for name in same] == [getattr(config, name) for name in same]


def test_the_way_starts_at_the_initial_weights() -> None:
    first, second, *_ = points(make(optimizer="adam", weight_decay=1e-2, batch_size=20))
    assert (first.epoch, first.travelled, first.sign_distance) == (0, 0.0, 0.0)
    # Adam's first step is eta in every coordinate but for epsilon: sign descent's
    assert second.travelled == pytest.approx(1e-3 * math.sqrt(40 * 6), rel=1e-2)
    assert first.same_size_large == first.same_size_small == 1.0


def test_an_optimizer_without_moments_has_nothing_to_compare() -> None:
    with pytest.raises(ConfigError, match="sign_agreement compares adam or adamw with sign descent, got signsgd"):
        make(optimizer="signsgd", weight_decay=1e-2)


def test_the_figure_draws_the_shares_and_the_relative_distance() -> None:
    results = [run(make(batch_size=size, seed=seed, **ARMS[0])) for size in (2, 20) for seed in (0, 1)]
    trials = pd.DataFrame([result.trial_row() for result in results])
    traces = pd.DataFrame([row for result in results for row in result.trace_rows()])
    figure = figure_of("sign_agreement", trials, traces)
    panels = [axes for axes in figure.axes if axes.get_lines()]
    assert len(panels) == 4  # full batch first; shares above, distances below
    for column, size in enumerate((20, 2)):
        upper, lower = panels[column], panels[column + 2]
        assert f"$B$ = {size}" in upper.get_title()
        own = traces[traces["trial_id"].isin(trials["trial_id"][trials["batch_size"] == size])]
        shown = ["same_sign_large", "same_size_large", "same_sign_small", "same_size_small", "large_share"]
        for line, name in zip(upper.get_lines(), shown, strict=True):
            np.testing.assert_allclose(line.get_ydata(), own.groupby("epoch")[name].mean())
        ratio = (own["sign_distance"] / own["travelled"])[own["epoch"] > 0]
        expected = ratio.groupby(own["epoch"]).mean()
        distance = lower.get_lines()[0]
        np.testing.assert_allclose(np.asarray(distance.get_ydata())[-len(expected) :], expected)


def test_the_figure_says_which_traces_it_needs() -> None:
    result = run(make("two_layer_cnn", **ARMS[0]))
    traces = pd.DataFrame(result.trace_rows())
    with pytest.raises(UserError, match="sign_agreement draws sign_agreement traces; these lack large_share"):
        figure_of("sign_agreement", pd.DataFrame([result.trial_row()]), traces)
