"""The fused CPU engine of the two-layer CNN: the whole training loop compiled, over sparse data and vector registers.

Layout: weights, moments and gradient are (d, 2m), one row a coordinate: columns r < m are the filters of class +1, the
others those of class -1. A sample's patches touch s + 1 rows, so forward and backward cost O(s m); the optimizer's
update is the O(d m) part, and the square root and the division in it are what bounds a step at small batches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from trainables.config import TwoLayerCNNConfig
from trainables.numba_rows import load_row, relu_row, sign_row, sqrt_row, store_row, sum_row, zero_row
from trainables.patch_data import PatchData
from trainables.subnormals import flushed_subnormals
from trainables.two_layer_cnn_state import Probe, TrainState, epoch_orders

_FIRST = np.uint32(0)

# Bounds and division checks would stop the vectorizer; error_model="numpy" gives IEEE results instead of exceptions.
_compiled = njit(error_model="numpy", boundscheck=False, cache=True, nogil=True)


@_compiled
def _power(z: Any, exponent: int) -> Any:
    result = z
    for _ in range(exponent - 1):
        result = result * z
    return result


@_compiled
def _sparse_dot(W: Any, support: Any, values: Any, i: int, width: Any) -> Any:
    """<w_jr, xi_i> for all 2m filters."""
    total = zero_row(W, width)
    for k in range(support.shape[1]):
        total = total + values[i, k] * load_row(W, support[i, k], width)
    return total


@_compiled
def _add_gradient(
    W: Any,
    G: Any,
    touched: Any,
    signs: Any,
    labels: Any,
    support: Any,
    values: Any,
    i: int,
    scale: float,
    q: int,
    width: Any,
) -> None:
    """Add sample i's gradient to G: -l_j [act'(<w, yv>) y v + act'(<w, xi>) xi], times 1/B (`scale` is q/B)."""
    one = W.dtype.type(1)
    y = labels[i]
    signal = relu_row(y * load_row(W, _FIRST, width))
    noise = relu_row(_sparse_dot(W, support, values, i, width))
    signal_slope, noise_slope = _power(signal, q - 1), _power(noise, q - 1)
    # F_+1 - F_-1; the softmax of two classes depends on nothing else, and l_j = j y / (1 + exp(y (F_+1 - F_-1))).
    margin = sum_row(signs * (signal_slope * signal + noise_slope * noise))
    minus_l = (-scale * y / (one + W.dtype.type(math.exp(y * margin)))) * signs
    noise_slope = minus_l * noise_slope
    for k in range(support.shape[1]):
        row = support[i, k]
        store_row(G, row, load_row(G, row, width) + values[i, k] * noise_slope)
        touched[row] = True
    store_row(G, _FIRST, load_row(G, _FIRST, width) + (y * minus_l) * signal_slope)


@_compiled
def _gradient_row(W: Any, G: Any, touched: Any, row: Any, coupled: float, width: Any) -> Any:
    """Batch gradient + lambda_coupled * w of one coordinate; clears what it read."""
    decay = coupled * load_row(W, row, width)
    if not touched[row]:
        return decay
    touched[row] = False
    gradient = load_row(G, row, width) + decay
    store_row(G, row, zero_row(G, width))
    return gradient


@_compiled
def _update_adam(
    W: Any, M: Any, V: Any, G: Any, touched: Any, rates: Any, step_size: float, root_scale: float, width: Any
) -> None:
    """Equations (3.4)-(3.6) as torch.optim writes them; `root_scale` is 1/sqrt(1 - beta2^t), 1 without correction."""
    coupled, keep, beta1, rest1, beta2, rest2, epsilon, _ = rates
    for index in range(W.shape[0]):
        row = np.uint32(index)
        gradient = _gradient_row(W, G, touched, row, coupled, width)
        m = beta1 * load_row(M, row, width) + rest1 * gradient
        v = beta2 * load_row(V, row, width) + rest2 * (gradient * gradient)
        store_row(M, row, m)
        store_row(V, row, v)
        store_row(W, row, keep * load_row(W, row, width) - step_size * (m / (root_scale * sqrt_row(v) + epsilon)))


@_compiled
def _update_sign(W: Any, G: Any, touched: Any, rates: Any, width: Any) -> None:
    """SignSGD and SignSGDW: w <- (1 - eta lambda_decoupled) w - eta sign(g)."""
    coupled, keep, learning_rate = rates[0], rates[1], rates[7]
    for index in range(W.shape[0]):
        row = np.uint32(index)
        gradient = _gradient_row(W, G, touched, row, coupled, width)
        store_row(W, row, keep * load_row(W, row, width) - learning_rate * sign_row(gradient))


