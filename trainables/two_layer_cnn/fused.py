"""The fused CPU engine of the two-layer CNN: compiles the whole training loop, on sparse data and vector registers.

Layout: weights, moments and gradient are (d, 2m), with one row per coordinate; columns r < m are the filters of class
+1, the others those of class -1. A sample's patches touch s + 1 rows, so forward and backward passes cost O(s m). The
optimizer's update costs O(d m); its square root and reciprocal dominate the time of a step at small batches.
This engine stores m / (1 - beta1) and v / (1 - beta2) as the moments of `TrainState`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from trainables.names import Optimizer, entry_of
from trainables.two_layer_cnn.compiled import compiled
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.memory_placement import place
from trainables.two_layer_cnn.patch_data import PatchData, PatchSamples
from trainables.two_layer_cnn.simd_rows import (
    fma_row,
    load_row,
    reciprocal_row,
    relu_row,
    sign_row,
    sqrt_row,
    store_row,
    sum_row,
    zero_row,
)
from trainables.two_layer_cnn.state import Floats, Probe, TrainState, epoch_orders
from trainables.two_layer_cnn.subnormals import flushed_subnormals

_FIRST = np.uint32(0)

# Bounds and division checks would prevent vectorization; error_model="numpy" gives IEEE results, not exceptions.
_compiled = compiled(error_model="numpy", boundscheck=False, nogil=True)


class _Samples(NamedTuple):
    """Sparse samples in the form that the kernels read; see `PatchSamples`."""

    labels: Any
    support: Any
    values: Any


class _Network(NamedTuple):
    """The kernels' description of the network: +1 and -1 by class (1, 2m), q, and a tuple of length 2m, the width."""

    class_signs: Any
    q: int
    width: Any


class _Gradient(NamedTuple):
    """The gradient's sum over the batch (d, 2m); rows whose flag in `touched` (d,) is not set are zero."""

    rows: Any
    touched: Any


class _Rule(NamedTuple):
    """The optimizer's numbers in the precision of the weights; `exact_*`, for step sizes and epsilon, are in float64.

    `coupled` is lambda if the decay enters the gradient, else 0. `keep` is 1 - eta lambda if it is decoupled, else 1.
    """

    coupled: Any
    keep: Any
    beta1: Any
    beta2: Any
    eta: Any
    is_adam: bool
    bias_correction: bool
    exact_eta: float
    exact_beta1: float
    exact_beta2: float
    exact_epsilon: float


@_compiled
def _power(z: Any, exponent: int) -> Any:
    result = z
    for _ in range(exponent - 1):
        result = result * z
    return result


@_compiled
def _sparse_dot(W: Any, samples: _Samples, i: int, width: Any) -> Any:
    """<w_jr, xi_i> for all 2m filters."""
    total = zero_row(W, width)
    for k in range(samples.support.shape[1]):
        total = total + samples.values[i, k] * load_row(W, samples.support[i, k], width)
    return total


@_compiled
def _noise_slope(W: Any, gradient: _Gradient, samples: _Samples, i: int, scale: Any, network: _Network) -> Any:
    """Return -l_j act'(<w, xi_i>) / B for all filters; times xi_i it is the gradient of sample i's noise patch.

    Also adds the gradient of the signal patch, -l_j act'(<w, yv>) y v / B, which touches only the first coordinate.
    `scale` is q/B. The softmax of two classes depends only on F_+1 - F_-1, with
    l_j = j y / (1 + exp(y (F_+1 - F_-1))). Beyond margins of 17 in float32, torch's 1 - softmax rounds to 0, but this
    does not.
    """
    G, width = gradient.rows, network.width
    one = W.dtype.type(1)
    signs = load_row(network.class_signs, _FIRST, width)
    y = samples.labels[i]
    signal = relu_row(y * load_row(W, _FIRST, width))
    noise = relu_row(_sparse_dot(W, samples, i, width))
    signal_slope, noise_slope = _power(signal, network.q - 1), _power(noise, network.q - 1)
    margin = sum_row(signs * (signal_slope * signal + noise_slope * noise))
    minus_l = (-scale * y / (one + W.dtype.type(math.exp(y * margin)))) * signs
    store_row(G, _FIRST, load_row(G, _FIRST, width) + (y * minus_l) * signal_slope)
    gradient.touched[_FIRST] = True
    return minus_l * noise_slope


