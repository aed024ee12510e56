"""What `--workload` names beside the synthetic model: a data set and an architecture, `cifar10_resnet18` say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.errors import DataError, SweepError, unknown_name
from orchestrator.sweep import parse_setting
from search_spaces import paper
from trainables.image_cache import Selection, cache_root
from trainables.image_config import Architecture, ImageClassifierConfig
from trainables.image_data import data_root, manifest, missing, open_images
from trainables.image_readers import IMAGENET
from trainables.image_sources import download as fetch_images
from trainables.image_sources import find_images, known_names

IMAGES = "image_classifier"

_CHOOSE_IMAGES = ("num_train", "num_test", "subset_seed", "image_size")


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


def check_images(name: str, sets: Sequence[str], *, download: bool) -> str:
    """Decode a data set (fetched first on `download`) into the cache, read all of it back; a line on what it holds."""
    if download:
        fetch_images(name, data_root())
    fields = selected_images(sets)
    if find_images(name, data_root()) is None:
        raise DataError(missing(name, data_root()))
    selection = Selection(name, **fields)
    held = manifest(selection)
    open_images(selection, held.digest)
    size = f"{held.image_size}x{held.image_size}x{held.channels}"
    return (
        f"{name}: {held.num_train} training and {held.num_test} test images of {size} in {held.num_classes} classes, "
        f"digest {held.digest}, in {cache_root() / name}"
    )


def selected_images(sets: Sequence[str]) -> dict[str, int]:
    """The `field=value` settings that choose images, read as a sweep's; `SweepError` for others."""
    chosen: dict[str, int] = {}
    for text in sets:
        field = text.partition("=")[0].removesuffix("+").strip()
        if field not in _CHOOSE_IMAGES:
            raise SweepError(unknown_name("field", field, _CHOOSE_IMAGES))
        _, values, extend = parse_setting(text, ImageClassifierConfig)
        if extend or len(values) > 1 or field in chosen:
            raise SweepError(f"{field} has one value here, as {field}=number, got {text!r}")
        chosen[field] = values[0]
    return chosen
