"""Which images of a data set a trial has, and at what size."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import DataError

_RANGES = {"num_train": (1, 10**9), "num_test": (1, 10**9), "subset_seed": (0, 2**63 - 1), "image_size": (8, 1024)}
"""What `ImageClassifierConfig` allows too; here it is asked before anything is decoded."""

LARGEST_SMALL_IMAGE = 64
"""Up to this many pixels an architecture is its CIFAR variant (see `models`), and smaller images are padded."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images of a data set, and at what size; None: all of them, as they are."""

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
