"""Finds hyperparameters from binary outcomes: length scales and amplitude of the latent function's prior, and lapse.

They maximize Laplace's evidence times log-normal priors, within bounds. The evidence uses the expected (Fisher)
information, which stays positive even though a lapse makes the likelihood not log-concave [Hartmann and Vanhatalo
2019]. Without the priors, length scales would collapse on disjoint regions, and the amplitude would grow without end on
outcomes that can be separated.

Shapes: n points of d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve, solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]

Array = NDArray[np.float64]

OFFSET = 0.5
"""Prior variance of the latent function's constant offset, relative to that of its variations."""
PRIOR_LENGTH, PRIOR_AMPLITUDE, PRIOR_LAPSE = 0.4, 5.0, 0.01
PRIOR_SPREAD = np.array([0.5, 0.5, 1.0])
"""Standard deviations of the logarithms of length scale, amplitude and lapse."""
BOUNDS = np.log([[0.1, 5.0], [0.5, 20.0], [1e-3, 0.25]])
MAX_POINTS_FOR_SEARCH = 256
"""Most points used to find length scales, amplitude and lapse: few points suffice, and the cost is cubic."""
SEARCH_OPTIONS = {"maxiter": 30, "ftol": 1e-5}
MAX_NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Successes among counts at each point, (n,) each."""

    successes: Array
    counts: Array

    def log_likelihood(self, f: Array, lapse: float) -> float:
        """Log-likelihood of latent values (n,), if each outcome is flipped with probability `lapse`."""
        p = lapse + (1 - 2 * lapse) * ndtr(f)
        return float(np.sum(self.successes * np.log(p) + (self.counts - self.successes) * np.log1p(-p)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slopes:
    """Derivatives of each point's log-likelihood at f, (n,) each; by the latent value, or as named by the lapse."""

    gradient: Array
    observed: Array  # minus the second derivative
    expected: Array  # its expectation over outcomes, always positive
    expected_slope: Array
    value_by_lapse: Array
    gradient_by_lapse: Array
    expected_by_lapse: Array

    @classmethod
    def at(cls, f: Array, lapse: float, data: Outcomes) -> _Slopes:
        density = np.exp(-0.5 * f**2) / np.sqrt(2 * np.pi)
        below, above = ndtr(f), ndtr(-f)
        p, q = lapse + (1 - 2 * lapse) * below, lapse + (1 - 2 * lapse) * above
        slope, bend = (1 - 2 * lapse) * density, -f * (1 - 2 * lapse) * density
        by_lapse, slope_by_lapse = above - below, -2 * density
        residual = data.successes / p - (data.counts - data.successes) / q
        residual_slope = -data.successes / p**2 - (data.counts - data.successes) / q**2
        weight = data.counts / (p * q)
        tilt = weight * (q - p) / (p * q)
        return cls(
            gradient=slope * residual,
            observed=-bend * residual - slope**2 * residual_slope,
            expected=weight * slope**2,
            expected_slope=2 * weight * slope * bend - tilt * slope**3,
            value_by_lapse=by_lapse * residual,
            gradient_by_lapse=slope_by_lapse * residual + slope * by_lapse * residual_slope,
            expected_by_lapse=2 * weight * slope * slope_by_lapse - tilt * slope**2 * by_lapse,
        )


