"""The fused engine against the reference, and both against a hand-written torch loop and the paper's formulas."""

from __future__ import annotations

import itertools
import platform
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.cases import rest_slow
from trainables.config import make_config
from trainables.machine.torch_threads import torch_threads
from trainables.random_streams import order_block
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.fused import FusedEngine
from trainables.two_layer_cnn.patch_data import PatchData, patch_data
from trainables.two_layer_cnn.reference import ReferenceEngine, network_outputs
from trainables.two_layer_cnn.state import Engine, Floats, Probe, TrainState, initial_state
from trainables.two_layer_cnn.subnormals import flushed_subnormals
from trainables.two_layer_cnn.trace import trace_point

NUM_STEPS = 500
TOLERANCE = 1e-10
CAN_FLUSH = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")

# The decays are strong enough to count within 500 steps, the rates high enough that the softmax saturates in part.
RULES: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "weight_decay": 1e-4, "learning_rate": 1e-3},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.5, "learning_rate": 1e-3},
    "signsgd": {"optimizer": "signsgd", "weight_decay": 1e-4, "learning_rate": 3e-4},
    "signsgdw": {"optimizer": "signsgdw", "weight_decay": 0.5, "learning_rate": 3e-4},
}
UNCORRECTED = {"bias_correction": False}
LAMBDA_ETA = {"epsilon_rule": "lambda_eta"}


def make(rule: str = "adam", **values: Any) -> TwoLayerCNNConfig:
    base = {"batch_size": 7, "seed": 1, "num_test": 100, "precision": "float64"}
    config = make_config(TwoLayerCNNConfig, {**base, **RULES[rule], **values})
    assert isinstance(config, TwoLayerCNNConfig)
    return config


def trained(engine: type[Engine], config: TwoLayerCNNConfig, num_epochs: int) -> tuple[TrainState, Probe]:
    state, running = initial_state(config), engine(config, patch_data(config))  # type: ignore[call-arg]
    running.train(state, num_epochs)
    return state, running.probe(state)


def distance(one: Floats, other: Floats) -> float:
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    return float(np.abs(one - other).max())


def assert_engines_agree(config: TwoLayerCNNConfig) -> None:
    num_epochs = -(-NUM_STEPS // config.steps_per_epoch)
    fused, fused_probe = trained(FusedEngine, config, num_epochs)
    reference, reference_probe = trained(ReferenceEngine, config, num_epochs)
    assert fused.epoch == reference.epoch == num_epochs
    assert fused.step == reference.step >= NUM_STEPS
    assert distance(fused.weights, reference.weights) <= TOLERANCE
    # The fused engine keeps m / (1 - beta1) and v / (1 - beta2).
    for name, beta in (("first_moment", config.beta1), ("second_moment", config.beta2)):
        scale = 1 if beta is None else 1 - beta
        assert distance(scale * getattr(fused, name), getattr(reference, name)) <= TOLERANCE, name
    for name in ("train_margins", "test_margins", "noise"):
        assert distance(getattr(fused_probe, name), getattr(reference_probe, name)) <= TOLERANCE, name
    assert distance(reference.weights, initial_state(config).weights) > 0.01, "too little happened to compare"


# --- fused against reference ---

VARIANTS = [(rule, {}) for rule in RULES] + [
    (rule, options) for rule in ("adam", "adamw") for options in (UNCORRECTED, LAMBDA_ETA, UNCORRECTED | LAMBDA_ETA)
]


@pytest.mark.parametrize(
    ("rule", "options"), [pytest.param(*one, marks=[pytest.mark.slow] if one[1] else []) for one in VARIANTS]
)
def test_fused_equals_reference_when_batches_do_not_divide_the_epoch(rule: str, options: dict[str, Any]) -> None:
    assert_engines_agree(make(rule, batch_size=7, **options))


@pytest.mark.parametrize("rule", ["adam", "signsgdw"])
def test_fused_equals_reference_at_batches_of_one(rule: str) -> None:
    assert_engines_agree(make(rule, batch_size=1))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 200])
@pytest.mark.parametrize(("rule", "options"), VARIANTS)
def test_fused_equals_reference_at_all_batch_sizes(rule: str, options: dict[str, Any], batch_size: int) -> None:
    assert_engines_agree(make(rule, batch_size=batch_size, **options))


@pytest.mark.parametrize("rule", RULES)
def test_fused_equals_reference_at_full_batch_of_few_samples(rule: str) -> None:
    assert_engines_agree(make(rule, batch_size=20, num_train=20))


@pytest.mark.parametrize("q", [2, 4])
@pytest.mark.parametrize("rule", ["adam", "signsgdw"])
def test_fused_equals_reference_at_other_activation_powers(rule: str, q: int) -> None:
    assert_engines_agree(make(rule, activation_power=q, weight_decay=1e-6, init_std=0.05))


