"""An image trial's config: which values it rejects, what it fills in from the images; one trial has one name."""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import image_folders
from trainables.config import make_config
from trainables.errors import ConfigError, DataError
from trainables.image_classifier.config import Architecture, ImageClassifierConfig, whole_number
from trainables.image_classifier.workload import mega_products
from trainables.registry import config_from_values, workload

BASE = {"optimizer": "adam", "weight_decay": 1e-4, "batch_size": 8, "seed": 0}
IMAGES = {
    "num_train": 48,
    "num_test": 24,
    "subset_seed": None,
    "image_size": 16,
    "num_classes": 3,
    "channels": 3,
}


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("images")
    with image_folders(root, 16, 32):
        yield root


def make(**values: Any) -> ImageClassifierConfig:
    """A config whose image fields are all given, so that no images are read."""
    config = make_config(ImageClassifierConfig, {**BASE, **IMAGES, "dataset_digest": "0123456789abcdef", **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def complete(**values: Any) -> ImageClassifierConfig:
    """A config whose missing image fields are filled in from the images."""
    config = config_from_values({"workload": "image_classifier", "dataset": "tiny16", **BASE, **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def fault(**values: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        complete(**values)
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- names ---


def test_golden_trial_id() -> None:
    """Renaming a trial orphans every stored result: increase `numeric_version` deliberately instead."""
    assert make().canonical_json() == (
        '{"architecture":"resnet18","augment_crop":0,"augment_flip":false,"batch_size":8,"batchnorm_policy":"batch",'
        '"beta1":0.9,"beta2":0.99,"bias_correction":true,"channels":3,"dataset":"cifar10",'
        '"dataset_digest":"0123456789abcdef","epsilon":1e-08,"epsilon_rule":"fixed","image_size":16,'
        '"learning_rate":0.0001,"micro_batch_size":null,"normalization":"batch","num_classes":3,"num_epochs":100,'
        '"num_test":24,"num_train":48,"optimizer":"adam","precision":"float32","seed":0,"subset_seed":null,'
        '"weight_decay":0.0001,"workload":"image_classifier"}'
    )
    assert make().trial_id == "920ba2240d36e68b"
    cifar = {"num_train": 50_000, "num_test": 10_000, "image_size": 32, "num_classes": 10}
    assert make(**cifar, batch_size=16, weight_decay=5e-4).trial_id == "3de90f044d672351", "figure 1's Adam"


CHANGES: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 2e-4,
    "learning_rate": 1e-3,
    "batch_size": 4,
    "num_epochs": 10,
    "seed": 1,
    "beta1": 0.5,
    "beta2": 0.95,
    "epsilon": 1e-6,
    "epsilon_rule": "lambda_eta",
    "bias_correction": False,
    "precision": "bfloat16",
    "dataset": "cifar100",
    "architecture": "resnet8",
    "normalization": "group",
    "micro_batch_size": 4,
    "augment_flip": True,
    "augment_crop": 4,
    "image_size": 32,
    "num_train": 24,
    "num_test": 12,
    "subset_seed": 0,
    "dataset_digest": "fedcba9876543210",
    "num_classes": 4,
    "channels": 1,
}


def test_every_field_that_changes_the_numbers_is_in_the_name() -> None:
    follows = {"workload", "batchnorm_policy"}  # the policy is told by micro_batch_size and normalization
    assert set(CHANGES) == set(ImageClassifierConfig.model_fields) - follows
    names = {make(**{field: value}).trial_id for field, value in CHANGES.items()}
    assert len(names | {make().trial_id}) == len(CHANGES) + 1


def test_the_name_depends_on_the_images_and_not_on_where_they_lie(images: Path, tmp_path: Path) -> None:
    here = complete()
    with pytest.MonkeyPatch.context() as patch:
        shutil.copytree(images / "data", tmp_path / "elsewhere")
        patch.setenv("LAMBDA_ATLAS_DATA", str(tmp_path / "elsewhere"))
        patch.setenv("LAMBDA_ATLAS_CACHE", str(tmp_path / "cache"))
        assert complete() == here
        assert complete().trial_id == here.trial_id
    assert complete(dataset="tiny32").dataset_digest != here.dataset_digest


def test_a_stored_row_and_a_pickle_give_back_the_config() -> None:
    config = complete(optimizer="signsgdw", num_train=24, micro_batch_size=4)
    for again in (config_from_values(config.model_dump(mode="json")), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.trial_id == config.trial_id


def test_trajectory_is_shared_across_lengths_only() -> None:
    assert make(num_epochs=10).trajectory_id == make(num_epochs=20).trajectory_id
    assert make(num_epochs=10).trajectory_id != make(num_epochs=10, augment_flip=True).trajectory_id


# --- completed from the images ---


def test_what_the_images_tell_is_filled_in() -> None:
    config = complete()
    assert {name: getattr(config, name) for name in IMAGES} == IMAGES
    assert len(config.dataset_digest) == 16
    assert complete(dataset="tiny32").image_size == 32


@pytest.mark.parametrize(
    "explicit",
    [
        IMAGES,
        {"num_train": 48},
        {"num_test": 24, "subset_seed": 7},
        {"image_size": 16},
        {"num_train": 48.0, "num_test": "24", "image_size": "16"},
        {"num_classes": 3, "channels": "3"},
        {"num_train": None, "image_size": None, "dataset_digest": None},
    ],
)
def test_all_images_given_explicitly_are_the_same_trial(explicit: dict[str, Any]) -> None:
    assert complete(**explicit).trial_id == complete().trial_id


@pytest.mark.parametrize("asked", [24, 24.0, "24"])
def test_a_subset_is_another_trial_and_named_by_its_seed(asked: Any) -> None:
    subset = complete(num_train=asked)
    assert (subset.num_train, subset.subset_seed) == (24, 0)
    assert subset.dataset_digest not in (
        complete().dataset_digest,
        complete(num_train=24, subset_seed=1).dataset_digest,
    )
    assert subset.trial_id == complete(num_train=24, subset_seed=0).trial_id
    assert complete(num_train=24, subset_seed=1).subset_seed == 1


def test_another_size_is_filled_in() -> None:
    resized = complete(image_size=32)
    assert resized.image_size == 32
    assert resized.dataset_digest != complete().dataset_digest


@pytest.mark.parametrize("normalization", ["batch", "group"])
@pytest.mark.parametrize("whole", [8, 100, 8.0, "8"])
def test_a_micro_batch_of_the_whole_batch_is_none(whole: Any, normalization: str) -> None:
    plain = make(normalization=normalization)
    config = make(micro_batch_size=whole, normalization=normalization)
    assert config.micro_batch_size is None
    assert config.trial_id == plain.trial_id
    assert make(batch_size="8", micro_batch_size=whole, normalization=normalization).trial_id == plain.trial_id


def test_the_policy_follows_from_micro_batch_and_normalization() -> None:
    assert make().batchnorm_policy == "batch"
    assert make().trial_id == make(batchnorm_policy="batch").trial_id
    assert make(micro_batch_size=4).batchnorm_policy == "micro_batch"
    assert make(micro_batch_size=4).trial_id == make(micro_batch_size=4, batchnorm_policy="micro_batch").trial_id
    for policy in (None, "batch", "micro_batch"):
        group = make(normalization="group", micro_batch_size=4, batchnorm_policy=policy)
        assert group.batchnorm_policy is None
        assert group.trial_id == make(normalization="group", micro_batch_size=4).trial_id


def test_fields_that_the_optimizer_ignores_do_not_split_a_trial() -> None:
    assert make(optimizer="signsgd", beta2=0.5).trial_id == make(optimizer="signsgd").trial_id


def test_whole_number_reads_as_an_integer_field_does() -> None:
    for value in (8, 8.0, "8", 0, -3, 2**70):
        assert whole_number(value) == int(value)
    for value in (None, True, False, 8.5, "eight", [8], math.nan, math.inf):
        assert whole_number(value) is None


def test_derived_numbers() -> None:
    assert [make(batch_size=b).steps_per_epoch for b in (1, 7, 47, 48)] == [48, 7, 2, 1]
    assert [make(image_size=s).has_small_stem for s in (8, 64, 65)] == [True, True, False]


def test_cost_and_memory_grow_with_what_is_trained() -> None:
    images_of = workload("image_classifier")
    for dearer in ({"architecture": "resnet50"}, {"num_epochs": 200}, {"batch_size": 4}, {"image_size": 32}):
        assert images_of.cost(make(**dearer)) > images_of.cost(make()), dearer
    for larger in ({"batch_size": 16}, {"image_size": 32}, {"architecture": "resnet50"}):
        assert images_of.memory(make(**larger)) > images_of.memory(make()), larger
    assert images_of.memory(make(micro_batch_size=4)) < images_of.memory(make())
    for architecture in Architecture:
        for sizes in ((32, 64), (65, 224)):  # of each stem
            small, large = (mega_products(make(architecture=architecture, image_size=s)) for s in sizes)
            assert 0 < small < large


# --- refused ---


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"weight_decay": -1}, "weight_decay: input should be greater than or equal to 0, got -1"),
        ({"num_epochs": 0}, "num_epochs: input should be greater than or equal to 1, got 0"),
        ({"batch_size": 49}, "batch_size <= num_train is required, got B=49, n=48"),
        ({"batch_size": 25, "num_train": 24}, "batch_size <= num_train is required, got B=25, n=24"),
        ({"micro_batch_size": 0}, "micro_batch_size: input should be greater than or equal to 1, got 0"),
        ({"augment_crop": 65}, "augment_crop: input should be less than or equal to 64, got 65"),
        ({"augment_crop": -1}, "augment_crop: input should be greater than or equal to 0, got -1"),
        ({"beta1": 0.9, "beta2": 0.81}, "beta1^2 < beta2 is required, got beta1=0.9, beta2=0.81"),
        (
            {"micro_batch_size": 4, "batchnorm_policy": "batch"},
            "batchnorm_policy=batch needs the batch in one pass, got micro_batch_size=4",
        ),
        (
            {"batchnorm_policy": "micro_batch"},
            "batchnorm_policy=micro_batch needs a micro_batch_size below batch_size",
        ),
        (
            {"architecture": "vgg16"},
            "vgg16 needs images of 32 pixels, got 16: image_size=32 pads them",
        ),
        (
            {"architecture": "resnet34"},
            "architecture: input should be 'resnet8', 'resnet18', 'resnet50', 'resnet101' or 'vgg16', got 'resnet34'",
        ),
        ({"precision": "float16"}, "precision: input should be 'float32', 'float64' or 'bfloat16', got 'float16'"),
        ({"normalization": "layer"}, "normalization: input should be 'batch' or 'group', got 'layer'"),
        ({"num_classes": 10}, "num_classes of 'tiny16' is 3, got 10"),
        ({"channels": 1}, "channels of 'tiny16' is 3, got 1"),
        ({"num_train": 0}, "1 <= num_train <= 1000000000 is required, got 0"),
        ({"image_size": 4}, "8 <= image_size <= 1024 is required, got 4"),
        ({"subset_seed": -1}, f"0 <= subset_seed <= {2**63 - 1} is required, got -1"),
    ],
)
def test_a_value_out_of_range_is_one_line(values: dict[str, Any], line: str) -> None:
    assert fault(**values) == line


NUMBERS = sorted(
    set(ImageClassifierConfig.model_fields)
    - {"workload", "dataset", "architecture", "normalization", "batchnorm_policy", "dataset_digest", "augment_flip"}
    - {"optimizer", "epsilon_rule", "precision", "bias_correction"}
)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_truth_value_is_no_number(name: str) -> None:
    assert f"{name}: expected a number or a name, not a truth value, got True" in fault(**{name: True})


@pytest.mark.parametrize("name", ["batch_size", "num_train", "num_test", "image_size", "subset_seed", "num_classes"])
@pytest.mark.parametrize("value", [2.5, "two", [8]])
def test_a_value_of_the_wrong_type_is_named(name: str, value: Any) -> None:
    line = fault(**{name: value})
    assert f"{name}: input should be a valid " in line
    assert line.endswith(f", got {value!r}")


@pytest.mark.parametrize("value", [2, "perhaps", None])
def test_a_flip_is_true_or_false(value: Any) -> None:
    assert fault(augment_flip=value).startswith("augment_flip: input should be a valid boolean")


def test_two_layer_cnn_has_no_bfloat16() -> None:
    with pytest.raises(ConfigError, match=r"^precision is float32 or float64 for two_layer_cnn, got bfloat16$"):
        config_from_values({"workload": "two_layer_cnn", **BASE, "precision": "bfloat16"})


def test_more_images_than_there_are_is_one_line() -> None:
    assert fault(num_train=60) == "'tiny16' has 48 training images, 60 are requested"
    assert fault(num_test=30) == "'tiny16' has 24 test images, 30 are requested"


def test_an_unknown_data_set_is_answered_with_the_nearest_name() -> None:
    line = fault(dataset="tiny61")
    assert line.startswith("unknown data set 'tiny61'; did you mean 'tiny16'? (known: ")
    assert "tiny32" in line


def test_an_unknown_field_is_answered_with_the_nearest_name_before_any_image_is_read() -> None:
    line = fault(dataset="nowhere", micro_batchsize=4)
    assert line.startswith("unknown field 'micro_batchsize'; did you mean 'micro_batch_size'? (known: ")


def test_several_faults_come_in_one_line() -> None:
    line = fault(weight_decay=-1, architecture="resnet9", num_train=True)
    assert [part.partition(":")[0] for part in line.split("; ")] == ["weight_decay", "architecture", "num_train"]


@pytest.mark.parametrize(("architecture", "smallest"), [("vgg16", 32), ("resnet8", 8), ("resnet101", 8)])
def test_the_smallest_images_of_each_network(architecture: str, smallest: int) -> None:
    assert make(architecture=architecture, image_size=smallest).image_size == smallest
    with pytest.raises(ConfigError, match=rf"{smallest}.*, got {smallest - 1}"):
        make(architecture=architecture, image_size=smallest - 1)
