"""Compares Adam's updates with SignSGD's, weight by weight, over one epoch in plain numpy, whichever engine trains.

Shapes: B samples of a batch, d coordinates, m filters of each class (columns r < m: class +1, the others: class -1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.config import Optimizer
from trainables.errors import ConfigError
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import PatchData, PatchSamples
from trainables.two_layer_cnn.state import Floats, epoch_orders

SAME_SIZE_FACTOR = 2.0
"""Sizes within this factor of each other count as the same: the theory's orders of magnitude allow any constant."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Updates:
    """One step: the gradient (d, 2m), which includes lambda w if the decay is coupled, and m / (sqrt(v) + epsilon)."""

    gradient: Matrix
    update: Matrix


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares over all weights and steps; see `SignAgreementTracePoint`."""

    large_share: float
    same_sign_large: float
    same_sign_small: float
    same_size_large: float
    same_size_small: float


class AdamSteps:
    """Adam or AdamW, equations (3.4)-(3.6), resumed from a given state; `weights` (d, 2m) are its current weights."""

    def __init__(
        self, config: TwoLayerCNNConfig, data: PatchData, weights: Floats, moments: tuple[Floats, Floats], step: int
    ) -> None:
        if config.optimizer not in (Optimizer.ADAM, Optimizer.ADAMW):
            raise ConfigError(f"only steps of adam and adamw can be compared, got optimizer {config.optimizer}")
        self._config = config
        self.weights = np.array(weights, np.float64)
        self._first, self._second = (np.array(moment, np.float64) for moment in moments)
        self._step = step
        self._labels = data.train.labels
        self._noise = _noise_patches(data.train, config.dimension)
        self._class_signs = np.repeat([1.0, -1.0], config.num_filters)

    def epoch(self, epoch: int) -> Iterator[Updates]:
        """Train the next epoch after `epoch` epochs, and yield its steps."""
        order = epoch_orders(self._config, epoch, epoch + 1)[0]
        for start in range(0, self._config.num_train, self._config.batch_size):
            yield self._train(order[start : start + self._config.batch_size])

    @np.errstate(over="ignore", invalid="ignore")  # a diverged trial's numbers are inf or nan
    def _train(self, batch: npt.NDArray[np.uint32]) -> Updates:
        """One step."""
        config = self._config
        beta1, beta2 = config.beta1 or 0.0, config.beta2 or 0.0
        gradient = self._loss_gradient(batch)
        if config.optimizer.is_coupled:
            gradient += config.weight_decay * self.weights
        self._step += 1
        self._first = beta1 * self._first + (1 - beta1) * gradient
        self._second = beta2 * self._second + (1 - beta2) * gradient**2
        first, second = self._first, self._second
        if config.bias_correction:
            first, second = first / (1 - beta1**self._step), second / (1 - beta2**self._step)
        update = first / (np.sqrt(second) + config.epsilon_value)
        if not config.optimizer.is_coupled:
            self.weights *= 1 - config.learning_rate * config.weight_decay
        self.weights -= config.learning_rate * update
        return Updates(gradient, update)

    def _loss_gradient(self, batch: npt.NDArray[np.uint32]) -> Matrix:
        """The mean over the batch of -l_j [act'(<w, yv>) y v + act'(<w, xi>) xi], l_j = 1{y = j} - softmax_j."""
        y, noise, q = self._labels[batch, None], self._noise[batch], self._config.activation_power
        signal_product = np.maximum(y * self.weights[0], 0)
        noise_product = np.maximum(noise @ self.weights, 0)
        margin = ((signal_product**q + noise_product**q) * self._class_signs).sum(axis=1, keepdims=True)
        minus_l = -self._class_signs * y / (1 + np.exp(y * margin)) / len(batch)
        gradient: Matrix = noise.T @ (minus_l * q * noise_product ** (q - 1))
        gradient[0] += (minus_l * q * signal_product ** (q - 1) * y).sum(axis=0)
        return gradient


def agreement(steps: Iterator[Updates], threshold: float) -> Agreement:
    """Compare each update with sign(gradient); a gradient is large if its absolute value is at least `threshold`."""
    counts = np.zeros((2, 3))  # rows: large, small gradients; columns: all, same sign, same sign and size
    for step in steps:
        is_large = np.abs(step.gradient) >= threshold
        same_sign = np.sign(step.update) == np.sign(step.gradient)
        size = np.abs(step.update)
        is_near_one = (size <= SAME_SIZE_FACTOR) & (size >= 1 / SAME_SIZE_FACTOR)
        same_size = same_sign & (is_near_one | (step.gradient == 0))
        for row, group in enumerate((is_large, ~is_large)):
            counts[row] += [group.sum(), (same_sign & group).sum(), (same_size & group).sum()]
    (num_large, *large), (num_small, *small) = counts
    return Agreement(
        large_share=float(num_large / (num_large + num_small)),
        same_sign_large=_share(large[0], num_large),
        same_sign_small=_share(small[0], num_small),
        same_size_large=_share(large[1], num_large),
        same_size_small=_share(small[1], num_small),
    )


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _noise_patches(samples: PatchSamples, dimension: int) -> Matrix:
    """The noise patch xi of each sample, dense; (n, d)."""
    noise = np.zeros((len(samples.labels), dimension))
    np.put_along_axis(noise, samples.support.astype(np.int64), samples.values, axis=1)
    return noise