@pytest.mark.parametrize("num_filters", rest_slow((3, 1)))
def test_fused_equals_reference_at_other_widths(num_filters: int) -> None:
    assert_engines_agree(make("adamw", num_filters=num_filters, num_train=50))


def test_fused_equals_reference_without_momentum_and_feature_noise() -> None:
    assert_engines_agree(make("adam", beta1=0, beta2=0.5, feature_noise=0, noise_sparsity=3, dimension=50))


def test_engines_agree_in_float32_to_its_rounding() -> None:
    config = make("adamw", precision="float32")
    (fused, fused_probe), (reference, reference_probe) = (
        trained(engine, config, 4) for engine in (FusedEngine, ReferenceEngine)
    )
    assert fused.weights.dtype == fused_probe.train_margins.dtype == np.float32
    assert distance(fused.weights, reference.weights) <= 1e-5
    assert distance(fused_probe.test_margins, reference_probe.test_margins) <= 1e-5


# --- the reference against loops that share none of its code ---


@torch_threads(1)
def hand_written(config: TwoLayerCNNConfig, data: PatchData, num_epochs: int) -> tuple[Floats, Floats]:
    """Weights (d, 2m) and training margins of a plain torch.optim loop over dense data, from Definition 3.2 alone."""
    rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    first = torch.from_numpy(initial_state(config).weights)
    plus, minus = (half.clone().requires_grad_() for half in first.split(config.num_filters, dim=1))
    assert config.beta1 is not None
    assert config.beta2 is not None
    optimizer = rule(
        [plus, minus], lr=config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )
    x = torch.from_numpy(data.train.dense(config.dimension))
    y = torch.from_numpy(data.train.labels)

    def margins(rows: Any) -> torch.Tensor:
        outputs = [
            (torch.clamp(x[rows, 0] @ w, min=0) ** 3 + torch.clamp(x[rows, 1] @ w, min=0) ** 3).sum(1)
            for w in (plus, minus)
        ]
        return outputs[0] - outputs[1]

    for order in order_block(config.seed, config.num_train, 0)[:num_epochs].astype(np.int64):
        for start in range(0, config.num_train, config.batch_size):
            rows = order[start : start + config.batch_size]
            optimizer.zero_grad()
            torch.log1p(torch.exp(-y[rows] * margins(rows))).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    weights = torch.cat([plus, minus], dim=1).detach().numpy()
    return weights, margins(slice(None)).detach().numpy()


@pytest.mark.parametrize("rule", ["adam", "adamw"])
@pytest.mark.parametrize("engine", [ReferenceEngine, FusedEngine])
def test_engines_have_the_semantics_of_torch_optim(engine: type[Engine], rule: str) -> None:
    config = make(rule)
    state, probe = trained(engine, config, 10)
    weights, margins = hand_written(config, patch_data(config), 10)
    assert distance(state.weights, weights) <= TOLERANCE
    assert distance(probe.train_margins, margins) <= TOLERANCE


@pytest.mark.parametrize("engine", [ReferenceEngine, FusedEngine])
@pytest.mark.parametrize("rule", RULES)
def test_one_full_batch_step_is_the_papers_formula(engine: type[Engine], rule: str) -> None:
    """Equations (3.1)-(3.6) at t = 1 without bias correction, with the closed form of the gradient."""
    options = UNCORRECTED if "adam" in rule else {}
    config = make(
        rule, batch_size=6, num_train=6, dimension=8, noise_sparsity=3, num_filters=3, init_std=0.5, **options
    )
    data, first = patch_data(config).train, initial_state(config).weights
    gradient = np.zeros_like(first)
    x = data.dense(config.dimension)
    for i, y in enumerate(data.labels):
        z = np.maximum(0, x[i] @ first)  # (2 patches, 2m filters)
        outputs = (z**3).sum(axis=0).reshape(2, 3).sum(axis=1)
        softmax = np.exp(outputs) / np.exp(outputs).sum()
        for r, j in enumerate((1, 1, 1, -1, -1, -1)):
            ell = float(y == j) - softmax[0 if j == 1 else 1]
            gradient[:, r] -= ell * (3 * z[:, r] ** 2) @ x[i] / 6
    eta, decay = config.learning_rate, config.weight_decay
    if config.optimizer.is_coupled:
        gradient, kept = gradient + decay * first, first
    else:
        kept = (1 - eta * decay) * first
    if config.optimizer.has_moments:
        m, v = 0.1 * gradient, 0.001 * gradient**2
        expected = kept - eta * m / (np.sqrt(v) + 1e-8)
    else:
        expected = kept - eta * np.sign(gradient)
    state, _ = trained(engine, config, 1)
    assert distance(state.weights, expected) <= 1e-14


# --- free tests: what must be exactly equal ---


