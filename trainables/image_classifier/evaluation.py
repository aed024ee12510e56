"""Measures a network on a whole split without training it, some images at a time, since a split may take minutes.

Shapes: B images of one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.image_classifier.batches import DeviceImages
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.models import memory_format
from trainables.image_classifier.state import within
from trainables.image_classifier.steps import autocast, batch_sums

_PIXELS = {"cpu": 2**17, "cuda": 2**20}
"""Pixels in a pass. On a CPU its activations then fit the caches; resnet8 is far slower with 1024 images of 32 pixels.

The number also bounds the memory of a pass. It changes results only by rounding.
"""


class SplitEvaluation:
    """Sums (3,) of loss, top-1 and top-5 misses over the training or the test images, in evaluation mode.

    Its state is `position` and the `sums` over the images before it.
    """

    def __init__(self, config: ImageClassifierConfig, model: nn.Module, images: DeviceImages, *, test: bool) -> None:
        self._config, self._model, self._images, self._test = config, model, images, test
        self._num = images.num_test if test else images.num_train
        self._labels = images.test_labels if test else images.labels
        self._batch = max(1, _PIXELS[images.device.type] // config.image_size**2)
        self.position = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=images.device)

    @property
    def is_done(self) -> bool:
        """Whether every image is measured."""
        return self.position >= self._num

    @torch.no_grad()
    def advance(self, num_passes: int) -> None:
        """Measure up to `num_passes` more batches."""
        self._model.eval()
        for start in range(self.position, min(self._num, self.position + num_passes * self._batch), self._batch):
            self.position = min(self._num, start + self._batch)
            self.sums += batch_sums(self._logits(start), self._labels[start : self.position])
        self._model.train()

    def restart(self) -> None:
        """Start again with the first image, for new weights."""
        self.position = 0
        self.sums.zero_()

    def state(self) -> list[float]:
        """Position and sums."""
        return [float(self.position), *self.sums.tolist()]

    def restore(self, state: Sequence[float]) -> None:
        """Inverse of `state`."""
        self.position = within(int(state[0]), self._num)
        self.sums.copy_(torch.tensor([float(value) for value in state[1:]], dtype=torch.float64))

    def _logits(self, start: int) -> Tensor:
        images = self._images.plain_batch(start, self.position, test=self._test)
        images = images.contiguous(memory_format=memory_format(self._config, self._images.device))
        with autocast(self._config, self._images.device):
            logits: Tensor = self._model(images)
        return logits
