"""One optimizer step of an image classifier, written out.

Shapes: B images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.config import Precision
from trainables.image_classifier.batches import Augmentation, DeviceImages
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.models import memory_format

TOP = 5


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
        with put_back([*mutable, self.sums]):
            self(torch.zeros(self.config.batch_size, dtype=torch.int64, device=self.images.home))

    def close(self) -> None:
        """Nothing: there is no recording."""


@contextmanager
def put_back(tensors: Sequence[Tensor]) -> Iterator[None]:
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
