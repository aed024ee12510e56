"""The data model of Definition 3.1: a signal patch y*v, v = (1, 0, ..., 0), beside a sparse noise patch.

Shapes: N samples, d coordinates of a patch, s noise coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.random_streams import Purpose, digest, stream
from trainables.two_layer_cnn.config import TwoLayerCNNConfig

_KEPT = 20
"""Number of data sets that a process keeps, enough for a sweep's seeds; about 20 MB each for the paper's sizes."""
_SUPPORT_CHUNK = 1024
"""Number of samples whose supports are sampled at once; limits memory to 8 MB for d = 1000."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchSamples:
    """N samples in sparse form.

    `labels` (N,) are y in {-1, +1}. `support` (N, s + 1) has the noise patch's nonzero coordinates: first 0 (the
    feature noise), then s others in rising order. `values` (N, s + 1) has the noise patch's values there, -alpha*y
    first. `signal_first` (N,) tells whether the signal patch is the first one; it never changes an output, since
    filters are shared and summed over patches.
    """

    labels: npt.NDArray[np.floating[Any]]
    support: npt.NDArray[np.uint32]
    values: npt.NDArray[np.floating[Any]]
    signal_first: npt.NDArray[np.bool_]

    def astype(self, number: type[np.floating[Any]]) -> PatchSamples:
        """The same samples with labels and values of another float type; cached, since many trials share them."""
        return _cast(self, np.dtype(number))

    def part(self, start: int, stop: int) -> PatchSamples:
        """Samples `start` to `stop - 1`."""
        rows = slice(start, stop)
        return PatchSamples(self.labels[rows], self.support[rows], self.values[rows], self.signal_first[rows])

    def dense(self, dimension: int) -> npt.NDArray[np.float64]:
        """The samples as x = [x1; x2], shape (N, 2, d)."""
        n = len(self.labels)
        signal, noise = np.zeros((n, dimension)), np.zeros((n, dimension))
        signal[:, 0] = self.labels
        np.put_along_axis(noise, self.support.astype(np.int64), self.values, axis=1)
        first = self.signal_first[:, None]
        return np.stack([np.where(first, signal, noise), np.where(first, noise, signal)], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class PatchData:
    """Training and test samples of one seed, and a digest of both."""

    train: PatchSamples
    test: PatchSamples
    digest: str


def patch_data(config: TwoLayerCNNConfig) -> PatchData:
    """The data of a trial; sampled once per process for each (seed, sizes), whatever the optimizer."""
    assert config.noise_std is not None
    return _patch_data(
        seed=config.seed,
        num_train=config.num_train,
        num_test=config.num_test,
        dimension=config.dimension,
        sparsity=config.noise_sparsity,
        noise_std=config.noise_std,
        feature_noise=config.feature_noise,
    )


@lru_cache(maxsize=_KEPT)
def _patch_data(
    seed: int, num_train: int, num_test: int, dimension: int, sparsity: int, noise_std: float, feature_noise: float
) -> PatchData:
    train_stream, test_stream = stream(seed, Purpose.TRAIN_DATA), stream(seed, Purpose.TEST_DATA)
    # The experiments have exactly 100 training samples of each label; test labels are fair coins as in Definition 3.1.
    balanced = np.where(np.arange(num_train) % 2 == 0, 1.0, -1.0)
    coins = test_stream.choice([-1.0, 1.0], size=num_test)
    samples = partial(
        _samples, dimension=dimension, sparsity=sparsity, noise_std=noise_std, feature_noise=feature_noise
    )
    train, test = samples(train_stream, balanced), samples(test_stream, coins)
    return PatchData(train, test, digest(*_arrays(train), *_arrays(test)))


def _samples(
    rng: np.random.Generator,
    labels: npt.NDArray[np.float64],
    dimension: int,
    sparsity: int,
    noise_std: float,
    feature_noise: float,
) -> PatchSamples:
    n = len(labels)
    support = np.zeros((n, sparsity + 1), np.uint32)
    for start in range(0, n, _SUPPORT_CHUNK):
        keys = rng.random((min(_SUPPORT_CHUNK, n - start), dimension - 1))
        chosen = np.argpartition(keys, sparsity - 1, axis=1)[:, :sparsity]
        support[start : start + len(keys), 1:] = np.sort(chosen, axis=1) + 1
    values = np.empty((n, sparsity + 1))
    values[:, 0] = -feature_noise * labels
    values[:, 1:] = noise_std * rng.standard_normal((n, sparsity))
    return PatchSamples(labels, support, values, rng.random(n) < 0.5)


@lru_cache(maxsize=2 * _KEPT)
def _cast(samples: PatchSamples, dtype: np.dtype[np.floating[Any]]) -> PatchSamples:
    return PatchSamples(
        samples.labels.astype(dtype), samples.support, samples.values.astype(dtype), samples.signal_first
    )


def _arrays(samples: PatchSamples) -> tuple[npt.NDArray[np.generic], ...]:
    return samples.labels, samples.support, samples.values, samples.signal_first
