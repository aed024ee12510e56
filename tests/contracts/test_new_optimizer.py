"""What an optimizer that is added to `Optimizer` alone is refused by: it gets no other rule's numbers in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.figures.style import look_of
from orchestrator.sweeps.value import Grid, Sweep
from trainables.config import OPTIMIZER_TRAITS, Optimizer, OptimizerTraits, TrialConfig
from trainables.errors import ConfigError
from trainables.optimizers import make_optimizer
from trainables.registry import config_from_values
from trainables.sign_agreement.comparison import AdamSteps
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import patch_data
from trainables.two_layer_cnn.state import initial_state
from trainables.two_layer_cnn.stuck_box import largest_step, stuck_box
from trainables.two_layer_cnn.trace import weight_norm
from trainables.two_layer_cnn.trial import make_engine

SIZES: dict[str, Any] = {
    "learning_rate": 2e-4,
    "num_epochs": 1000,
    "num_train": 20,
    "num_test": 50,
    "dimension": 40,
    "noise_sparsity": 5,
    "num_filters": 4,
    "init_std": 0.05,
    "batch_size": 3,
}
KINDS = [OptimizerTraits(is_coupled, has_moments) for is_coupled in (True, False) for has_moments in (True, False)]
DECAYS = {True: 1.0, False: 3000.0}
"""Weight decays at which the optimizers of today are certified, coupled and decoupled."""


@pytest.fixture(params=KINDS, ids=str)
def lion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Optimizer]:
    """A fifth member of the enum with its traits, as an edit of config.py would add it, and nothing more."""
    member = str.__new__(Optimizer, "lion")
    member._name_, member._value_ = "LION", "lion"
    monkeypatch.setitem(Optimizer._member_map_, "LION", member)
    monkeypatch.setitem(Optimizer._value2member_map_, "lion", member)
    monkeypatch.setattr(Optimizer, "_member_names_", [*Optimizer._member_names_, "LION"])
    monkeypatch.setitem(OPTIMIZER_TRAITS, member, request.param)
    for config_type in (TrialConfig, TwoLayerCNNConfig):
        config_type.model_rebuild(force=True)
    yield member
    monkeypatch.undo()
    for config_type in (TrialConfig, TwoLayerCNNConfig):
        config_type.model_rebuild(force=True)


def config_of(optimizer: Optimizer) -> TwoLayerCNNConfig:
    decay = DECAYS[optimizer.is_coupled]
    values = {**SIZES, "workload": "two_layer_cnn", "optimizer": optimizer, "weight_decay": decay, "seed": 0}
    config = config_from_values(values)
    assert isinstance(config, TwoLayerCNNConfig)
    return config


def has_box(config: TwoLayerCNNConfig) -> bool:
    return stuck_box(config, patch_data(config), weight_norm(initial_state(config).weights)) is not None


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_the_optimizers_of_today_have_all_of_it(optimizer: Optimizer) -> None:
    config = config_of(optimizer)
    assert has_box(config)
    for engine in ("fused-cpu", "reference"):
        state = initial_state(config)
        make_engine(engine, config, patch_data(config)).train(state, 1)
    assert look_of(optimizer).name.lower() == optimizer


def test_a_new_optimizer_never_has_a_certificate(lion: Optimizer) -> None:
    config = config_of(lion)
    assert not has_box(config)
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for the largest update"):
        largest_step(config)


def test_a_sweep_that_asks_for_its_certificates_is_refused_before_training(lion: Optimizer) -> None:
    grid = Grid({"lion": {"weight_decay": 1.0}}, {}, SIZES)
    assert len(Sweep("plain", "", (grid,), seeds=(0,)).configs()) == 1
    with pytest.raises(ConfigError) as refusal:
        Sweep("certified", "", (grid,), seeds=(0,), accepts_certificates=True).configs()
    assert str(refusal.value) == (
        "certified accepts certificates: optimizer 'lion' has no entry for the largest update, which a certificate "
        "needs (known: adam, adamw, signsgd, signsgdw)"
    )


def test_no_engine_trains_it_by_another_rule(lion: Optimizer) -> None:
    config = config_of(lion)
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for an update in the fused engine"):
        make_engine("fused-cpu", config, patch_data(config))
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for an update rule in torch"):
        make_optimizer(config, [torch.zeros(2, requires_grad=True)])


def test_its_updates_are_not_compared_as_adams(lion: Optimizer) -> None:
    config = config_of(lion)
    moments = np.zeros((40, 8)), np.zeros((40, 8))
    with pytest.raises(ConfigError, match="adam's or adamw's, got optimizer lion"):
        AdamSteps(config, patch_data(config), initial_state(config).weights, moments, 0)
    values = {**config.model_dump(exclude={"workload"}), "workload": "sign_agreement"}
    with pytest.raises(ConfigError, match="sign_agreement compares adam or adamw with sign descent, got lion"):
        config_from_values(values)


def test_no_figure_draws_it_without_a_look(lion: Optimizer) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for its look in figures"):
        look_of(lion)


def test_an_optimizer_without_traits_is_no_optimizer(lion: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPTIMIZER_TRAITS, lion)
    values = {**SIZES, "workload": "two_layer_cnn", "optimizer": "lion", "weight_decay": 1.0, "seed": 0}
    with pytest.raises(ConfigError, match=r"^optimizer 'lion' has no entry for whether its decay is coupled"):
        config_from_values(values)
