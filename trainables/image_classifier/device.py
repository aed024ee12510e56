"""Opens devices, keeps the images that are stored on them, and decides how many trials a device trains at once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar
from weakref import WeakSet

import torch

from trainables.errors import ConfigError
from trainables.image_classifier.batches import DeviceImages
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_data.cache import ImageData
from trainables.image_data.images import open_images
from trainables.image_data.selection import Selection

_USED_SHARE = 0.8
"""Share of a GPU's free memory that trials may use; the rest is for fragmentation and cuDNN's temporary memory."""

_IMAGES_SHARE = 0.5
"""Share of a GPU's free memory that images may take."""

_logger = logging.getLogger(__name__)
_resident: WeakSet[DeviceImages] = WeakSet()
_free_lanes: defaultdict[torch.device, list[Lane]] = defaultdict(list)
"""Lanes of members that ended, for reuse: torch deals out 32 streams in turn, and live members must not share one."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Lane:
    """A stream of a GPU and the only thread that launches on it.

    Until the process ends, torch keeps a cuBLAS workspace for each pair of thread and stream, and cuDNN's plans for
    each thread. If every thread of a pool used every stream, they would accumulate to gigabytes.
    """

    stream: torch.cuda.Stream
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="lane"))

    def run(self, function: Callable[[], _T]) -> _T:
        """Call the function in this lane's thread, with launches on this lane's stream, and return its result."""
        return self._thread.submit(self._on_stream, function).result()

    def _on_stream(self, function: Callable[[], _T]) -> _T:
        with torch.cuda.stream(self.stream):
            return function()


@dataclass(frozen=True, slots=True)
class Device:
    """A device of this process.

    `concurrency(crowd)` is how many trials may train now, given the largest number that have trained at once so far.
    """

    torch_device: torch.device
    concurrency: Callable[[int], int]


def open_device(kind: str, most_at_once: int) -> Device:
    """The CPU, or this process's GPU for up to `most_at_once` trials; raises `ConfigError` if it sees no GPU."""
    if kind == "cpu":
        return Device(torch.device("cpu"), lambda _: 1)
    if not torch.cuda.is_available():
        raise ConfigError("device 'cuda' is not available: torch sees no GPU in this process")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_reserved(device)  # images of earlier packs
    budget = _USED_SHARE * (torch.cuda.mem_get_info(device)[0] + held)

    def room(crowd: int) -> int:
        """The number of trials that fit, by the memory that `crowd` of them reserved; the first one trains alone.

        Reserved memory counts, since recorded steps keep the memory of their activations, which is not allocated then.
        """
        images = max(held, sum(one.num_bytes for one in _resident if one.device == device))
        return fitting(crowd, torch.cuda.max_memory_reserved(device) - images, budget - images, most_at_once)

    return Device(device, room)


def fitting(crowd: int, taken: float, budget: float, most: int) -> int:
    """Number of trials that fit into `budget` bytes if `crowd` of them took `taken`; at least 1, at most `most`."""
    if not crowd or taken <= 0:
        return 1
    return max(1, min(most, int(budget * crowd / taken)))


def take_lane(device: torch.device) -> Lane:
    """A lane that no other member in training uses."""
    free = _free_lanes[device]
    return free.pop() if free else Lane(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def give_lane_back(lane: Lane) -> None:
    """Let a later member use the lane and the memory that torch keeps for it."""
    _free_lanes[lane.stream.device].append(lane)


def device_images(config: ImageClassifierConfig, device: torch.device) -> DeviceImages:
    """The trial's images on that device; all trials in this process that use them share them."""
    selection = Selection(
        config.dataset,
        num_train=config.num_train,
        num_test=config.num_test,
        subset_seed=config.subset_seed or 0,
        image_size=config.image_size,
    )
    dtype = torch.float64 if config.precision.value == "float64" else torch.float32
    return _device_images(selection, config.dataset_digest, device, dtype)


@lru_cache(maxsize=4)
def _device_images(selection: Selection, digest: str, device: torch.device, dtype: torch.dtype) -> DeviceImages:
    data = open_images(selection, digest)
    images = DeviceImages(data, device, dtype, home(data, device))
    _resident.add(images)
    return images


def home(data: ImageData, device: torch.device) -> torch.device:
    """Where to store the images: on the device, or on the host if they would take too much of its free memory."""
    if device.type != "cuda":
        return device
    needed, free = data.train_images.nbytes + data.test_images.nbytes, torch.cuda.mem_get_info(device)[0]
    if needed <= _IMAGES_SHARE * free:
        return device
    text = "%s: the images (%.1f GB) stay in the host's memory, %.1f GB are free on the GPU; each batch is copied"
    _logger.warning(text, data.manifest.dataset, needed / 1e9, free / 1e9)
    return torch.device("cpu")
