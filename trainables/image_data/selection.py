"""Describes which images of a data set a trial uses, and at what size."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import DataError

_RANGES = {"num_train": (1, 10**9), "num_test": (1, 10**9), "subset_seed": (0, 2**63 - 1), "image_size": (8, 1024)}
"""The ranges that `ImageClassifierConfig` also allows; here they are checked before any image is decoded."""

LARGEST_SMALL_IMAGE = 64
"""Up to this image size in pixels, architectures have their CIFAR variant (`models`) and smaller images are padded."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images of a data set, and at what size; None takes all images, at the size that they have."""

    dataset: str
    num_train: int | None = None
    num_test: int | None = None
    subset_seed: int = 0
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise DataError(f"{least} <= {name} <= {most} is required, got {value}")
