"""Devices: which are here, the images that lie on them, and how many trials one of them trains at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from trainables.errors import ConfigError
from trainables.image_batches import DeviceImages
from trainables.image_config import ImageClassifierConfig
from trainables.image_data import Selection, open_images

_USED_SHARE = 0.8
"""Of a GPU's memory; the rest is left to fragmentation and to what cuDNN asks for meanwhile."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device of this process; `concurrency` maps the number of trials in training to the number that may be."""

    torch_device: torch.device
    concurrency: Callable[[int], int]


def open_device(kind: str, most_at_once: int) -> Device:
    """The CPU, or this process's GPU for up to `most_at_once` trials; raises `ConfigError` where there is none."""
    if kind == "cpu":
        return Device(torch.device("cpu"), lambda _: 1)
    if not torch.cuda.is_available():
        raise ConfigError("device 'cuda' is not there: this process sees no GPU")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.reset_peak_memory_stats(device)
    _, total = torch.cuda.mem_get_info(device)

    def room(num_active: int) -> int:
        """As many as fit by the memory that those in training have taken so far; the first one is measured alone."""
        peak = torch.cuda.max_memory_allocated(device)
        if not num_active or not peak:
            return 1
        return max(1, min(most_at_once, int(_USED_SHARE * total * num_active / peak)))

    return Device(device, room)


def device_images(config: ImageClassifierConfig, device: torch.device) -> DeviceImages:
    """The trial's images on that device, shared by the trials of this process."""
    selection = Selection(config.dataset, config.num_train, config.num_test, config.subset_seed or 0, config.image_size)
    dtype = torch.float64 if config.precision.value == "float64" else torch.float32
    return _device_images(selection, config.dataset_digest, device, dtype)


@lru_cache(maxsize=4)
def _device_images(selection: Selection, digest: str, device: torch.device, dtype: torch.dtype) -> DeviceImages:
    return DeviceImages(open_images(selection, digest), device, dtype)
