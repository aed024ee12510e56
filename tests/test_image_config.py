"""The image workload's config: its rules, what it fills in from the images, and the hash that names its trials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.images import image_folders
from trainables.errors import ConfigError, DataError
from trainables.image_config import ImageClassifierConfig
from trainables.registry import config_from_values

VALUES = {
    "workload": "image_classifier",
    "dataset": "tiny16",
    "architecture": "resnet8",
    "optimizer": "adam",
    "weight_decay": 5e-4,
    "batch_size": 16,
    "seed": 0,
}
DESCRIBED = {
    "dataset_digest": "0123456789abcdef",
    "num_train": 50_000,
    "num_test": 10_000,
    "subset_seed": None,
    "image_size": 32,
    "num_classes": 10,
    "channels": 3,
}
"""What the manifest of the whole CIFAR-10 would say."""


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 16):
        yield


def make_config(**values: Any) -> ImageClassifierConfig:
    config = config_from_values({**VALUES, **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def test_the_images_describe_themselves() -> None:
    config = make_config()
    assert (config.num_train, config.num_test, config.num_classes) == (48, 24, 3)
    assert (config.image_size, config.channels, config.subset_seed) == (16, 3, None)
    assert len(config.dataset_digest) == 16
    assert (config.beta1, config.beta2, config.num_epochs) == (0.9, 0.99, 100)


def test_what_follows_from_other_fields_does_not_name_another_trial() -> None:
    plain = make_config()
    for same in (
        {"num_train": 48, "num_test": 24},
        {"num_train": 48, "subset_seed": 7},
        {"image_size": 16},
        {"micro_batch_size": 16},
        {"micro_batch_size": 100},
        {"batchnorm_policy": "batch"},
        {"augment_crop": 0, "augment_flip": False},
    ):
        assert make_config(**same).trial_id == plain.trial_id, same
    for other in ({"num_train": 24}, {"num_train": 24, "subset_seed": 7}, {"image_size": 20}, {"micro_batch_size": 8}):
        assert make_config(**other).trial_id != plain.trial_id, other
    assert make_config(num_train=24).trial_id != make_config(num_train=24, subset_seed=7).trial_id


def test_the_policy_of_batch_norm_is_explicit() -> None:
    assert make_config().batchnorm_policy == "batch"
    assert make_config(micro_batch_size=8).batchnorm_policy == "micro_batch"
    assert make_config(micro_batch_size=8, normalization="group").batchnorm_policy is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 49}, "batch_size <= num_train is required, got B=49, n=48"),
        ({"micro_batch_size": 8, "batchnorm_policy": "batch"}, "needs the batch in one pass, got micro_batch_size=8"),
        ({"batchnorm_policy": "micro_batch"}, "needs a micro_batch_size below batch_size"),
        ({"architecture": "vgg16"}, "vgg16 needs images of 32 pixels, got 16: image_size=32 pads them"),
        ({"architecture": "resnet9"}, "'resnet8', 'resnet18', 'resnet50', 'resnet101' or 'vgg16'"),
        ({"augment_crop": True}, "expected a number or a name, not a truth value"),
        ({"augment_crop": -1}, "augment_crop: input should be greater than or equal to 0"),
        ({"normalisation": "group"}, "unknown field 'normalisation'; did you mean 'normalization'?"),
        ({"beta1": 0.9, "beta2": 0.5}, "beta1^2 < beta2 is required"),
        ({"precision": "float16"}, "precision: "),
    ],
)
def test_a_broken_rule_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_that_are_not_there_are_said_by_the_config() -> None:
    with pytest.raises(DataError, match="'tiny16' has 48 training images, 100 are asked"):
        make_config(num_train=100)
    with pytest.raises(DataError, match="unknown data set 'tiny61'; did you mean 'tiny16'"):
        make_config(dataset="tiny61")


def test_a_described_config_needs_no_images_and_its_name_never_changes() -> None:
    config = make_config(dataset="cifar10", architecture="resnet18", **DESCRIBED)
    assert config.trial_id == "b8031b2e12d35983"
    assert config.has_small_stem
    assert config.steps_per_epoch == 3125
    assert not make_config(dataset="x", **{**DESCRIBED, "image_size": 224}).has_small_stem


def test_two_layer_cnn_has_no_bfloat16() -> None:
    with pytest.raises(ConfigError, match="precision is float32 or float64 for two_layer_cnn, got bfloat16"):
        config_from_values(
            {
                "workload": "two_layer_cnn",
                "optimizer": "adam",
                "weight_decay": 0,
                "batch_size": 2,
                "seed": 0,
                "precision": "bfloat16",
            }
        )
