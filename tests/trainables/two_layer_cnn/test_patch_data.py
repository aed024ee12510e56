"""The data of Definition 3.1: their statistics, and that the random streams of different purposes are independent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainables.config import make_config
from trainables.random_streams import ORDER_BLOCK_EPOCHS, Purpose, digest, order_block, stream
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import PatchSamples, patch_data
from trainables.two_layer_cnn.state import epoch_orders, initial_state


def make(**values: Any) -> TwoLayerCNNConfig:
    base = {"optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 3, "num_test": 2000}
    config = make_config(TwoLayerCNNConfig, {**base, **values})
    assert isinstance(config, TwoLayerCNNConfig)
    return config


def same(one: PatchSamples, other: PatchSamples) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("labels", "support", "values", "signal_first")
    )


def parts(config: TwoLayerCNNConfig) -> list[PatchSamples]:
    data = patch_data(config)
    return [data.train, data.test]


def test_support_is_s_distinct_coordinates_beside_the_feature() -> None:
    for samples in parts(make()):
        assert samples.support.shape == (len(samples.labels), 101)
        assert (samples.support[:, 0] == 0).all()
        assert (samples.support[:, 1:] >= 1).all()
        assert (samples.support < 1000).all()
        assert (np.diff(samples.support.astype(np.int64), axis=1) > 0).all(), "distinct, in rising order"


def test_support_is_uniform_over_the_other_coordinates() -> None:
    support = patch_data(make()).test.support[:, 1:]
    counts = np.bincount(support.ravel(), minlength=1000)[1:]
    expected = 2000 * 100 / 999
    # Each count is binomial with standard deviation 13.4; the largest deviation of 999 lies near 3.3 of them.
    assert np.abs(counts - expected).max() < 5.5 * np.sqrt(expected * 0.9)
    assert counts.std() == pytest.approx(np.sqrt(expected * 0.9), rel=0.15)


def test_all_other_coordinates_may_be_noise() -> None:
    samples = patch_data(make(dimension=5, noise_sparsity=4)).test
    assert (samples.support == np.arange(5)).all()


@pytest.mark.parametrize(("values", "std"), [({}, 0.1), ({"noise_sparsity": 25}, 0.2), ({"noise_std": 3.0}, 3.0)])
def test_noise_is_gaussian_of_the_given_spread(values: dict[str, Any], std: float) -> None:
    noise = patch_data(make(**values)).test.values[:, 1:].ravel()
    assert abs(noise.mean()) < 5 * std / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(std, rel=5 / np.sqrt(2 * noise.size))
    assert (noise**4).mean() == pytest.approx(3 * std**4, rel=0.1)


@pytest.mark.parametrize("alpha", [0.2, 0.0])
def test_feature_noise_has_the_wrong_sign(alpha: float) -> None:
    for samples in parts(make(feature_noise=alpha)):
        assert np.array_equal(samples.values[:, 0], -alpha * samples.labels)


def test_train_labels_are_balanced_and_test_labels_fair() -> None:
    train, test = parts(make())
    assert sorted(set(train.labels)) == [-1.0, 1.0]
    assert train.labels.sum() == 0
    assert sorted(set(test.labels)) == [-1.0, 1.0]
    assert abs(test.labels.sum()) < 5 * np.sqrt(2000)


def test_patch_order_is_a_fair_coin() -> None:
    for samples in parts(make()):
        assert abs(samples.signal_first.mean() - 0.5) < 2.5 / np.sqrt(len(samples.labels))


def test_dense_is_the_definition() -> None:
    config = make(dimension=40, noise_sparsity=6, num_train=30)
    samples = patch_data(config).train
    x = samples.dense(40)
    assert x.shape == (30, 2, 40)
    for i in range(30):
        signal, noise = x[i] if samples.signal_first[i] else x[i, ::-1]
        assert signal[0] == samples.labels[i]
        assert not signal[1:].any()
        assert np.count_nonzero(noise) == 7
        assert np.array_equal(noise[samples.support[i]], samples.values[i])


def test_part_and_astype_keep_the_samples() -> None:
    samples = patch_data(make()).test
    part = samples.part(10, 20)
    assert np.array_equal(part.dense(1000), samples.dense(1000)[10:20])
    narrow = samples.astype(np.float32)
    assert narrow.labels.dtype == narrow.values.dtype == np.float32
    assert np.array_equal(narrow.values, samples.values.astype(np.float32))
    assert samples.astype(np.float32) is narrow, "cast once a process"


def test_made_once_a_process_whatever_the_optimizer() -> None:
    data = patch_data(make(seed=11))
    others = {"optimizer": "signsgdw", "weight_decay": 0.1, "batch_size": 100, "learning_rate": 1e-3, "num_filters": 3}
    assert patch_data(make(seed=11, **others)) is data


def test_streams_are_independent_by_purpose() -> None:
    draws = [stream(0, purpose).random(4) for purpose in Purpose] + [stream(1, Purpose.INIT).random(4)]
    assert len({draw.tobytes() for draw in draws}) == len(Purpose) + 1
    few, many = make(num_test=10), make(num_test=500)
    assert same(patch_data(few).train, patch_data(many).train)
    assert np.array_equal(initial_state(few).weights, initial_state(many).weights)
    assert np.array_equal(epoch_orders(few, 0, 9), epoch_orders(many, 0, 9))
    assert patch_data(few).digest != patch_data(many).digest
    wide = make(num_filters=3, init_std=0.5)
    assert patch_data(wide) is patch_data(make())
    assert np.array_equal(epoch_orders(wide, 0, 9), epoch_orders(make(), 0, 9))


@pytest.mark.parametrize("change", [{"seed": 4}, {"feature_noise": 0.1}, {"noise_std": 0.2}, {"noise_sparsity": 50}])
def test_digest_changes_with_the_data(change: dict[str, Any]) -> None:
    assert patch_data(make(**change)).digest != patch_data(make()).digest


def test_digest_reads_every_number() -> None:
    samples = patch_data(make()).train
    for name in ("labels", "support", "values", "signal_first"):
        array = getattr(samples, name)
        changed = array.copy()
        changed.view(np.uint8).flat[-1] ^= 1
        assert digest(changed) != digest(array)


def test_each_epoch_is_a_fresh_permutation_without_generator_state() -> None:
    config = make(num_train=20)
    orders = np.concatenate([epoch_orders(config, 0, ORDER_BLOCK_EPOCHS), order_block(config.seed, 20, 1)])
    assert (np.sort(orders, axis=1) == np.arange(20)).all()
    assert len({row.tobytes() for row in orders}) == len(orders)
    for start in (0, 5, ORDER_BLOCK_EPOCHS - 1, ORDER_BLOCK_EPOCHS, ORDER_BLOCK_EPOCHS + 3):
        some = epoch_orders(config, start, start + 8)
        assert 1 <= len(some) <= 8
        assert np.array_equal(some, orders[start : start + len(some)])


def test_initial_filters_have_the_given_spread() -> None:
    state = initial_state(make())
    assert state.weights.shape == (1000, 40)
    assert state.weights.std() == pytest.approx(0.01, rel=0.02)
    assert abs(state.weights.mean()) < 5 * 0.01 / np.sqrt(40_000)
    assert not state.first_moment.any()
    assert not state.second_moment.any()
