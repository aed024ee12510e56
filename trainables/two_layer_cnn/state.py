"""What both engines of the two-layer CNN share: the training state, the initial state and the measured quantities.

Shapes: d coordinates, m filters of each class (columns r < m: class +1, the others: class -1), N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainables.packs.saved_states import check_like
from trainables.random_streams import ORDER_BLOCK_EPOCHS, Purpose, order_block, stream
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.memory_placement import place

Floats = npt.NDArray[np.floating[Any]]


@dataclass(slots=True)
class TrainState:
    """Weights and moments (d, 2m) after `epoch` epochs and `step` optimizer steps; without Adam the moments stay zero.

    Only the engine that made a state can resume it, since each engine scales the moments in its own way.
    """

    epoch: int
    step: int
    weights: Floats
    first_moment: Floats
    second_moment: Floats

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all fields as arrays, by field name."""
        return {name: np.array(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], config: TwoLayerCNNConfig) -> TrainState:
        """Inverse of `arrays`; raises `ValueError` if they are not of a trial with this config."""
        names = ("weights", "first_moment", "second_moment")
        check_like(arrays, names, (config.dimension, 2 * config.num_filters), config.precision.value)
        matrices = [arrays[name] for name in names]
        return cls(int(arrays["epoch"]), int(arrays["step"]), *_placed(*matrices))


def initial_state(config: TwoLayerCNNConfig) -> TrainState:
    """Filters w_jr ~ N(0, sigma_0^2 I) of Definition 3.2, zero moments; the same for every optimizer of one seed."""
    shape = (2, config.num_filters, config.dimension)
    filters = config.init_std * stream(config.seed, Purpose.INIT).standard_normal(shape)
    weights = np.ascontiguousarray(filters.reshape(-1, config.dimension).T.astype(config.precision.value))
    return TrainState(0, 0, *_placed(weights, np.zeros_like(weights), np.zeros_like(weights)))


def _placed(*matrices: npt.NDArray[Any]) -> Iterator[Floats]:
    """Copies that begin in different quarters of a memory page; the last quarter is for an engine's gradient."""
    return (place(matrix, quarter) for quarter, matrix in enumerate(matrices))


def epoch_orders(config: TwoLayerCNNConfig, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Sample orders (epochs, n) of epochs `start` to `stop - 1`, but not past the end of the block of `start`."""
    block, first = divmod(start, ORDER_BLOCK_EPOCHS)
    return order_block(config.seed, config.num_train, block)[first : first + stop - start]


@dataclass(frozen=True, slots=True)
class Probe:
    """The network's products and outputs from which a trace point is computed.

    `train_margins` and `test_margins` (N,) are F_+1 - F_-1; `noise` (n, 2m) is <w_jr, xi_i> on the training samples.
    """

    train_margins: Floats
    test_margins: Floats
    noise: Floats


class Engine(Protocol):
    """Trains and measures states. The reference and the fused engine differ only in speed and rounding."""

    name: str

    def train(self, state: TrainState, until_epoch: int) -> None:
        """Advance `state` in place to `until_epoch`."""
        ...

    def probe(self, state: TrainState) -> Probe:
        """Measure `state` on the training and the test set."""
        ...

    def moments(self, state: TrainState) -> tuple[Floats, Floats]:
        """First and second moment (d, 2m) of equations (3.4) and (3.5)."""
        ...
