"""Small data sets that can be learned, in the hub's Parquet layout, for the tests of the image workload."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from trainables.result import TracePoint

NUM_CLASSES, NUM_TRAIN, NUM_TEST = 3, 48, 24


def make_images(
    root: Path, name: str = "tiny", size: int = 16, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST
) -> None:
    """`root/name/{train,test}.parquet`: noise around one pattern for each of three classes."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 196, (NUM_CLASSES, size, size, 3))
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, num in (("train", num_train), ("test", num_test)):
        labels = np.arange(num) % NUM_CLASSES
        pixels = np.clip(patterns[labels] + rng.normal(0, 40, (num, size, size, 3)), 0, 255).astype(np.uint8)
        cells = [{"bytes": _png(image), "path": f"{split}-{i}.png"} for i, image in enumerate(pixels)]
        pq.write_table(pa.table({"img": cells, "label": labels}), folder / f"{split}.parquet")


@contextmanager
def image_folders(root: Path, *sizes: int) -> Iterator[None]:
    """Within the block, data sets `tiny8` etc. of these sizes lie where the image workload looks, its cache beside."""
    for size in sizes:
        make_images(root / "data", f"tiny{size}", size=size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMBDA_ATLAS_DATA", str(root / "data"))
        patch.setenv("LAMBDA_ATLAS_CACHE", str(root / "cache"))
        yield


def narrow_vgg16(num_classes: int) -> nn.Module:
    """torchvision's VGG16 with 16 neurons for each 4096: nearly all its 134 million weights lie behind those."""
    width = 16
    with torch.device("meta"):
        network: Any = torchvision.models.vgg16_bn()
        pixels = network.classifier[0].in_features
        for layer, sizes in ((0, (pixels, width)), (3, (width, width)), (6, (width, num_classes))):
            network.classifier[layer] = nn.Linear(*sizes)
    network.to_empty(device="cpu")
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network  # type: ignore[no-any-return]


def numbers(point: TracePoint) -> dict[str, float]:
    """The numbers that are known after that epoch."""
    return {name: value for name, value in asdict(point).items() if value is not None}


def _png(pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
