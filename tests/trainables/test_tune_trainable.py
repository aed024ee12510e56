"""A flat trial under a scheduler: a checkpoint is of the epoch reported last, and a changed config is trained with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import image_folders
from trainables.contract import Member
from trainables.registry import config_from_values, workload
from trainables.tune_trainable import PackTrainable

SYNTHETIC: dict[str, Any] = {
    "workload": "two_layer_cnn", "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 0,
    "num_epochs": 12, "num_train": 10, "num_test": 10, "dimension": 30, "noise_sparsity": 4, "num_filters": 3,
    "learning_rate": 1e-3,
}  # fmt: skip
IMAGES: dict[str, Any] = {
    "workload": "image_classifier", "dataset": "tiny8", "architecture": "resnet8", "optimizer": "adamw",
    "weight_decay": 1e-3, "learning_rate": 1e-3, "batch_size": 16, "num_epochs": 5, "seed": 0,
}  # fmt: skip
KINDS = pytest.mark.parametrize("values", [SYNTHETIC, IMAGES], ids=["synthetic", "images"])


@pytest.fixture(autouse=True, scope="module")
def _images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with image_folders(tmp_path_factory.mktemp("images"), 8):
        yield


def losses(trial: PackTrainable, num: int | float = math.inf) -> list[float]:
    """The training losses of the next `num` reports, or of all."""
    found: list[float] = []
    while len(found) < num:
        result = trial.step()
        found.append(result["train_loss"])
        if result["done"]:
            break
    return found


def trained(values: dict[str, Any], state: Any = None, until: int | None = None) -> tuple[list[float], Any]:
    """All training losses of a trial that Tune does not know of, and its last state."""
    config = config_from_values(values)
    run = workload(config.workload).open([Member(config, until or config.num_epochs, state)])
    points = []
    while not run.is_done:
        points += [point for report in run.advance(60) for point in report.points]
    return [point.train_loss for point in points], run.states()[config.trial_id]


def saved(trial: PackTrainable, folder: Path) -> str:
    folder.mkdir()
    trial.save_checkpoint(str(folder))
    return str(folder)


@KINDS
def test_a_checkpoint_is_of_the_epoch_reported_last(values: dict[str, Any], tmp_path: Path) -> None:
    trial = PackTrainable(values)
    first = losses(trial, 3)
    checkpoint = saved(trial, tmp_path / "checkpoint")
    rest = losses(trial)
    assert first + rest == trained(values)[0]
    resumed = PackTrainable(values)
    resumed.load_checkpoint(checkpoint)
    assert losses(resumed) == rest


@KINDS
def test_a_config_that_a_scheduler_changed_is_trained_with(values: dict[str, Any], tmp_path: Path) -> None:
    """As Population Based Training restores another trial's checkpoint under a changed learning rate."""
    donor = PackTrainable(values)
    last = [donor.step() for _ in range(3)][-1]
    changed = {**values, "learning_rate": 30 * values["learning_rate"]}
    trial = PackTrainable(changed)
    trial.load_checkpoint(saved(donor, tmp_path / "checkpoint"))
    _, state = trained(values, until=last["epoch"])
    assert losses(trial) == trained(changed, state)[0] != losses(donor)


def test_only_a_trial_of_one_config_has_its_name(tmp_path: Path) -> None:
    own, changed = SYNTHETIC, {**SYNTHETIC, "learning_rate": 3e-2}
    donor = PackTrainable(own)
    assert donor.step()["trial_id_atlas"] == config_from_values(own).trial_id
    first = saved(donor, tmp_path / "first")
    trials = [PackTrainable(changed)]
    trials[-1].load_checkpoint(first)
    trials.append(PackTrainable(own))
    trials[-1].load_checkpoint(saved(trials[0], tmp_path / "second"))
    assert [trial.step()["trial_id_atlas"] for trial in trials] == [None, None]
    resumed = PackTrainable(own)
    resumed.load_checkpoint(first)
    assert resumed.step()["trial_id_atlas"] == config_from_values(own).trial_id


def test_a_finished_trial_ends_at_once_with_its_last_point(tmp_path: Path) -> None:
    trial = PackTrainable(SYNTHETIC)
    last = losses(trial)[-1]
    again = PackTrainable(SYNTHETIC)
    again.load_checkpoint(saved(trial, tmp_path / "checkpoint"))
    result = again.step()
    assert (result["done"], result["epoch"], result["train_loss"]) == (True, 12, last)
    assert result["outcome"]
