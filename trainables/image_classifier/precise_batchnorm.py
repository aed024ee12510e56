"""Measures a trial's final weights with BatchNorm statistics that are recomputed for them.

Running statistics move by a tenth in each step. Large batches make few steps, so at the end the statistics still fit
earlier weights, and dominate the test error. Here they are recomputed (PreciseBN: Wu and Johnson, arXiv 2105.07576) as
means over one epoch's batches at fixed weights, to which running statistics would converge.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from trainables.contract import State
from trainables.image_classifier.batches import DeviceImages, epoch_order
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.evaluation import SplitEvaluation
from trainables.image_classifier.models import memory_format
from trainables.image_classifier.state import fill, flat, within
from trainables.image_classifier.steps import autocast

_PREFIX = "precise_"


class PreciseErrors:
    """Sums (3,) of loss, top-1 and top-5 misses over both splits, of a copy of the model with recomputed statistics.

    The model itself does not change. Networks without BatchNorm are only measured.
    """

    def __init__(self, config: ImageClassifierConfig, model: nn.Module, images: DeviceImages) -> None:
        self._config, self._images = config, images
        self._model = deepcopy(model).eval()
        self._layers = [module for module in self._model.modules() if isinstance(module, nn.BatchNorm2d)]
        self._position = 0 if self._layers else config.num_train
        self._order = torch.from_numpy(epoch_order(config, config.num_epochs)).to(images.home)
        self.on_train, self.on_test = (
            SplitEvaluation(config, self._model, images, test=is_test) for is_test in (False, True)
        )

    @property
    def is_done(self) -> bool:
        """Whether both splits are measured."""
        return self.on_test.is_done

    def means(self) -> dict[str, float]:
        """The `precise_*` fields of a trace point; call it once both splits are measured."""
        config = self._config
        splits = (("train", self.on_train, config.num_train), ("test", self.on_test, config.num_test))
        return {
            f"{_PREFIX}{split}_{name}": value
            for split, measured, num in splits
            for name, value in zip(("loss", "error", "top5_error"), (measured.sums / num).tolist(), strict=True)
        }

    def advance(self, num_passes: int) -> None:
        """Process up to `num_passes` more batches: first for the statistics, then for each split."""
        if self._position < self._config.num_train:
            self._take_statistics(num_passes)
        elif not self.on_train.is_done:
            self.on_train.advance(num_passes)
        else:
            self.on_test.advance(num_passes)

    @torch.no_grad()
    def _take_statistics(self, num_batches: int) -> None:
        """Update only the statistics: BatchNorm alone is in training mode, and batches are split as in training."""
        for layer in self._layers:
            layer.train()
        size = self._config.batch_size
        for start in range(self._position, min(self._config.num_train, self._position + num_batches * size), size):
            batch = self._order[start : start + size]
            for part in torch.split(batch, self._config.micro_batch_size or size):
                self._position += len(part)
                for layer in self._layers:
                    layer.momentum = len(part) / self._position  # gives the mean over all images so far
                images = self._images.train_batch(self._images.stored(part), part.to(self._images.device), None, 0)
                with autocast(self._config, self._images.device):
                    self._model(images.contiguous(memory_format=memory_format(self._config, self._images.device)))
        self._model.eval()

    @staticmethod
    def has_begun_in(state: State) -> bool:
        """Whether a trial's state was saved after the precise measurement began."""
        return _PREFIX + "position" in state

    def state_arrays(self) -> State:
        """Everything needed to resume exactly here, apart from the weights."""
        return {
            _PREFIX + "position": np.array(self._position),
            _PREFIX + "statistics": flat(self._statistics()),
            _PREFIX + "evaluated": np.array([part.state() for part in (self.on_train, self.on_test)]),
        }

    def restore(self, state: State) -> None:
        """Inverse of `state_arrays`."""
        self._position = within(int(state[_PREFIX + "position"]), self._config.num_train)
        fill(self._statistics(), state[_PREFIX + "statistics"])
        for part, saved in zip((self.on_train, self.on_test), state[_PREFIX + "evaluated"], strict=True):
            part.restore(saved)

    def _statistics(self) -> list[torch.Tensor]:
        return [s for layer in self._layers for s in (layer.running_mean, layer.running_var) if s is not None]
