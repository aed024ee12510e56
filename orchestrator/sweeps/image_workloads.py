"""What `--workload` names beside the synthetic model: a data set and an architecture, `cifar10_resnet18` say."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import SweepError, unknown_name
from search_spaces import paper
from trainables.image_classifier.config import Architecture
from trainables.image_data.images import data_root
from trainables.image_data.readers import IMAGENET
from trainables.image_data.sources import known_names

IMAGES = "image_classifier"


def image_base(workload: str) -> dict[str, Any]:
    """Fields of that data set and architecture in the paper's experiments; `SweepError` offers the nearest name."""
    dataset, _, architecture = workload.rpartition("_")
    if not dataset or architecture not in tuple(Architecture):
        raise SweepError(unknown_name("workload", workload, known_workloads()))
    names = {"dataset": dataset, "architecture": architecture, **paper.IMAGE_BETAS}
    return {**names, **(paper.IMAGENET if is_imagenet(workload) else {"num_epochs": paper.IMAGE_NUM_EPOCHS})}


def is_imagenet(workload: str) -> bool:
    """Whether the paper's ImageNet experiments apply, and errors are top-5 errors."""
    return workload.rpartition("_")[0] == IMAGENET


def known_workloads() -> list[str]:
    """The synthetic model, and each known data set with each architecture."""
    datasets = known_names(data_root())
    return ["two_layer_cnn", *(f"{dataset}_{architecture}" for dataset in datasets for architecture in Architecture)]