@dataclass(frozen=True, slots=True)
class Prior:
    """The prior of the latent function: the length scales (d,) and amplitude of its covariance."""

    lengths: Array
    amplitude: float

    def covariance(self, a: Array, b: Array) -> Array:
        """Covariance between points (n, d) and (m, d); (n, m)."""
        return self.amplitude**2 * (OFFSET + self._bell(a, b))

    def slopes(self, points: Array, weights: Array) -> Array:
        """Sum of `weights` (n, n) times the covariance's derivative by the logarithm of each length and amplitude."""
        weighted = self.amplitude**2 * weights * self._bell(points, points)
        symmetric, scaled = weighted + weighted.T, points / self.lengths
        by_length = symmetric.sum(axis=1) @ scaled**2 - np.sum(scaled * (symmetric @ scaled), axis=0)
        return np.append(by_length, 2 * (np.sum(weighted) + OFFSET * self.amplitude**2 * np.sum(weights)))

    def _bell(self, a: Array, b: Array) -> Array:
        return np.asarray(np.exp(-0.5 * cdist(a / self.lengths, b / self.lengths, "sqeuclidean")), dtype=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """The latent function's most probable values at the observed points, and the Gaussian around them.

    `alpha` (n,) is the prior precision times the values; `root` (n,) the square root of the expected information, and
    `factor` (n, n) the lower Cholesky factor of 1 + root K root.
    """

    covariance: Array
    alpha: Array
    values: Array
    slopes: _Slopes
    root: Array
    factor: Array
    log_evidence: float


def find_mode(covariance: Array, data: Outcomes, lapse: float, alpha: Array) -> Mode:
    """Newton's method from `alpha`, with each step halved until it improves [Rasmussen and Williams 2006, alg. 3.1]."""
    values = covariance @ alpha
    reached = data.log_likelihood(values, lapse) - 0.5 * alpha @ values
    for _ in range(MAX_NEWTON_STEPS):
        slopes = _Slopes.at(values, lapse, data)
        curvature = np.where(slopes.observed > 0.1 * slopes.expected, slopes.observed, slopes.expected)
        root = np.sqrt(curvature)
        target = curvature * values + slopes.gradient
        factor = factor_of(covariance, root)
        step = target - root * cho_solve((factor, True), root * (covariance @ target)) - alpha
        climbed, size = reached, 1.0
        while size > 1e-3:
            tried = alpha + size * step
            tried_values = covariance @ tried
            climbed = data.log_likelihood(tried_values, lapse) - 0.5 * tried @ tried_values
            if climbed > reached:
                alpha, values = tried, tried_values
                break
            size /= 2
        if climbed - reached < 1e-8:
            break
        reached = climbed
    slopes = _Slopes.at(values, lapse, data)
    root = np.sqrt(slopes.expected)
    factor = factor_of(covariance, root)
    log_evidence = float(max(reached, climbed) - np.sum(np.log(np.diag(factor))))
    return Mode(
        covariance=covariance,
        alpha=alpha,
        values=values,
        slopes=slopes,
        root=root,
        factor=factor,
        log_evidence=log_evidence,
    )


def factor_of(covariance: Array, root: Array) -> Array:
    """Lower Cholesky factor (n, n) of 1 + root K root."""
    inner = np.eye(len(root)) + root[:, None] * covariance * root
    return np.asarray(cholesky(inner, lower=True, check_finite=False), dtype=float)


def _evidence_slopes(mode: Mode, prior: Prior, points: Array, lapse: float) -> Array:
    """Derivatives of the log evidence by log lengths, log amplitude and log lapse; (d + 2,).

    The mode depends on them, and the information on the mode [Rasmussen and Williams 2006, equation 5.23].
    """
    half = solve_triangular(mode.factor, mode.root[:, None] * mode.covariance, lower=True, check_finite=False)
    spread = np.diag(mode.covariance) - np.sum(half**2, axis=0)
    precision = mode.root[:, None] * cho_solve((mode.factor, True), np.diag(mode.root), check_finite=False)
    moved = np.eye(len(spread)) + mode.slopes.observed[:, None] * mode.covariance
    pull = solve(moved, -0.5 * spread * mode.slopes.expected_slope, check_finite=False)
    weights = 0.5 * (np.outer(mode.alpha, mode.alpha) - precision) + np.outer(pull, mode.alpha)
    by_lapse = np.sum(mode.slopes.value_by_lapse - 0.5 * spread * mode.slopes.expected_by_lapse)
    by_lapse += pull @ (mode.covariance @ mode.slopes.gradient_by_lapse)
    return np.append(prior.slopes(points, weights), lapse * by_lapse)


def most_probable_prior(points: Array, data: Outcomes) -> tuple[Prior, float]:
    """The most probable prior and lapse, by an ascent from the medians of their own priors."""
    every = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS_FOR_SEARCH).astype(int))
    points, data = points[every], Outcomes(data.successes[every], data.counts[every])
    dimension = points.shape[1]
    spread = np.concatenate([np.full(dimension, PRIOR_SPREAD[0]), PRIOR_SPREAD[1:]])
    middle = np.log([*[PRIOR_LENGTH] * dimension, PRIOR_AMPLITUDE, PRIOR_LAPSE])
    bounds = np.concatenate([np.repeat(BOUNDS[:1], dimension, axis=0), BOUNDS[1:]])
    alpha = np.zeros(len(points))

    def loss(theta: Array) -> tuple[float, Array]:
        nonlocal alpha
        prior, lapse = _unpacked(theta)
        mode = find_mode(prior.covariance(points, points), data, lapse, alpha)
        alpha = mode.alpha
        slopes = _evidence_slopes(mode, prior, points, lapse)
        away = (theta - middle) / spread
        return 0.5 * float(away @ away) - mode.log_evidence, away / spread - slopes

    found = minimize(loss, middle, jac=True, method="L-BFGS-B", bounds=bounds, options=SEARCH_OPTIONS)
    return _unpacked(found.x)


def _unpacked(theta: Array) -> tuple[Prior, float]:
    *lengths, amplitude, lapse = np.exp(theta)
    return Prior(np.array(lengths), float(amplitude)), float(lapse)