@_compiled
def _scatter(gradient: _Gradient, samples: _Samples, i: int, slope: Any, width: Any) -> None:
    """Add `slope` times xi_i to the gradient."""
    G = gradient.rows
    for k in range(samples.support.shape[1]):
        row = samples.support[i, k]
        store_row(G, row, load_row(G, row, width) + samples.values[i, k] * slope)
        gradient.touched[row] = True


@_compiled
def _take_gradient(W: Any, gradient: _Gradient, row: Any, coupled: Any, width: Any) -> Any:
    """Return the batch gradient + lambda_coupled * w of one coordinate, and reset the gradient there to zero."""
    decay = coupled * load_row(W, row, width)
    if not gradient.touched[row]:
        return decay
    gradient.touched[row] = False
    total = load_row(gradient.rows, row, width) + decay
    store_row(gradient.rows, row, zero_row(gradient.rows, width))
    return total


@_compiled
def _update_adam(W: Any, M: Any, V: Any, gradient: _Gradient, rule: _Rule, step: int, width: Any) -> None:
    """Equations (3.4)-(3.6) in the form of torch.optim, on m / (1 - beta1) and v / (1 - beta2).

    Each of these sums needs one multiplication less; the factors are put into the step size and epsilon instead.
    """
    number = W.dtype.type
    correction1, correction2 = 1.0, 1.0
    if rule.bias_correction:
        correction1, correction2 = 1 - rule.exact_beta1**step, 1 - rule.exact_beta2**step
    root_scale = math.sqrt((1 - rule.exact_beta2) / correction2)
    minus_step = number(-rule.exact_eta * (1 - rule.exact_beta1) / (correction1 * root_scale))
    epsilon = number(rule.exact_epsilon / root_scale)
    for index in range(W.shape[0]):
        row = np.uint32(index)
        g = _take_gradient(W, gradient, row, rule.coupled, width)
        m = fma_row(rule.beta1, load_row(M, row, width), g)
        v = fma_row(rule.beta2, load_row(V, row, width), g * g)
        store_row(M, row, m)
        store_row(V, row, v)
        direction = m * reciprocal_row(sqrt_row(v) + epsilon)
        store_row(W, row, fma_row(minus_step, direction, rule.keep * load_row(W, row, width)))


@_compiled
def _update_sign(W: Any, gradient: _Gradient, rule: _Rule, width: Any) -> None:
    """SignSGD and SignSGDW: w <- (1 - eta lambda_decoupled) w - eta sign(g)."""
    for index in range(W.shape[0]):
        row = np.uint32(index)
        g = _take_gradient(W, gradient, row, rule.coupled, width)
        store_row(W, row, rule.keep * load_row(W, row, width) - rule.eta * sign_row(g))


@_compiled
def _train_epochs(
    W: Any,
    M: Any,
    V: Any,
    gradient: _Gradient,
    samples: _Samples,
    orders: Any,
    batch_size: int,
    network: _Network,
    rule: _Rule,
    step: int,
) -> int:
    """Train one epoch for each row of `orders`, after `step` steps; returns the new number of steps."""
    number = W.dtype.type
    for epoch in range(orders.shape[0]):
        for start in range(0, orders.shape[1], batch_size):
            stop = min(start + batch_size, orders.shape[1])
            scale = number(network.q) / number(stop - start)
            for position in range(start, stop):
                i = orders[epoch, position]
                slope = _noise_slope(W, gradient, samples, i, scale, network)
                _scatter(gradient, samples, i, slope, network.width)
            step += 1
            if rule.is_adam:
                _update_adam(W, M, V, gradient, rule, step, network.width)
            else:
                _update_sign(W, gradient, rule, network.width)
    return step


