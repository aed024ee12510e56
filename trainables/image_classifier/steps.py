"""One optimizer step of an image classifier: forward and backward passes, the update, and sums of loss and misses.

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
    """Trains one batch, and adds its loss, top-1 and top-5 misses, measured before the update, to `sums` (3,)."""

    engine: str
    sums: Tensor
    augmentation: Augmentation | None

    def __call__(self, index_b: Tensor) -> None:
        """Train the images with these indices, a tensor on the images' `home`."""
        ...

    def close(self) -> None:
        """Release what replays need; the step is not called afterwards."""
        ...


class EagerStep:
    """Forward and backward passes of each micro-batch, then one update, as in a plain torch loop."""

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
        """Train the images with these indices, in micro-batches if the config has them."""
        self.optimizer.zero_grad(set_to_none=True)
        for part in torch.split(index_b, self.config.micro_batch_size or len(index_b)):
            self._backward(self.images.stored(part), part.to(self.device), len(part) / len(index_b))
        self.optimizer.step()

    def train_whole(self, stored_b: Tensor, index_b: Tensor) -> None:
        """Train these stored images in one pass; both tensors are on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(stored_b, index_b, 1.0)
        self.optimizer.step()

    def _backward(self, stored_b: Tensor, index_b: Tensor, share: float) -> None:
        """Add the gradients of `share` times the mean loss of these images, and add their loss and misses to `sums`."""
        images = self.images.train_batch(stored_b, index_b, self.augmentation, self.config.augment_crop)
        images = images.contiguous(memory_format=self._memory_format)
        with autocast(self.config, self.device):
            logits = self.model(images)
        labels = self.images.labels[index_b]
        loss = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        # In this thread: torch otherwise runs all backward passes of a device in one thread, where members would queue.
        with torch.autograd.set_multithreading_enabled(False):
            (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        self.sums += batch_sums(logits.detach(), labels, loss.detach())

    def rehearse(self, mutable: Sequence[Tensor]) -> None:
        """Train a step on copies of the first image and undo it, so that the memory of training is reserved."""
        with put_back([*mutable, self.sums]):
            self(torch.zeros(self.config.batch_size, dtype=torch.int64, device=self.images.home))

    def close(self) -> None:
        """Do nothing: an eager step has no recording."""


@contextmanager
def put_back(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Restore the tensors' values at the end of the context."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def autocast(config: ImageClassifierConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Compute products in bfloat16 if the config says so; weights, moments, losses and statistics stay in float32."""
    is_bfloat16 = config.precision is Precision.BFLOAT16
    # no cache: a recorded graph must cast the weights anew in each replay
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16, cache_enabled=False)


def batch_sums(logits: Tensor, labels_b: Tensor, mean_loss: Tensor | None = None) -> Tensor:
    """Sums over a batch of loss, top-1 and top-5 misses (3,), float64; an output of nan counts as a miss.

    Outputs are often equal in bfloat16. Then a miss counts in part: as the share of the orders of the equal outputs in
    which the right class ranks too low.
    """
    if mean_loss is None:
        mean_loss = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels_b)
    own = logits.gather(1, labels_b[:, None])
    # Rank by comparison, not by sorting. A nan ranks before the right class; if the right class is nan, all outputs do.
    better = (~(logits <= own)).sum(dim=1).double()
    equal = (logits == own).sum(dim=1).clamp(min=1)
    hits = [((k - better) / equal).clamp(0, 1) for k in (1, min(TOP, logits.shape[1]))]
    misses = [(1 - hit_b).sum() for hit_b in hits]
    return torch.stack([mean_loss.double() * len(labels_b), *misses])
