"""Random streams by purpose: data, initial weights and batch order depend on the seed, never on global state."""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
import numpy.typing as npt

ORDER_BLOCK_EPOCHS = 64
"""Number of epochs for which one call of `order_block` makes the batch order."""


class Purpose(IntEnum):
    """What a stream is for. The values never change, since every trial's random numbers depend on them."""

    TRAIN_DATA = 1
    TEST_DATA = 2
    INIT = 3
    ORDER = 4
    SUBSET = 5
    AUGMENTATION = 6
    DROPOUT = 7


def stream(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Independent generator for a trial's seed, a purpose and further indices, e.g. a block number."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(purpose), *index))))


def order_block(seed: int, num_train: int, block: int) -> npt.NDArray[np.uint32]:
    """Sample order of epochs `block * 64` to `block * 64 + 63`, shape (64, n); each row is a new permutation.

    A pure function of its arguments, so that a resumed trial needs no generator state.
    """
    rows = np.tile(np.arange(num_train, dtype=np.uint32), (ORDER_BLOCK_EPOCHS, 1))
    return stream(seed, Purpose.ORDER, block).permuted(rows, axis=1)


def digest(*arrays: npt.NDArray[np.generic]) -> str:
    """Short hash of the arrays' bytes, to check whether two trials saw the same numbers."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).view(np.uint8).data)
    return sha.hexdigest()[:16]
