"""Image trials of every kind that a GPU records, and whether two runs of one are the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor, nn

from tests.support.images import numbers
from trainables.contract import Member, PackRun, State
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.registry import config_from_values, workload
from trainables.result import TrialResult

VARIANTS: list[dict[str, Any]] = [
    {},
    {"optimizer": "adamw"},
    {"bias_correction": False},
    {"optimizer": "signsgd"},
    {"augment_flip": True, "augment_crop": 2},
    {"normalization": "group"},
    {"architecture": "resnet18", "batch_size": 16, "num_epochs": 3},
    {"architecture": "vgg16", "image_size": 32, "num_epochs": 2, "epsilon": 1e-3},
]
"""VGG16's convolutions have biases that BatchNorm cancels: their gradients are rounding noise, which Adam at its usual
epsilon makes whole steps of. Running statistics follow them, so two ways to round would differ in the test loss."""


def make_config(**values: Any) -> ImageClassifierConfig:
    """50 steps in float64, every fifth of them of 8 images instead of 10."""
    base = {"optimizer": "adam", "weight_decay": 1e-2, "learning_rate": 1e-3, "batch_size": 10, "num_epochs": 10}
    names = {"workload": "image_classifier", "dataset": "tiny16", "architecture": "resnet8", "precision": "float64"}
    config = config_from_values({**base, **names, "seed": 0, **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def ended(run: PackRun) -> dict[str, TrialResult]:
    """Results of all members by trial_id."""
    reports = []
    while not run.is_done:
        reports += run.advance(1.0)
    return {report.trial_id: report.result for report in reports if report.result is not None}


def trained(
    config: ImageClassifierConfig, device: str = "cuda", engine: str | None = None, state: State | None = None
) -> TrialResult:
    """That trial alone, to its end."""
    run = workload("image_classifier").open([Member(config, config.num_epochs, state)], device, engine)
    result = ended(run)[config.trial_id]
    assert result.error is None
    return result


def assert_same(ours: TrialResult, wanted: TrialResult, tolerance: float = 1e-6) -> None:
    """Assert that every number of every epoch is equal."""
    for point, other in zip(ours.trace, wanted.trace, strict=True):
        assert numbers(point) == pytest.approx(numbers(other), rel=tolerance, abs=tolerance)


class Synchronizes(nn.Module):
    """A network that asks the host about its numbers, which no recording can hold."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_bchw: Tensor) -> Tensor:
        logits: Tensor = self.network(x_bchw)
        return logits if float(logits.detach().sum()) != math.inf else -logits