@_compiled
def _train_epochs(
    W: Any,
    M: Any,
    V: Any,
    G: Any,
    touched: Any,
    class_signs: Any,
    labels: Any,
    support: Any,
    values: Any,
    orders: Any,
    batch_size: int,
    q: int,
    rates: Any,
    betas: Any,
    learning_rate: float,
    has_moments: bool,
    bias_correction: bool,
    step: int,
    width: Any,
) -> int:
    """Train one epoch for each row of `orders`; returns the number of steps taken so far."""
    number = W.dtype.type
    signs = load_row(class_signs, _FIRST, width)
    for epoch in range(orders.shape[0]):
        for start in range(0, orders.shape[1], batch_size):
            stop = min(start + batch_size, orders.shape[1])
            scale = number(q) / number(stop - start)
            for position in range(start, stop):
                _add_gradient(W, G, touched, signs, labels, support, values, orders[epoch, position], scale, q, width)
            step += 1
            if not has_moments:
                _update_sign(W, G, touched, rates, width)
            elif bias_correction:
                step_size = number(learning_rate / (1 - betas[0] ** step))
                root_scale = number(1 / math.sqrt(1 - betas[1] ** step))
                _update_adam(W, M, V, G, touched, rates, step_size, root_scale, width)
            else:
                _update_adam(W, M, V, G, touched, rates, number(learning_rate), number(1), width)
    return step


@_compiled
def _probe(
    W: Any, class_signs: Any, labels: Any, support: Any, values: Any, q: int, margins: Any, noise: Any, width: Any
) -> None:
    """Fill margins (N,) with F_+1 - F_-1, and noise (N, 2m) with <w_jr, xi_i> unless it has no rows."""
    signs = load_row(class_signs, _FIRST, width)
    for i in range(labels.shape[0]):
        product = _sparse_dot(W, support, values, i, width)
        if noise.shape[0] > 0:
            store_row(noise, np.uint32(i), product)
        outputs = _power(relu_row(labels[i] * load_row(W, _FIRST, width)), q) + _power(relu_row(product), q)
        margins[i] = sum_row(signs * outputs)


class FusedEngine:
    """Trains one member at a time, at one thread; bitwise the same alone and in any pack."""

    name = "fused-cpu"

    def __init__(self, config: TwoLayerCNNConfig, data: PatchData) -> None:
        self._config = config
        self._number = np.dtype(config.precision.value).type
        self._train = data.train.astype(self._number)
        self._test = data.test.astype(self._number)
        self._width = (0,) * (2 * config.num_filters)
        self._class_signs = np.repeat(np.array([[1, -1]], self._number), config.num_filters, axis=1)
        self._gradient = np.zeros((config.dimension, 2 * config.num_filters), self._number)
        self._touched = np.zeros(config.dimension, np.bool_)
        self._betas = (config.beta1 or 0.0, config.beta2 or 0.0)
        self._rates = self._make_rates()

    def _make_rates(self) -> tuple[Any, ...]:
        config, number = self._config, self._number
        coupled, decoupled = (config.weight_decay, 0.0) if config.optimizer.is_coupled else (0.0, config.weight_decay)
        beta1, beta2 = self._betas
        epsilon = config.epsilon_value if config.optimizer.has_moments else 0.0
        keep = 1 - config.learning_rate * decoupled
        rates = (coupled, keep, beta1, 1 - beta1, beta2, 1 - beta2, epsilon, config.learning_rate)
        return tuple(number(rate) for rate in rates)

    def train(self, state: TrainState, until_epoch: int) -> None:
        """Advance `state` in place to `until_epoch`."""
        config = self._config
        with flushed_subnormals():
            while state.epoch < until_epoch:
                orders = epoch_orders(config, state.epoch, until_epoch)
                state.step = _train_epochs(
                    state.weights,
                    state.first_moment,
                    state.second_moment,
                    self._gradient,
                    self._touched,
                    self._class_signs,
                    self._train.labels,
                    self._train.support,
                    self._train.values,
                    orders,
                    config.batch_size,
                    config.activation_power,
                    self._rates,
                    self._betas,
                    config.learning_rate,
                    config.optimizer.has_moments,
                    bool(config.bias_correction),
                    state.step,
                    self._width,
                )
                state.epoch += len(orders)

    def probe(self, state: TrainState) -> Probe:
        """Outputs on both sets and noise products on the training set."""
        train_margins = np.empty(len(self._train.labels), self._number)
        test_margins = np.empty(len(self._test.labels), self._number)
        noise = np.empty((len(train_margins), len(self._width)), self._number)
        with flushed_subnormals():
            for samples, margins, products in (
                (self._train, train_margins, noise),
                (self._test, test_margins, noise[:0]),
            ):
                _probe(
                    state.weights,
                    self._class_signs,
                    samples.labels,
                    samples.support,
                    samples.values,
                    self._config.activation_power,
                    margins,
                    products,
                    self._width,
                )
        return Probe(train_margins, test_margins, noise)
