"""The certificate that a trial of the two-layer CNN is stuck: a box that no weight can leave, whatever batches come.

One weight w with gradient g = h + lambda w, where the loss gives |h| <= G. Two facts on every update u of Adam:

- |u| <= c = (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)), by Cauchy-Schwarz on the sums that m and v are.
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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.config import TwoLayerCNNConfig
from trainables.outcome import STUCK_LOSS_TOLERANCE, STUCK_NORM_SHARE, trivial_loss
from trainables.patch_data import PatchData
from trainables.two_layer_cnn_state import TrainState

SLACK = 1.01
"""On every bound: room for the rounding of the engines."""
LEAST_EPSILON = 1e-15
"""Below it, sums that round to zero in float32 could make updates larger than c."""
_FORGOTTEN = 1e-3
"""Bias correction multiplies c by at most 1 / (1 - beta1^t): from the step on where beta1^t is below this, by 1.001."""
_MOST_ITERATIONS = 200

Radii = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightBox:
    """Bounds (d,) on |w_jr[k]|: from step `first_step` on, weights within `inner` stay within `outer` for ever."""

    inner: Radii
    outer: Radii
    first_step: int

    def holds(self, state: TrainState) -> bool:
        """Whether the state is within `inner`."""
        largest = np.abs(state.weights).max(axis=1)
        return state.step >= self.first_step and bool((largest <= self.inner).all())


def stuck_box(config: TwoLayerCNNConfig, data: PatchData, initial_norm: float) -> WeightBox | None:
    """The box of a trial, None if none certifies a stuck end."""
    if config.weight_decay == 0 or (config.optimizer.has_moments and config.epsilon_value < LEAST_EPSILON):
        return None
    step, rho, first_step = largest_step(config)
    if config.optimizer.is_coupled:
        return _coupled_box(config, Reach(config, data), step, rho, first_step, initial_norm)
    kept = abs(1 - config.learning_rate * config.weight_decay)
    if kept >= 1:
        return None
    radii = np.full(config.dimension, SLACK * step / (1 - kept))
    is_stuck = Reach(config, data).is_stuck_within(radii, initial_norm)
    return WeightBox(radii, radii, first_step) if is_stuck else None


def largest_step(config: TwoLayerCNNConfig) -> tuple[float, float, int]:
    """The largest change of a weight in one step, eta c; rho; and the step from which they hold."""
    if not config.optimizer.has_moments:
        return config.learning_rate, 0.0, 0
    beta1, beta2 = config.beta1 or 0.0, config.beta2 or 0.0
    c = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    first_step = 0
    if config.bias_correction:
        c /= 1 - _FORGOTTEN
        first_step = math.ceil(math.log(_FORGOTTEN) / math.log(beta1)) if beta1 else 0
    return config.learning_rate * c, beta1 / math.sqrt(beta2), first_step


def _coupled_box(
    config: TwoLayerCNNConfig, network: Reach, step: float, rho: float, first_step: int, initial_norm: float
) -> WeightBox | None:
    radii = np.full(config.dimension, step / (1 - rho))
    for _ in range(_MOST_ITERATIONS):
        outer = SLACK * radii
        if not network.is_stuck_within(outer, initial_norm):
            return None
        line = network.largest_gradient(outer) / config.weight_decay
        needed = line + step / (1 - rho)
        if (needed <= outer).all():
            return WeightBox(line + step, outer, first_step)
        radii = np.maximum(radii, needed)
    return None


class Reach:
    """What weights within a box can do: bounds on outputs and gradients over the training set."""

    def __init__(self, config: TwoLayerCNNConfig, data: PatchData) -> None:
        self._q, self._num_filters = config.activation_power, config.num_filters
        smallest = config.num_train % config.batch_size
        self._batch_size = smallest or config.batch_size  # the mean over fewer samples can be larger
        self._support = data.train.support.astype(np.int64)
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
        """The largest |dL/dw_jr[k]| (d,) of any batch: the mean over the samples that have the largest."""
        products = self._products(radii)
        softness = 1 / (1 + np.exp(-self._margins(radii)))  # |l_j| at most
        noise_slope = softness * self._q * products ** (self._q - 1)
        by_sample = np.zeros((len(products), self._dimension))
        np.put_along_axis(by_sample, self._support, noise_slope[:, None] * self._values, axis=1)
        by_sample[:, 0] += softness * self._q * radii[0] ** (self._q - 1)
        size = self._batch_size
        top = np.partition(by_sample, len(by_sample) - size, axis=0)[len(by_sample) - size :]
        largest: Radii = top.mean(axis=0)
        return largest

    def _products(self, radii: Radii) -> Radii:
        """|<w, xi_i>| (n,) at most."""
        products: Radii = (self._values * radii[self._support]).sum(axis=1)
        return products

    def _margins(self, radii: Radii) -> Radii:
        """|F_+1 - F_-1| (n,) at most: both are sums of m non-negative terms a patch."""
        margins: Radii = self._num_filters * (radii[0] ** self._q + self._products(radii) ** self._q)
        return margins
