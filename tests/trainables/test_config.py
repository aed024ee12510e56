"""A trial is a value whose hash is its name: what the name depends on, and which values a config rejects."""

from __future__ import annotations

import math
import pickle
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from trainables.config import ADDED_LATER, TrialConfig, make_config
from trainables.errors import ConfigError
from trainables.registry import config_from_values
from trainables.two_layer_cnn.config import TwoLayerCNNConfig

BASE = {"optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 0}


def make(**values: Any) -> TwoLayerCNNConfig:
    config = make_config(TwoLayerCNNConfig, {**BASE, **values})
    assert isinstance(config, TwoLayerCNNConfig)
    return config


class Extended(TwoLayerCNNConfig):
    """A later release: the same workload with one more option."""

    label_noise: Annotated[float, ADDED_LATER] = 0.0


class Revised(TwoLayerCNNConfig):
    """A later release whose numbers differ."""

    numeric_version: ClassVar[int] = 2


# --- names ---


def test_golden_trial_id() -> None:
    """Renaming a trial orphans every stored result: increase `numeric_version` deliberately instead."""
    assert make().trial_id == "acf96025121bb7a0"
    assert make().canonical_json() == (
        '{"activation_power":3,"batch_size":2,"beta1":0.9,"beta2":0.999,"bias_correction":true,"dimension":1000,'
        '"epsilon":1e-08,"epsilon_rule":"fixed","feature_noise":0.2,"init_std":0.01,"learning_rate":5e-05,'
        '"noise_sparsity":100,"noise_std":0.1,"num_epochs":10000,"num_filters":20,"num_test":10000,"num_train":200,'
        '"optimizer":"adam","precision":"float32","seed":0,"weight_decay":1e-05,"workload":"two_layer_cnn"}'
    )


def test_equal_configs_have_one_name() -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make(learning_rate=5e-5, num_epochs=10_000).trial_id == make().trial_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"weight_decay": 1}, {"weight_decay": 1.0}),
        ({"weight_decay": -0.0}, {"weight_decay": 0}),
        ({"batch_size": 2}, {"batch_size": 2.0}),
        ({"weight_decay": "1e-5"}, {"weight_decay": 0.00001}),
        ({"weight_decay": np.float64(1e-5)}, {"weight_decay": 1e-5}),
        ({"feature_noise": -0.0}, {"feature_noise": 0.0}),
        ({"precision": "float32"}, {}),
    ],
)
def test_numbers_are_typed_as_declared(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert make(**one).canonical_json() == make(**other).canonical_json()


CHANGES: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 2e-5,
    "learning_rate": 1e-4,
    "batch_size": 4,
    "num_epochs": 100,
    "seed": 1,
    "beta1": 0.5,
    "beta2": 0.99,
    "epsilon": 1e-6,
    "epsilon_rule": "lambda_eta",
    "bias_correction": False,
    "precision": "float64",
    "num_train": 100,
    "num_test": 100,
    "dimension": 500,
    "noise_sparsity": 50,
    "noise_std": 0.2,
    "feature_noise": 0.1,
    "num_filters": 10,
    "activation_power": 2,
    "init_std": 0.02,
}


def test_every_field_that_changes_the_numbers_is_in_the_name() -> None:
    assert set(CHANGES) == set(TwoLayerCNNConfig.model_fields) - {"workload"}
    names = {make(**{field: value}).trial_id for field, value in CHANGES.items()}
    assert len(names | {make().trial_id}) == len(CHANGES) + 1


@pytest.mark.parametrize("sparsity", [64, 64.0, "64"])
def test_default_noise_std_is_the_number_given_by_hand(sparsity: Any) -> None:
    resolved = make(noise_sparsity=sparsity)
    assert resolved.noise_std == 0.125
    assert resolved.trial_id == make(noise_sparsity=64, noise_std=0.125).trial_id
    assert make(noise_std=None).trial_id == make().trial_id == make(noise_std=1 / math.sqrt(100)).trial_id


@pytest.mark.parametrize("optimizer", ["signsgd", "signsgdw"])
def test_fields_that_the_optimizer_ignores_do_not_split_a_trial(optimizer: str) -> None:
    plain = make(optimizer=optimizer)
    assert plain.beta1 is plain.beta2 is plain.epsilon is plain.epsilon_rule is plain.bias_correction is None
    other = make(optimizer=optimizer, beta1=0.5, beta2=0.6, epsilon=1.0, epsilon_rule="lambda_eta")
    assert other.trial_id == plain.trial_id


def test_the_fixed_epsilon_is_ignored_under_lambda_eta() -> None:
    config = make(epsilon_rule="lambda_eta", weight_decay=1e-2, epsilon=0.5)
    assert config.epsilon is None
    assert config.epsilon_value == pytest.approx(1e-2 * 5e-5, rel=1e-15)
    assert config.trial_id == make(epsilon_rule="lambda_eta", weight_decay=1e-2).trial_id


def test_trajectory_is_shared_across_lengths_only() -> None:
    short, long, other = make(num_epochs=10), make(num_epochs=20), make(num_epochs=10, seed=1)
    assert short.trajectory_id == long.trajectory_id
    assert short.trial_id != long.trial_id
    assert short.trajectory_id != other.trajectory_id
    assert short.trajectory_id != short.trial_id


def test_a_field_added_later_keeps_old_names_while_at_its_default() -> None:
    assert make_config(Extended, BASE).trial_id == make().trial_id
    assert make_config(Extended, {**BASE, "label_noise": 0}).trial_id == make().trial_id
    assert make_config(Extended, {**BASE, "label_noise": 0.1}).trial_id != make().trial_id


