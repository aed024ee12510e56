"""Certifies that a trial of the two-layer CNN is stuck, by a box that no weight can leave, whatever the later batches.

Let one weight w have the gradient g = h + lambda w, where the loss gives |h| <= G. Two facts hold for every update u of
Adam:

- |u| <= c = (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)), by Cauchy-Schwarz on the sums that m and v are. Bias
  correction keeps this bound: it multiplies by sqrt(1 - beta2^t) / (1 - beta1^t), the t terms of the sums give a factor
  sqrt(1 - rho^2t), and (1 - rho^2t) (1 - beta2^t) <= (1 - beta1^t)^2, since rho^2 beta2 = beta1^2.
- While g keeps one sign, the past gradients' contribution against that sign fades: after j steps an update against it
  has |u| <= c rho^j, with rho = beta1 / sqrt(beta2), since a step multiplies the past in m by beta1, and sqrt(v) falls
  at most to sqrt(beta2) times its value.

Coupled decay: above G / lambda the gradient is positive, so a weight that crosses this line moves at most
eta c (1 + rho + rho^2 + ...) beyond it. All weights with |w| <= G / lambda + eta c (`inner`) thus stay within
|w| <= r = G / lambda + eta c / (1 - rho) (`outer`), as long as G holds in the outer box. G follows from r and grows
with it. The least r that is consistent with its own G is found by iteration from below. SignSGD has c = 1, rho = 0.

Decoupled decay: a weight with |w| <= eta c / (1 - |1 - eta lambda|) keeps this bound, whatever the gradients are.

A box certifies a stuck end if its largest loss and its largest norm are those of a stuck trial. Epsilon only makes
updates smaller.
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
"""Factor on every bound, as a margin for the engines' rounding."""
LEAST_EPSILON = 1e-15
"""Below it, sums that round to zero in float32 could make updates larger than c."""
_MOST_ITERATIONS = 200

Radii = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightBox:
    """Bounds (d,) on |w_jr[k]|: weights that are within `inner` stay within `outer` in all later steps."""

    inner: Radii
    outer: Radii

    def holds(self, state: TrainState) -> bool:
        """Whether the state is within `inner`."""
        return bool((np.abs(state.weights).max(axis=1) <= self.inner).all())


class Bounds(Protocol):
    """Bounds that hold for all weights within radii (d,)."""

    def is_stuck_within(self, radii: Radii, initial_norm: float) -> bool:
        """Whether every set of weights within `radii` has the loss and the norm of a stuck trial."""
        ...

    def largest_gradient(self, radii: Radii) -> Radii:
        """The largest |dL/dw_jr[k]| (d,) of any batch."""
        ...


def stuck_box(config: TwoLayerCNNConfig, data: PatchData, initial_norm: float) -> WeightBox | None:
    """The box of a trial; None if no box certifies a stuck end, e.g. if the optimizer's updates have no known bound."""
    if config.optimizer not in LARGEST_STEPS or config.weight_decay == 0:
        return None
    if config.optimizer.has_moments and config.epsilon_value < LEAST_EPSILON:
        return None
    bounds = Reach(config, data)
    if config.optimizer.is_coupled:
        return coupled_box(config, bounds, initial_norm)
    # Rounding can cancel a small decay: a float32 weight times 1 - 1e-9 is unchanged.
    number = np.dtype(config.precision.value).type
    kept = abs(float(number(1 - config.learning_rate * config.weight_decay))) + float(np.finfo(number).eps)
    if kept >= 1:
        return None
    step, _ = largest_step(config)
    radii = np.full(config.dimension, SLACK * step / (1 - kept))
    return WeightBox(radii, radii) if bounds.is_stuck_within(radii, initial_norm) else None


def largest_step(config: TwoLayerCNNConfig) -> tuple[float, float]:
    """The largest change eta c of a weight in one update, and rho."""
    return LARGEST_STEPS.of(config.optimizer)(config)


def check_bound(optimizer: Optimizer) -> None:
    """Raise `ConfigError` for an optimizer without a bound on its updates, whose trials have no certificates."""
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
"""The bound on each optimizer's update, as proved above; an optimizer without a bound has no certificates."""


def coupled_box(config: TwoLayerCNNConfig, bounds: Bounds, initial_norm: float) -> WeightBox | None:
    """The smallest box for coupled decay that is consistent with its gradients; None if a network in it might train."""
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
    """Bounds on outputs and gradients over the training set, for all weights within a box."""

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
        # a sample's |log(1 + exp(-z)) - log 2| grows with |z|, and faster for negative z
        loss_change = float(np.logaddexp(0, SLACK * self._margins(radii)).mean()) - math.log(2)
        return loss_change < STUCK_LOSS_TOLERANCE * trivial_loss(TwoLayerCNNConfig.num_classes)

    def largest_gradient(self, radii: Radii) -> Radii:
        """The largest |dL/dw_jr[k]| (d,) of any batch: the mean over the samples with the largest gradients."""
        products = self._products(radii)
        softness = 1 / (1 + np.exp(-self._margins(radii)))  # upper bound of |l_j|
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
        """Upper bounds (n,) of |<w, xi_i>|."""
        products: Radii = (self._values * radii[self._support]).sum(axis=1)
        return products

    def _margins(self, radii: Radii) -> Radii:
        """Upper bounds (n,) of |F_+1 - F_-1|: both outputs are sums of m non-negative terms per patch."""
        margins: Radii = self._num_filters * (radii[0] ** self._q + self._products(radii) ** self._q)
        return margins
