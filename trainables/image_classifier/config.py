"""The image workload's config and trace point; the defaults are the paper's CIFAR-10 experiments.

It does not import torch, so that planning starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from trainables.config import Follows, TrialConfig
from trainables.image_data.selection import LARGEST_SMALL_IMAGE
from trainables.result import TracePoint


class Architecture(StrEnum):
    """The networks that `models` makes."""

    RESNET8 = "resnet8"
    RESNET18 = "resnet18"
    RESNET50 = "resnet50"
    RESNET101 = "resnet101"
    VGG16 = "vgg16"


SMALLEST_IMAGE = {Architecture.VGG16: 32}
"""Smallest side in pixels that an architecture can take (8 unless named here): VGG halves its maps five times."""
LARGEST_ONE_PIXEL_IMAGE = 8
"""Largest side in pixels at which the last maps of a ResNet-18, -50 or -101 are a single pixel."""


class Normalization(StrEnum):
    """The normalization after each convolution."""

    BATCH = "batch"
    GROUP = "group"


class BatchNormPolicy(StrEnum):
    """The images over which BatchNorm computes its statistics in training."""

    BATCH = "batch"
    """The whole batch, in one forward pass."""
    MICRO_BATCH = "micro_batch"
    """Each micro-batch separately; the running statistics are updated once for each."""


_OF_DATASET = Follows(("dataset",))
_IMAGES = ("dataset", "image_size", "num_train", "num_test", "subset_seed")

_INTEGER = TypeAdapter(int)


def whole_number(value: Any) -> int | None:
    """The integer that an integer field reads from `value` (8.0 and "8", too); None if the field would reject it."""
    if isinstance(value, bool):
        return None
    try:
        return _INTEGER.validate_python(value)
    except ValidationError:
        return None


class ImageClassifierConfig(TrialConfig):
    """One training run of an image classifier: no augmentation, constant learning rate (figures 1, 2 and 7-12).

    The fields from `dataset_digest` to `channels` describe the images that `dataset` names; `ImageClassifier.config`
    fills them in from the data's manifest.
    """

    numeric_version: ClassVar[int] = 2

    workload: Literal["image_classifier"] = "image_classifier"
    dataset: str = Field("cifar10", min_length=1, description="name of the images, see `launch data`")
    architecture: Architecture = Field(Architecture.RESNET18, description="the network")
    learning_rate: float = Field(1e-4, gt=0, description="eta, constant")
    num_epochs: int = Field(100, ge=1, description="T, passes over the training set")
    beta2: float | None = Field(0.99, ge=0, lt=1, description="decay of the second moment")
    normalization: Normalization = Field(Normalization.BATCH, description="batch or group (32 groups at most)")
    micro_batch_size: int | None = Field(
        None, ge=1, description="images of one forward pass; the gradients of a batch's add up to one step"
    )
    batchnorm_policy: Annotated[BatchNormPolicy | None, Follows(("normalization", "micro_batch_size"))] = Field(
        None, description="statistics in training: of the batch, or of each micro-batch; follows micro_batch_size"
    )
    augment_flip: bool = Field(False, description="mirror half of the training images, anew each epoch")
    augment_crop: int = Field(0, ge=0, le=64, description="pad by that many pixels and crop at random, anew each epoch")
    image_size: Annotated[int, _OF_DATASET] = Field(
        ge=8, le=1024, description="pixels; other images are resized and cropped, up to 64 smaller ones padded"
    )
    num_train: Annotated[int, _OF_DATASET] = Field(ge=1, description="training images, equally many of each class")
    num_test: Annotated[int, _OF_DATASET] = Field(ge=1, description="test images, equally many of each class")
    subset_seed: Annotated[int | None, Follows(("dataset", "num_train"))] = Field(
        0, ge=0, description="chooses the images of num_train; None if all are used"
    )
    dataset_digest: Annotated[str, Follows(_IMAGES)] = Field(min_length=8, description="hash of the images and labels")
    num_classes: Annotated[int, _OF_DATASET] = Field(ge=2)
    channels: Annotated[int, _OF_DATASET] = Field(ge=1, le=4)

    @model_validator(mode="before")
    @classmethod
    def _policy_follows_micro_batch(cls, data: Any) -> Any:
        """Fill in the fields that follow from others, so that one trial has one name."""
        if not isinstance(data, Mapping):
            return data
        values = dict(data)
        micro, batch = whole_number(values.get("micro_batch_size")), whole_number(values.get("batch_size"))
        if micro is not None and batch is not None and micro >= batch:
            micro = values["micro_batch_size"] = None
        if values.get("normalization") == Normalization.GROUP:
            values["batchnorm_policy"] = None  # GroupNorm has no statistics over images
        elif values.get("batchnorm_policy") is None:
            values["batchnorm_policy"] = BatchNormPolicy.BATCH if micro is None else BatchNormPolicy.MICRO_BATCH
        return values

    @model_validator(mode="after")
    def _image_rules(self) -> Self:
        if self.batch_size > self.num_train:
            raise ValueError(f"batch_size <= num_train is required, got B={self.batch_size}, n={self.num_train}")
        if self.batchnorm_policy is BatchNormPolicy.BATCH and self.micro_batch_size is not None:
            raise ValueError(
                f"batchnorm_policy=batch needs the batch in one pass, got micro_batch_size={self.micro_batch_size}"
            )
        if self.batchnorm_policy is BatchNormPolicy.MICRO_BATCH and self.micro_batch_size is None:
            raise ValueError("batchnorm_policy=micro_batch needs a micro_batch_size below batch_size")
        smallest = SMALLEST_IMAGE.get(self.architecture, 8)
        if self.image_size < smallest:
            raise ValueError(
                f"{self.architecture} needs images of {smallest} pixels, got {self.image_size}: "
                f"image_size={smallest} pads them"
            )
        if self.normalization is Normalization.BATCH and self._ends_in_one_value and self._smallest_pass == 1:
            raise ValueError(
                f"{self.architecture} ends in one pixel for images of {self.image_size}, BatchNorm needs two values: "
                f"n={self.num_train} in batches of B={self.batch_size} leaves a pass of one image; take another "
                f"batch_size, image_size={LARGEST_ONE_PIXEL_IMAGE + 1} or normalization=group"
            )
        return self

    @property
    def _ends_in_one_value(self) -> bool:
        is_resnet = self.architecture in (Architecture.RESNET18, Architecture.RESNET50, Architecture.RESNET101)
        return is_resnet and self.image_size <= LARGEST_ONE_PIXEL_IMAGE

    @property
    def _smallest_pass(self) -> int:
        """Number of images in the smallest forward pass of training."""
        batches = (self.batch_size, self.num_train % self.batch_size or self.batch_size)
        micro = self.micro_batch_size or self.batch_size
        return min(batch % micro or micro for batch in batches)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch; the last one may be smaller."""
        return -(-self.num_train // self.batch_size)

    @property
    def has_small_stem(self) -> bool:
        """Whether the architecture has the stem of its CIFAR variant."""
        return self.image_size <= LARGEST_SMALL_IMAGE


@dataclass(frozen=True, slots=True)
class ImageTracePoint(TracePoint):
    """The image workload's measurements after an epoch.

    `train_*` are means over the epoch's images, each measured in its own step before the update (at epoch 0: over the
    training set, in evaluation mode). `test_*` are measured with the weights after the epoch and BatchNorm's running
    statistics. `best_test_error` is the lowest test error so far, reached at `best_epoch`. `precise_*`, null before the
    last epoch, are measured on both splits with statistics that fit the final weights: see `precise_batchnorm`.
    """

    train_top5_error: float
    test_loss: float
    test_top5_error: float
    best_epoch: int
    best_test_error: float
    precise_train_loss: float | None = None
    precise_train_error: float | None = None
    precise_train_top5_error: float | None = None
    precise_test_loss: float | None = None
    precise_test_error: float | None = None
    precise_test_top5_error: float | None = None

    @property
    def losses(self) -> tuple[float, ...]:
        """All measured losses."""
        measured = (self.train_loss, self.test_loss, self.precise_train_loss, self.precise_test_loss)
        return tuple(loss for loss in measured if loss is not None)