def test_another_numeric_version_is_another_name() -> None:
    assert make_config(Revised, BASE).trial_id != make().trial_id


def test_a_stored_row_gives_back_its_config() -> None:
    config = make(optimizer="signsgdw", noise_sparsity=7)
    again = config_from_values(config.model_dump(mode="json"))
    assert again == config
    assert again.trial_id == config.trial_id


def test_pickling_round_trip() -> None:
    config = make(epsilon_rule="lambda_eta")
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.trial_id == config.trial_id


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().weight_decay = 1.0  # type: ignore[misc]


def test_steps_per_epoch_counts_the_last_smaller_batch() -> None:
    assert [make(batch_size=b).steps_per_epoch for b in (1, 7, 100, 200)] == [200, 29, 2, 1]


# --- refusals ---


def fault(config_type: type[TrialConfig] = TwoLayerCNNConfig, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        make_config(config_type, {**BASE, **values})
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"weight_decay": -1}, "weight_decay: input should be greater than or equal to 0, got -1"),
        ({"weight_decay": math.nan}, "weight_decay: input should be a finite number, got nan"),
        ({"weight_decay": math.inf}, "weight_decay: input should be a finite number, got inf"),
        ({"weight_decay": True}, "weight_decay: expected a number or a name, not a truth value, got True"),
        ({"weight_decay": None}, "weight_decay: input should be a valid number, got None"),
        ({"learning_rate": 0}, "learning_rate: input should be greater than 0, got 0"),
        ({"batch_size": 0}, "batch_size: input should be greater than or equal to 1, got 0"),
        ({"batch_size": True}, "batch_size: expected a number or a name, not a truth value, got True"),
        ({"batch_size": 201}, "batch_size <= num_train is required, got B=201, n=200"),
        ({"num_epochs": 0}, "num_epochs: input should be greater than or equal to 1, got 0"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
        ({"seed": 2**63}, f"seed: input should be less than {2**63}, got {2**63}"),
        ({"beta1": 1}, "beta1: input should be less than 1, got 1"),
        ({"beta1": 0.95, "beta2": 0.9}, "beta1^2 < beta2 is required, got beta1=0.95, beta2=0.9"),
        ({"beta1": 0.9, "beta2": 0.81}, "beta1^2 < beta2 is required, got beta1=0.9, beta2=0.81"),
        ({"beta2": None}, "adam needs beta2"),
        ({"epsilon": 0}, "epsilon: input should be greater than 0, got 0"),
        ({"epsilon": None}, "epsilon_rule=fixed needs an epsilon"),
        (
            {"epsilon_rule": "lambda_eta", "weight_decay": 0},
            "epsilon_rule=lambda_eta needs weight_decay > 0, got weight_decay=0",
        ),
        ({"noise_sparsity": 1000}, "noise_sparsity < dimension is required, got s=1000, d=1000"),
        ({"noise_sparsity": 0}, "noise_sparsity: input should be greater than or equal to 1, got 0"),
        ({"noise_std": 0}, "noise_std: input should be greater than 0, got 0"),
        ({"feature_noise": 1}, "feature_noise: input should be less than 1, got 1"),
        ({"activation_power": 1}, "activation_power: input should be greater than or equal to 2, got 1"),
        ({"num_filters": 0}, "num_filters: input should be greater than or equal to 1, got 0"),
        ({"init_std": 0}, "init_std: input should be greater than 0, got 0"),
        ({"workload": "cifar"}, "workload: input should be 'two_layer_cnn', got 'cifar'"),
    ],
)
def test_a_value_out_of_range_is_one_line(values: dict[str, Any], line: str) -> None:
    assert fault(**values) == line


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 2.5), ("batch_size", "two"), ("weight_decay", "small"), ("seed", [0])]
)
def test_a_value_of_the_wrong_type_is_named(name: str, value: Any) -> None:
    line = fault(**{name: value})
    assert line.startswith(f"{name}: input should be a valid ")
    assert line.endswith(f", got {value!r}")


def test_an_unknown_optimizer_is_answered_with_the_known_ones() -> None:
    line = fault(optimizer="adamax")
    assert line == "optimizer: input should be 'adam', 'adamw', 'signsgd' or 'signsgdw', got 'adamax'"


def test_an_unknown_field_is_answered_with_the_nearest_name() -> None:
    line = fault(weight_dcay=1e-3)
    assert line.startswith("unknown field 'weight_dcay'; did you mean 'weight_decay'? (known: activation_power, ")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^batch_size: field required; seed: field required$"):
        make_config(TwoLayerCNNConfig, {"optimizer": "adam", "weight_decay": 0})


def test_several_faults_come_in_one_line() -> None:
    line = fault(weight_decay=-1, batch_size=2.5, optimizer="sgd")
    assert [part.partition(":")[0] for part in line.split("; ")] == ["optimizer", "weight_decay", "batch_size"]
    line = fault(weight_dcay=1, seeed=2)
    assert "'weight_decay'?" in line
    assert "'seed'?" in line


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "a trial needs a workload (known: image_classifier, sign_agreement, two_layer_cnn)"),
        ({"workload": "two_layer_cn"}, "unknown workload 'two_layer_cn'; did you mean 'two_layer_cnn'? (known: "),
        ({"workload": "two_layer_cnn", **BASE, "batch_size": 0}, "batch_size: "),
    ],
)
def test_faults_of_a_flat_mapping(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_values(values)
    assert str(caught.value).startswith(line)