@_compiled
def _probe(W: Any, samples: _Samples, network: _Network, margins: Any, noise: Any) -> None:
    """Fill `margins` (N,) with F_+1 - F_-1, and `noise` (N, 2m) with <w_jr, xi_i> unless `noise` has no rows."""
    width = network.width
    signs = load_row(network.class_signs, _FIRST, width)
    for i in range(samples.labels.shape[0]):
        product = _sparse_dot(W, samples, i, width)
        if noise.shape[0] > 0:
            store_row(noise, np.uint32(i), product)
        signal = relu_row(samples.labels[i] * load_row(W, _FIRST, width))
        margins[i] = sum_row(signs * (_power(signal, network.q) + _power(relu_row(product), network.q)))


IS_ADAM = {Optimizer.ADAM: True, Optimizer.ADAMW: True, Optimizer.SIGNSGD: False, Optimizer.SIGNSGDW: False}
"""Whether `_update_adam` (True) or `_update_sign` (False) trains an optimizer.

This is not an `OptimizerTable`, since a further update would have to be compiled into the loop, `_train_epochs`.
"""


class FusedEngine:
    """Trains one member at a time with one thread; its numbers are bitwise the same alone and in any pack."""

    name = "fused-cpu"

    def __init__(self, config: TwoLayerCNNConfig, data: PatchData) -> None:
        self._config = config
        self._number = np.dtype(config.precision.value).type
        self._train = self._samples(data.train)
        self._test = self._samples(data.test)
        signs = np.repeat(np.array([[1, -1]], self._number), config.num_filters, axis=1)
        self._network = _Network(signs, config.activation_power, (0,) * signs.size)
        shape = (config.dimension, signs.size)
        # the state's arrays begin in the other quarters of a page
        self._gradient = _Gradient(
            place(np.zeros(shape, self._number), quarter=3), np.zeros(config.dimension, np.bool_)
        )
        self._rule = self._make_rule()

    def train(self, state: TrainState, until_epoch: int) -> None:
        """Advance `state` in place to `until_epoch`."""
        with flushed_subnormals():
            while state.epoch < until_epoch:
                orders = epoch_orders(self._config, state.epoch, until_epoch)
                state.step = _train_epochs(
                    state.weights,
                    state.first_moment,
                    state.second_moment,
                    self._gradient,
                    self._train,
                    orders,
                    self._config.batch_size,
                    self._network,
                    self._rule,
                    state.step,
                )
                state.epoch += len(orders)

    def probe(self, state: TrainState) -> Probe:
        """Outputs on the training and the test set, and noise products on the training set."""
        train_margins = np.empty(len(self._train.labels), self._number)
        test_margins = np.empty(len(self._test.labels), self._number)
        noise = np.empty((len(train_margins), state.weights.shape[1]), self._number)
        with flushed_subnormals():
            _probe(state.weights, self._train, self._network, train_margins, noise)
            _probe(state.weights, self._test, self._network, test_margins, noise[:0])
        return Probe(train_margins, test_margins, noise)

    def moments(self, state: TrainState) -> tuple[Floats, Floats]:
        """First and second moment (d, 2m) of equations (3.4) and (3.5)."""
        rule = self._rule
        return (1 - rule.exact_beta1) * state.first_moment, (1 - rule.exact_beta2) * state.second_moment

    def _samples(self, samples: PatchSamples) -> _Samples:
        cast = samples.astype(self._number)
        return _Samples(cast.labels, cast.support, cast.values)

    def _make_rule(self) -> _Rule:
        config = self._config
        coupled, decoupled = (config.weight_decay, 0.0) if config.optimizer.is_coupled else (0.0, config.weight_decay)
        beta1, beta2 = config.beta1 or 0.0, config.beta2 or 0.0
        is_adam = entry_of(config.optimizer, IS_ADAM, "an update in the fused engine")
        epsilon = config.epsilon_value if is_adam else 0.0
        number = self._number
        return _Rule(
            coupled=number(coupled),
            keep=number(1 - config.learning_rate * decoupled),
            beta1=number(beta1),
            beta2=number(beta2),
            eta=number(config.learning_rate),
            is_adam=is_adam,
            bias_correction=bool(config.bias_correction),
            exact_eta=config.learning_rate,
            exact_beta1=beta1,
            exact_beta2=beta2,
            exact_epsilon=epsilon,
        )
