"""The image workload: packs of ResNet and VGG trials (figures 1, 2 and 7-12). Only `open` imports torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

from trainables.config import Optimizer, TrialConfig, make_config
from trainables.contract import Member
from trainables.errors import ConfigError, unknown_name
from trainables.image_classifier.config import Architecture, ImageClassifierConfig, ImageTracePoint, whole_number
from trainables.image_data.images import manifest
from trainables.image_data.selection import Selection
from trainables.names import check_torch_rule
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.trial_run import TrialRun

ENGINES = {"cpu": ("eager-cpu",), "cuda": ("graph-cuda", "eager-cuda")}
"""Engines of each kind of device, the fastest first."""

MOST_SIDE_BY_SIDE = 8
"""The most trials for which one Python process can launch GPU work fast enough."""

# Multiply-adds of one image's forward pass in units of 10^6: small at 32 pixels with the CIFAR stem, large at 224.
_SMALL_MEGA_PRODUCTS = {
    Architecture.RESNET8: 12.5,
    Architecture.RESNET18: 556,
    Architecture.RESNET50: 1300,
    Architecture.RESNET101: 2520,
    Architecture.VGG16: 314,
}
_LARGE_MEGA_PRODUCTS = {
    Architecture.RESNET8: 12.5 * 49,
    Architecture.RESNET18: 1810,
    Architecture.RESNET50: 4090,
    Architecture.RESNET101: 7800,
    Architecture.VGG16: 15500,
}
_PASSES = 3
"""A step costs about three forward passes: forward, gradients of the activations, gradients of the weights."""
# From the benchmark on one core; used only to balance packs and to forecast time.
_SECONDS_PER_MEGA_PRODUCT = 2.5e-5
_SECONDS_PER_STEP = 3e-3
_SECONDS_PER_TRIAL = 0.5
_BYTES_PER_MEGA_PRODUCT = 2e4
_BYTES_PER_WEIGHT = 16
_WEIGHTS = {
    Architecture.RESNET8: 78_000,
    Architecture.RESNET18: 11_200_000,
    Architecture.RESNET50: 23_500_000,
    Architecture.RESNET101: 42_500_000,
    Architecture.VGG16: 14_700_000,
}


class ImageClassifier:
    """ResNet and VGG on CIFAR-10/100, Fashion-MNIST, ImageNet and any images in class folders or Parquet."""

    config_type = ImageClassifierConfig
    trace_point_type = ImageTracePoint
    devices = ("cuda", "cpu")
    num_classes: int | None = None
    shared_test_data: str | None = "images"
    reads_data_sets = True

    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The config that the values describe; missing fields of the images are filled in from the data's manifest."""
        given = {**values}
        fields = ImageClassifierConfig.model_fields
        if not given.get("dataset_digest") and set(given) <= set(fields):
            held = manifest(_selection(given))
            given["dataset_digest"] = held.digest
            for name in ("num_train", "num_test", "subset_seed", "image_size", "num_classes", "channels"):
                asked, is_so = whole_number(given.get(name)), getattr(held, name)
                if name in ("num_classes", "channels") and asked not in (None, is_so):
                    raise ConfigError(f"{name} of {held.dataset!r} is {is_so}, got {asked}")
                if asked is not None or given.get(name) is None:  # otherwise the config's rules report the fault
                    given[name] = is_so
        return make_config(ImageClassifierConfig, given)

    def pack_key(self, config: TrialConfig) -> Hashable:
        """Members of a pack share images and network; optimizer, rates, batch size and seed may differ."""
        c = _own(config)
        return c.workload, c.dataset_digest, c.architecture, c.normalization, c.precision

    def cost(self, config: TrialConfig) -> float:
        """Rough seconds of one trial on one core."""
        c = _own(config)
        before_and_after = 3 * c.num_train + 2 * c.num_test  # the initial weights, and the final ones' precise errors
        images = c.num_epochs * (_PASSES * c.num_train + c.num_test) + before_and_after
        return (
            _SECONDS_PER_TRIAL
            + images * mega_products(c) * _SECONDS_PER_MEGA_PRODUCT
            + c.num_epochs * c.steps_per_epoch * _SECONDS_PER_STEP
        )

    def memory(self, config: TrialConfig) -> int:
        """Bytes of weights, moments, gradients and of the activations that one backward pass keeps."""
        c = _own(config)
        activations = min(c.batch_size, c.micro_batch_size or c.batch_size) * mega_products(c) * _BYTES_PER_MEGA_PRODUCT
        return int(_WEIGHTS[c.architecture] * _BYTES_PER_WEIGHT + activations)

    def side_by_side(self, device: str) -> int:
        """Several on a GPU, since small batches use little of it; its memory may limit them further. One on a CPU."""
        return MOST_SIDE_BY_SIDE if device == "cuda" else 1

    def last_engine(self, device: str) -> str | None:
        """On a GPU the eager engine, since a failure in a recorded step makes the process unusable; None on a CPU."""
        return ENGINES[device][-1] if len(ENGINES[device]) > 1 else None

    def check_rule(self, optimizer: Optimizer) -> None:
        """Every engine takes every optimizer that has a rule in torch."""
        check_torch_rule(optimizer)

    def check_certificates(self, optimizer: Optimizer) -> None:
        """Accept every optimizer: image trials have no certificate that stops them, so nothing can be missing."""

    def open(
        self, members: Sequence[Member], device: str = "cpu", engine: str | None = None, num_threads: int = 1
    ) -> MemberPackRun:
        """Start or resume a pack; raises `ConfigError` for a device or engine that is not available."""
        if device not in ENGINES:
            raise ConfigError(unknown_name("device", device, ENGINES))
        if engine is not None and engine not in ENGINES[device]:
            raise ConfigError(unknown_name("engine", engine, ENGINES[device]))
        from trainables.image_classifier.device import open_device
        from trainables.image_classifier.trial import ImageTrainer

        opened = open_device(device, MOST_SIDE_BY_SIDE)
        chosen = engine or ENGINES[device][0]

        def open_member(member: Member) -> TrialRun:
            return TrialRun(member, ImageTrainer(member, chosen, opened.torch_device, num_threads))

        return MemberPackRun(members, open_member, opened.concurrency)


def _selection(values: Mapping[str, Any]) -> Selection:
    """The selection of images in these values; the config's rules report values of a wrong type."""
    fields = ImageClassifierConfig.model_fields
    return Selection(
        dataset=str(values.get("dataset", fields["dataset"].default)),
        num_train=whole_number(values.get("num_train")),
        num_test=whole_number(values.get("num_test")),
        subset_seed=whole_number(values.get("subset_seed")) or 0,
        image_size=whole_number(values.get("image_size")),
    )


def mega_products(c: ImageClassifierConfig) -> float:
    """Multiply-adds of one image's forward pass, in millions."""
    if c.has_small_stem:
        return _SMALL_MEGA_PRODUCTS[c.architecture] * (c.image_size / 32) ** 2
    return _LARGE_MEGA_PRODUCTS[c.architecture] * (c.image_size / 224) ** 2


def _own(config: TrialConfig) -> ImageClassifierConfig:
    return cast(ImageClassifierConfig, config)
