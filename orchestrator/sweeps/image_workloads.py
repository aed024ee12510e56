"""The image workloads of `--workload`: a data set and an architecture, such as `cifar10_resnet18`."""

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
    """Fields of that data set and architecture in the paper's experiments; raises `SweepError` for an unknown name."""
    dataset, _, architecture = workload.rpartition("_")
    if not dataset or architecture not in tuple(Architecture):
        raise SweepError(unknown_name("workload", workload, known_workloads()))
    names = {"dataset": dataset, "architecture": architecture, **paper.IMAGE_BETAS}
    return {**names, **(paper.IMAGENET if is_imagenet(workload) else {"num_epochs": paper.IMAGE_NUM_EPOCHS})}


def is_imagenet(workload: str) -> bool:
    """Whether the data set is ImageNet, so that its settings of the paper and top-5 errors are used."""
    return workload.rpartition("_")[0] == IMAGENET


def known_workloads() -> list[str]:
    """The synthetic model, and each known data set with each architecture."""
    datasets = known_names(data_root())
    return ["two_layer_cnn", *(f"{dataset}_{architecture}" for dataset in datasets for architecture in Architecture)]
