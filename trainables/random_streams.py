"""Random streams by purpose: data, initial weights and batch order derive from the seed, never from global state."""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
import numpy.typing as npt

ORDER_BLOCK_EPOCHS = 64
"""Epochs whose batch order one call of `order_block` makes."""


class Purpose(IntEnum):
    """What a stream is for; the numbers are part of every trial's meaning and never change."""

    TRAIN_DATA = 1
    TEST_DATA = 2
    INIT = 3
    ORDER = 4
    SUBSET = 5
    AUGMENTATION = 6
    DROPOUT = 7


def stream(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Independent generator for `purpose` (and, say, a block number) of the trial's seed."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(purpose), *index))))


def order_block(seed: int, num_train: int, block: int) -> npt.NDArray[np.uint32]:
    """Sample order of epochs `block * 64` to `block * 64 + 63`, shape (64, n): each row a fresh permutation.

    A pure function of its arguments, so that a resumed trial needs no generator state.
    """
    rows = np.tile(np.arange(num_train, dtype=np.uint32), (ORDER_BLOCK_EPOCHS, 1))
    return stream(seed, Purpose.ORDER, block).permuted(rows, axis=1)


def digest(*arrays: npt.NDArray[np.generic]) -> str:
    """Short hash of the arrays' bytes, to tell whether two trials saw the same numbers."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).view(np.uint8).data)
    return sha.hexdigest()[:16]
