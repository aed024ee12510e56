"""The certificate that a trial of the two-layer CNN is stuck: a box that no weight can leave, whatever batches come.

One weight w with gradient g = h + lambda w, where the loss gives |h| <= G. Two facts on every update u of Adam:

- |u| <= c = (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)), by Cauchy-Schwarz on the sums that m and v are. Bias
  correction keeps this: it multiplies by sqrt(1 - beta2^t) / (1 - beta1^t), the t terms of the sums bring a factor
  sqrt(1 - rho^2t), and (1 - rho^2t) (1 - beta2^t) <= (1 - beta1^t)^2, since rho^2 beta2 = beta1^2.
- While g keeps one sign, what the past adds against that sign fades: after j steps |u| <= c rho^j there, with
  rho = beta1 / sqrt(beta2), since m forgets by beta1 and sqrt(v) by at most sqrt(beta2).

Coupled decay: above G / lambda the gradient is positive, so that a weight which crosses this line goes at most
eta c (1 + rho + rho^2 + ...) beyond it. All weights with |w| <= G / lambda + eta c (`inner`) thus stay in
|w| <= r = G / lambda + eta c / (1 - rho) (`outer`), as long as G holds in the outer box. G follows from r, larger
for a larger r: the least r that agrees with its own G is found by iteration from below. SignSGD has c = 1, rho = 0.

Decoupled decay: |w| <= eta c / (1 - |1 - eta lambda|), once inside, whatever the gradients are.

A box certifies a stuck end if its largest loss and its largest norm are a stuck trial's. Epsilon makes updates smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainables.names import Optimizer, OptimizerTable
from trainables.outcome import STUCK_LOSS_TOLERANCE, STUCK_NORM_SHARE, trivial_loss
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import PatchData
from trainables.two_layer_cnn.state import TrainState

SLACK = 1.01
"""On every bound: room for the rounding of the engines."""
LEAST_EPSILON = 1e-15
"""Below it, sums that round to zero in float32 could make updates larger than c."""
_MOST_ITERATIONS = 200

Radii = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightBox:
    """Bounds (d,) on |w_jr[k]|: weights that are within `inner` stay within `outer` for ever."""

    inner: Radii
    outer: Radii

    def holds(self, state: TrainState) -> bool:
        """Whether the state is within `inner`."""
        return bool((np.abs(state.weights).max(axis=1) <= self.inner).all())


class Bounds(Protocol):
    """What weights within radii (d,) can do."""

    def is_stuck_within(self, radii: Radii, initial_norm: float) -> bool:
        """Whether every set of weights within `radii` has the loss and the norm of a stuck trial."""
        ...

    def largest_gradient(self, radii: Radii) -> Radii:
        """The largest |dL/dw_jr[k]| (d,) of any batch."""
        ...


def stuck_box(config: TwoLayerCNNConfig, data: PatchData, initial_norm: float) -> WeightBox | None:
    """The box of a trial, None if none certifies a stuck end; there is none where nothing bounds an update."""
    if config.optimizer not in LARGEST_STEPS or config.weight_decay == 0:
        return None
    if config.optimizer.has_moments and config.epsilon_value < LEAST_EPSILON:
        return None
    bounds = Reach(config, data)
    if config.optimizer.is_coupled:
        return coupled_box(config, bounds, initial_norm)
    # Small steps round: a float32 weight that is kept by 1 - 1e-9 is kept whole.
    number = np.dtype(config.precision.value).type
    kept = abs(float(number(1 - config.learning_rate * config.weight_decay))) + float(np.finfo(number).eps)
    if kept >= 1:
        return None
    step, _ = largest_step(config)
    radii = np.full(config.dimension, SLACK * step / (1 - kept))
    return WeightBox(radii, radii) if bounds.is_stuck_within(radii, initial_norm) else None


def largest_step(config: TwoLayerCNNConfig) -> tuple[float, float]:
    """The largest change of a weight by one update, eta c, and rho."""
    return LARGEST_STEPS.of(config.optimizer)(config)


def check_bound(optimizer: Optimizer) -> None:
    """Raise `ConfigError` for an optimizer whose trials never have a certificate."""
    LARGEST_STEPS.of(optimizer)


def _sign_step(config: TwoLayerCNNConfig) -> tuple[float, float]:
    return config.learning_rate, 0.0


def _moments_step(config: TwoLayerCNNConfig) -> tuple[float, float]:
    number = np.dtype(config.precision.value).type
    beta1, beta2 = float(number(config.beta1)), float(number(config.beta2))  # as the engines have them
    c = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return config.learning_rate * c, beta1 / math.sqrt(beta2)


LARGEST_STEPS = OptimizerTable[Callable[[TwoLayerCNNConfig], tuple[float, float]]](
    "largest_step",
    "the largest update, which a certificate needs",
    {
        Optimizer.ADAM: _moments_step,
        Optimizer.ADAMW: _moments_step,
        Optimizer.SIGNSGD: _sign_step,
        Optimizer.SIGNSGDW: _sign_step,
    },
)
"""The bound on an update of each optimizer, as proved above; without one there is no certificate."""


def coupled_box(config: TwoLayerCNNConfig, bounds: Bounds, initial_norm: float) -> WeightBox | None:
    """The smallest box of coupled decay that agrees with its own gradients, None if a network in it might train."""
    step, rho = largest_step(config)
    radii = np.full(config.dimension, step / (1 - rho))
    for _ in range(_MOST_ITERATIONS):
        outer = SLACK**2 * radii
        if not bounds.is_stuck_within(outer, initial_norm):
            return None
        line = bounds.largest_gradient(outer) / config.weight_decay
        needed = line + step / (1 - rho)
        if (SLACK * needed <= outer).all():
            return WeightBox(line + step, outer)
        radii = np.maximum(radii, needed)
    return None


class Reach:
    """What weights within a box can do: bounds on outputs and gradients over the training set."""

    def __init__(self, config: TwoLayerCNNConfig, data: PatchData) -> None:
        self._q, self._num_filters = config.activation_power, config.num_filters
        smallest = config.num_train % config.batch_size
        self._batch_size = smallest or config.batch_size  # the mean over fewer samples can be larger
        self._support = data.train.support.astype(np.int64)
        self._coordinates = self._support.ravel()
        self._values = np.abs(data.train.values)
        self._dimension = config.dimension

    def is_stuck_within(self, radii: Radii, initial_norm: float) -> bool:
        """Whether every set of weights within `radii` has the loss and the norm of a stuck trial."""
        norm = math.sqrt(2 * self._num_filters * float(np.square(radii).sum()))
        if not SLACK * norm < STUCK_NORM_SHARE * initial_norm:
            return False
        # a sample's |log(1 + exp(-z)) - log 2| grows in |z|, faster for negative z
        loss_change = float(np.logaddexp(0, SLACK * self._margins(radii)).mean()) - math.log(2)
        return loss_change < STUCK_LOSS_TOLERANCE * trivial_loss(TwoLayerCNNConfig.num_classes)

    def largest_gradient(self, radii: Radii) -> Radii:
        """The largest |dL/dw_jr[k]| (d,) of any batch: the mean over those samples where it is largest."""
        products = self._products(radii)
        softness = 1 / (1 + np.exp(-self._margins(radii)))  # |l_j| at most
        noise_slope = softness * self._q * products ** (self._q - 1)
        by_sample = noise_slope[:, None] * self._values
        by_sample[:, 0] += softness * self._q * radii[0] ** (self._q - 1)  # coordinate 0 has the signal too
        flat = by_sample.ravel()
        order = np.lexsort((-flat, self._coordinates))
        coordinates = self._coordinates[order]
        rank = np.arange(len(order)) - np.searchsorted(coordinates, coordinates)
        largest = np.where(rank < self._batch_size, flat[order], 0.0)
        return np.bincount(coordinates, largest, minlength=self._dimension) / self._batch_size

    def _products(self, radii: Radii) -> Radii:
        """|<w, xi_i>| (n,) at most."""
        products: Radii = (self._values * radii[self._support]).sum(axis=1)
        return products

    def _margins(self, radii: Radii) -> Radii:
        """|F_+1 - F_-1| (n,) at most: both are sums of m non-negative terms a patch."""
        margins: Radii = self._num_filters * (radii[0] ** self._q + self._products(radii) ** self._q)
        return margins
