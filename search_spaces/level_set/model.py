"""Models where a probability crosses a level, by a Gaussian process of binary outcomes at points of the unit cube.

A latent function f with a squared-exponential prior gives P(works) = Phi(f). An outcome is then flipped with
probability `lapse`, so that a mislabelled outcome does not bend the boundary. `hyperparameters` finds length scales,
amplitude and lapse. The posterior is approximated by expectation propagation [Minka 2001], not by Laplace's method:
where outcomes are certain, Laplace's mode is near the boundary's level and its deviation as wide as the prior's, so
that every certain place would count as unknown.

Shapes: n observed points of d dimensions, m points to predict at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve, solve_triangular  # type: ignore[import-untyped]
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

from search_spaces.level_set.blas_threads import one_blas_thread
from search_spaces.level_set.hyperparameters import (
    OFFSET,
    Array,
    Mode,
    Outcomes,
    Prior,
    factor_of,
    find_mode,
    most_probable_prior,
)

MAX_SWEEPS, DAMPING, SWEEP_TOLERANCE = 30, 0.7, 1e-3
QUADRATURE = np.linspace(-6.0, 6.0, 97)
"""Nodes, in standard deviations of the cavity, at which a site's moments are summed."""
JITTER = 1e-8


def _propagated(mode: Mode, data: Outcomes, lapse: float) -> tuple[Array, Array, Array]:
    """`alpha`, `root`, `factor` of the Gaussian that matches every point's moments [Rasmussen and Williams 2006, 3.6].

    Starts from Laplace's sites and updates all points at once, damped. A site's moments are sums over a grid of nodes
    around its cavity's mean.
    """
    covariance = mode.covariance
    tau = mode.slopes.expected
    nu = tau * mode.values + mode.slopes.gradient
    alpha, root, factor, mean = mode.alpha, mode.root, mode.factor, mode.values
    for _ in range(MAX_SWEEPS):
        half = solve_triangular(factor, root[:, None] * covariance, lower=True, check_finite=False)
        variance = np.maximum(np.diag(covariance) - np.sum(half**2, axis=0), JITTER)
        cavity = np.maximum(1 / variance - tau, 1e-6)
        cavity_nu = mean / variance - nu
        matched_mean, matched_variance = _tilted(cavity_nu / cavity, 1 / np.sqrt(cavity), data, lapse)
        tau = (1 - DAMPING) * tau + DAMPING * np.maximum(1 / matched_variance - cavity, 1e-10)
        nu = (1 - DAMPING) * nu + DAMPING * (matched_mean / matched_variance - cavity_nu)
        root = np.sqrt(tau)
        factor = factor_of(covariance, root)
        alpha = nu - root * cho_solve((factor, True), root * (covariance @ nu), check_finite=False)
        before, mean = mean, covariance @ alpha
        if np.max(np.abs(mean - before)) < SWEEP_TOLERANCE:
            break
    return alpha, root, factor


