"""One optimizer step of an image classifier: written out, or recorded once as a CUDA graph and replayed.

Shapes: B images of a batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.config import Precision
from trainables.gpu import memory_ran_out
from trainables.image_batches import Augmentation, DeviceImages
from trainables.image_config import ImageClassifierConfig
from trainables.image_models import memory_format

TOP = 5
_WARM_UP_STEPS = 3
_recording = threading.Lock()
"""Held while a graph is recorded: one at a time in a process."""
_recording_has_failed = False
"""Then this process records no more: what torch has not given back after one failure would add up."""

_abandoned: list[torch.cuda.CUDAGraph] = []
"""Kept until the process ends: torch's allocator of pinned memory may still ask the graph of a failed recording."""

_logger = logging.getLogger(__name__)


class Step(Protocol):
    """Trains one batch; `sums` (3,) adds up loss, top-1 and top-5 misses of its images, each before the update."""

    engine: str
    sums: Tensor
    augmentation: Augmentation | None

    def __call__(self, index_b: Tensor) -> None:
        """Train the images with these indices, which lie where the images do."""
        ...

    def close(self) -> None:
        """Free what a replay needs; it is not called again."""
        ...


class EagerStep:
    """Forward and backward of each micro-batch, then one update: the loop that anyone would write."""

    def __init__(
        self,
        config: ImageClassifierConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: DeviceImages,
        augmentation: Augmentation | None,
        device: torch.device,
    ) -> None:
        self.engine = f"eager-{device.type}"
        self.config, self.model, self.optimizer, self.augmentation = config, model, optimizer, augmentation
        self.device, self.images = device, images
        self._memory_format = memory_format(config, device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def __call__(self, index_b: Tensor) -> None:
        """Train the images with these indices, some at a time where the config says so."""
        self.optimizer.zero_grad(set_to_none=True)
        for part in torch.split(index_b, self.config.micro_batch_size or len(index_b)):
            self._backward(self.images.stored(part), part.to(self.device), len(part) / len(index_b))
        self.optimizer.step()

    def train_whole(self, stored_b: Tensor, index_b: Tensor) -> None:
        """Train these stored images in one pass; all tensors are on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(stored_b, index_b, 1.0)
        self.optimizer.step()

    def _backward(self, stored_b: Tensor, index_b: Tensor, share: float) -> None:
        """Add the gradients of `share` times the mean loss of these images, and their sums."""
        images = self.images.train_batch(stored_b, index_b, self.augmentation, self.config.augment_crop)
        images = images.contiguous(memory_format=self._memory_format)
        with autocast(self.config, self.device):
            logits = self.model(images)
        labels = self.images.labels[index_b]
        loss = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        # In this thread: torch has one for all backward passes of a device, and members would queue in it.
        with torch.autograd.set_multithreading_enabled(False):
            (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        self.sums += batch_sums(logits.detach(), labels, loss.detach())

    def rehearse(self, mutable: Sequence[Tensor]) -> None:
        """A step on copies of the first image, and back: a device then has the memory that training takes."""
        with _put_back([*mutable, self.sums]):
            self(torch.zeros(self.config.batch_size, dtype=torch.int64, device=self.images.home))

    def close(self) -> None:
        """Nothing: there is no recording."""


class GraphStep:
    """An eager step recorded as a CUDA graph for whole batches: one launch a step; smaller batches run eagerly.

    Where recording fails, everything runs eagerly from then on, and `engine` says so.
    """

    def __init__(self, eager: EagerStep, mutable: Sequence[Tensor]) -> None:
        self._eager = eager
        self._graph: torch.cuda.CUDAGraph | None = None
        self.engine, self.sums, self.augmentation = eager.engine, eager.sums, eager.augmentation
        self._index_b = torch.zeros(eager.config.batch_size, dtype=torch.int64, device=eager.device)
        images = eager.images
        self._stored_b = None if images.home == images.device else images.stored(self._index_b.to(images.home))
        if not _recording_has_failed:
            self._record([*mutable, self.sums])

    def __call__(self, index_b: Tensor) -> None:
        """Train the images with these indices, which lie where the images do."""
        if self._graph is None or len(index_b) != len(self._index_b):
            self._eager(index_b)
            return
        self._index_b.copy_(index_b)
        if self._stored_b is not None:
            self._stored_b.copy_(self._eager.images.stored(index_b))
        self._graph.replay()

    def _train(self) -> None:
        """What is recorded; images that lie on the device are gathered in it."""
        stored_b = self._eager.images.stored(self._index_b) if self._stored_b is None else self._stored_b
        self._eager.train_whole(stored_b, self._index_b)

    def close(self) -> None:
        """Free the recording and the memory of its tensors."""
        if self._graph is not None:
            self._graph.reset()
        self._graph = None

    def _record(self, mutable: Sequence[Tensor]) -> None:
        global _recording_has_failed
        torch.cuda.empty_cache()  # of members that ended: the peak tells how many there is room for
        with _recording, _put_back(mutable):
            for _ in range(_WARM_UP_STEPS):  # allocates, and lets cuDNN choose
                self._train()
            own = torch.cuda.current_stream(self._eager.device)
            own.synchronize()
            self._eager.optimizer.zero_grad(set_to_none=True)
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            try:
                # On the member's own stream: graphs recorded on one stream share cuBLAS's scratch memory, which goes
                # with the first of them (pytorch#193402).
                with torch.cuda.graph(graph, pool=pool, stream=own, capture_error_mode="thread_local"):
                    self._train()
                self._graph, self.engine = graph, "graph-cuda"
            except RuntimeError as error:
                _abandon(graph, pool, self._eager.device)
                if memory_ran_out(error):
                    raise
                _recording_has_failed = True  # an operation that cannot be recorded
                _logger.warning("steps are not recorded, which a small batch notices: %s", error)


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: torch.device) -> None:
    """Give back what a failed recording holds of the device.

    torch before 2.12 leaves its allocator in the recording, and from then on frees no memory (pytorch#180395).
    """
    index = device.index or 0
    with suppress(RuntimeError):  # newer torch says that it has ended the recording itself
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    graph.reset()
    _abandoned.append(graph)
    # The device's generator still counts for the recording, and would refuse dropout's masks.
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())


@contextmanager
def _put_back(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Afterwards the tensors have the values again that they had before."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def autocast(config: ImageClassifierConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Products in bfloat16 where the config says so; weights, moments, losses and statistics stay in float32."""
    is_bfloat16 = config.precision is Precision.BFLOAT16
    # no cache: a recorded graph must cast the weights anew in each replay
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16, cache_enabled=False)


def batch_sums(logits: Tensor, labels_b: Tensor, mean_loss: Tensor | None = None) -> Tensor:
    """Sums over a batch of loss, top-1 and top-5 misses (3,), float64; an output that is no number is a miss.

    Among equal outputs, frequent in bfloat16, a miss is the share of their orders that puts the right one too low.
    """
    if mean_loss is None:
        mean_loss = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels_b)
    own = logits.gather(1, labels_b[:, None])
    # Rank by comparison, not by sorting. What is no number ranks before the right class: all of them if it is itself.
    better = (~(logits <= own)).sum(dim=1).double()
    equal = (logits == own).sum(dim=1).clamp(min=1)
    hits = [((k - better) / equal).clamp(0, 1) for k in (1, min(TOP, logits.shape[1]))]
    misses = [(1 - hit_b).sum() for hit_b in hits]
    return torch.stack([mean_loss.double() * len(labels_b), *misses])