@pytest.mark.parametrize("engine", [FusedEngine, ReferenceEngine])
@pytest.mark.parametrize(("coupled", "decoupled"), [("adam", "adamw"), ("signsgd", "signsgdw")])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_coupling_is_nothing_without_decay(engine: type[Engine], coupled: str, decoupled: str, precision: str) -> None:
    one, other = (
        make(rule, weight_decay=0, learning_rate=5e-4, precision=precision, num_train=50)
        for rule in (coupled, decoupled)
    )
    data = patch_data(one)
    states = [initial_state(one), initial_state(other)]
    engines = [engine(one, data), engine(other, data)]  # type: ignore[call-arg]
    for epoch in (0, 1, 5, 12):
        points = []
        for config, state, running in zip((one, other), states, engines, strict=True):
            running.train(state, epoch)
            points.append(trace_point(config, data, state, running.probe(state)))
        assert points[0] == points[1]
        for name in ("weights", "first_moment", "second_moment"):
            assert getattr(states[0], name).tobytes() == getattr(states[1], name).tobytes(), (epoch, name)
    assert points[0].weight_norm != trace_point(one, data, initial_state(one), engines[0].probe(states[0])).weight_norm


def test_training_in_parts_is_training_at_once() -> None:
    config = make("adamw", precision="float32")
    whole, _ = trained(FusedEngine, config, 70)
    parts, engine = initial_state(config), FusedEngine(config, patch_data(config))
    for epoch in (1, 2, 63, 65, 70):
        engine.train(parts, epoch)
        engine = FusedEngine(config, patch_data(config))
    assert parts.weights.tobytes() == whole.weights.tobytes()
    assert (parts.epoch, parts.step) == (whole.epoch, whole.step)


def test_outputs_do_not_depend_on_patch_order() -> None:
    config = make(init_std=0.3)
    x = torch.from_numpy(patch_data(config).test.dense(config.dimension))
    filters = torch.from_numpy(initial_state(config).weights.T.reshape(2, config.num_filters, -1).copy())
    outputs = network_outputs(filters, x, config.activation_power)
    swapped = network_outputs(filters, x.flip(1), config.activation_power)
    assert outputs.abs().max() > 0.1
    torch.testing.assert_close(outputs, swapped, rtol=1e-14, atol=0)
    margins = (outputs[:, 0] - outputs[:, 1]).numpy()
    for engine in (FusedEngine, ReferenceEngine):
        assert distance(trained(engine, config, 0)[1].test_margins, margins) <= 1e-13


# --- subnormal numbers ---


def subnormal_count(array: Floats) -> int:
    return int(((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)).sum())


@pytest.mark.parametrize("engine", rest_slow((FusedEngine, ReferenceEngine)))
@pytest.mark.skipif(not CAN_FLUSH, reason="this processor's flush mode is not known")
def test_moments_skip_the_subnormal_range(engine: type[Engine]) -> None:
    """Once a sample is fitted, its gradient is 0 and its moments decay by beta in each step, to below 1e-38."""
    config = make(
        "adamw",
        learning_rate=0.02,
        beta2=0.9,
        precision="float32",
        num_train=2,
        batch_size=2,
        init_std=0.1,
    )
    state, running = initial_state(config), engine(config, patch_data(config))  # type: ignore[call-arg]
    subnormals = in_passing = 0
    for epoch in range(0, 1200, 20):
        running.train(state, epoch)
        subnormals += subnormal_count(state.first_moment) + subnormal_count(state.second_moment)
        in_passing += int(np.count_nonzero(np.abs(state.second_moment) < 1e-30) - (state.second_moment == 0).sum())
    assert subnormals == 0
    assert in_passing > 0, "no moment came near the range"


def smallest_is_flushed() -> bool:
    """Whether numpy flushes subnormal results to zero in this thread at this moment."""
    return not (np.full(4, np.finfo(np.float32).tiny) * np.float32(0.5)).any()


@pytest.mark.skipif(not CAN_FLUSH, reason="this processor's flush mode is not known")
def test_flushing_is_undone() -> None:
    config = make()
    assert not smallest_is_flushed()
    with flushed_subnormals():
        assert smallest_is_flushed()
        with flushed_subnormals():
            assert smallest_is_flushed()
        assert smallest_is_flushed(), "an inner scope leaves the outer one as it was"
    assert not smallest_is_flushed()
    with pytest.raises(ZeroDivisionError), flushed_subnormals():
        _ = 1 / 0
    assert not smallest_is_flushed()
    for engine, epochs in itertools.product((FusedEngine, ReferenceEngine), (0, 2)):
        trained(engine, config, epochs)
        assert not smallest_is_flushed()


def test_the_reference_trains_on_one_thread_and_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch_threads(1):
            assert torch.get_num_threads() == 1
        trained(ReferenceEngine, make(), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