def _tilted(mean: Array, std: Array, data: Outcomes, lapse: float) -> tuple[Array, Array]:
    """Mean and variance (n,) of each point's likelihood times a Gaussian."""
    places = mean[:, None] + std[:, None] * QUADRATURE
    p = lapse + (1 - 2 * lapse) * ndtr(places)
    log_weights = data.successes[:, None] * np.log(p) + (data.counts - data.successes)[:, None] * np.log1p(-p)
    log_weights -= 0.5 * QUADRATURE**2
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    matched = np.sum(weights * places, axis=1)
    return matched, np.maximum(np.sum(weights * (places - matched[:, None]) ** 2, axis=1), JITTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSetModel:
    """The Gaussian posterior of a latent function over the unit cube, which is 0 where P(works) crosses `level`.

    `lengths` (d,) are the length scales, `lapse` the probability that an outcome is mislabelled.
    """

    level: float
    lengths: Array
    amplitude: float
    lapse: float
    points: Array
    alpha: Array
    root: Array
    factor: Array

    def latent(self, points: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation at points (m, d), (m,) each; positive where P(works) exceeds the level."""
        mean, half = self._parts(np.asarray(points, dtype=float))
        variance = self.amplitude**2 * (1 + OFFSET) - np.sum(half**2, axis=0)
        return mean, np.sqrt(np.maximum(variance, JITTER))

    def joint(self, points: ArrayLike) -> tuple[Array, Array]:
        """Mean (m,) and covariance (m, m) at points (m, d)."""
        points = np.asarray(points, dtype=float)
        mean, half = self._parts(points)
        return mean, self._prior.covariance(points, points) - half.T @ half + JITTER * np.eye(len(points))

    def probability(self, points: ArrayLike) -> Array:
        """P(works) at points (m, d) without mislabelling, averaged over the posterior of the latent function; (m,)."""
        mean, std = self.latent(points)
        return np.asarray(ndtr((mean + ndtri(self.level)) / np.hypot(1.0, std)), dtype=float)

    def information(self, mean: Array, variance: Array) -> Array:
        """Expected information that an outcome gives about a latent value with that mean and variance; (m,) each.

        Its square root times the covariance with another point is the standard deviation of that point's new mean.
        """
        p, slope = self.outcome(mean, variance)
        return np.asarray(slope**2 / (p * (1 - p)), dtype=float)

    def outcome(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Probability p that an outcome is 1 where the latent has that mean and variance, and p's slope by the mean.

        An outcome of 1 changes the mean by the variance times slope / p, and 0 by the variance times -slope / (1 - p).
        """
        scale = np.sqrt(1.0 + variance)
        margin = (mean + ndtri(self.level)) / scale
        p = self.lapse + (1 - 2 * self.lapse) * ndtr(margin)
        slope = (1 - 2 * self.lapse) * np.exp(-0.5 * margin**2) / np.sqrt(2 * np.pi) / scale
        return p, slope

    @property
    def _prior(self) -> Prior:
        return Prior(self.lengths, self.amplitude)

    def _parts(self, points: Array) -> tuple[Array, Array]:
        between = self._prior.covariance(self.points, points)
        half = solve_triangular(self.factor, self.root[:, None] * between, lower=True, check_finite=False)
        return self.alpha @ between - float(ndtri(self.level)), half


@one_blas_thread
def fit(points: ArrayLike, successes: ArrayLike, counts: ArrayLike, level: float = 0.5) -> LevelSetModel:
    """Fit the model to `successes` (n,) among `counts` (n,) outcomes at points (n, d) of the unit cube.

    Successes may be fractions (a rate times its count). Equal arguments give equal models; equal points are pooled.
    Raises ValueError for other shapes, points outside of the cube and successes outside of [0, count].
    """
    points, data = _checked(points, successes, counts, level)
    prior, lapse = most_probable_prior(points, data)
    covariance = prior.covariance(points, points)
    mode = find_mode(covariance, data, lapse, np.zeros(len(points)))
    alpha, root, factor = _propagated(mode, data, lapse)
    return LevelSetModel(
        level=level,
        lengths=prior.lengths,
        amplitude=prior.amplitude,
        lapse=lapse,
        points=points,
        alpha=alpha,
        root=root,
        factor=factor,
    )


def _checked(points: ArrayLike, successes: ArrayLike, counts: ArrayLike, level: float) -> tuple[Array, Outcomes]:
    points = np.asarray(points, dtype=float)
    data = Outcomes(np.asarray(successes, dtype=float), np.asarray(counts, dtype=float))
    if points.ndim != 2 or len(points) == 0 or not data.successes.shape == data.counts.shape == (len(points),):
        shapes = points.shape, data.successes.shape, data.counts.shape
        raise ValueError(f"points (n, d), successes (n,) and counts (n,), n > 0, are required, got {shapes}")
    if not (np.all((points >= 0) & (points <= 1)) and 0 < level < 1):
        raise ValueError(f"points in the unit cube and 0 < level < 1 are required, got level {level:g}")
    if not np.all((data.successes >= 0) & (data.successes <= data.counts) & np.isfinite(data.counts)):
        raise ValueError("0 <= successes <= counts is required for each point")
    # One site for all outcomes at a point: the product of several sites would be matched worse.
    distinct, inverse = np.unique(points, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    sums = (np.bincount(inverse, weights).astype(float) for weights in (data.successes, data.counts))
    return distinct, Outcomes(*sums)
