"""Where a probability crosses a level: a Gaussian-process model of binary outcomes at points of the unit cube.

A latent function f with a squared-exponential prior gives P(works) = Phi(f); an outcome is then flipped with
probability `lapse`, so that a mislabelled draw bends no boundary. Length scales, amplitude and lapse maximize Laplace's
evidence, with the expected (Fisher) information that stays positive where a lapse makes the likelihood not concave
[Hartmann and Vanhatalo 2019], times log-normal priors, within bounds: without the priors the length scales collapse on
disjoint regions and the amplitude grows without end on outcomes that can be separated. The posterior is expectation
propagation's [Minka 2001]: where outcomes are certain Laplace's has a mode near the boundary's level and a deviation as
wide as the prior's, and would call every certain place unknown.

Shapes: n points of d dimensions seen, m points asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve, solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

Array = NDArray[np.float64]

OFFSET = 0.5
"""Prior variance of the latent function's mean, relative to that of its variations."""
PRIOR_LENGTH, PRIOR_AMPLITUDE, PRIOR_LAPSE = 0.4, 5.0, 0.01
PRIOR_SPREAD = np.array([0.5, 0.5, 1.0])
"""Standard deviations of the logarithms of length scale, amplitude and lapse."""
BOUNDS = np.log([[0.1, 5.0], [0.5, 20.0], [1e-3, 0.25]])
MAX_POINTS_FOR_SEARCH = 256
"""Length scales, amplitude and lapse are found on so many points at most: they need few, and the cost is cubic."""
SEARCH_OPTIONS = {"maxiter": 30, "ftol": 1e-5}
MAX_NEWTON_STEPS = 50
MAX_SWEEPS, DAMPING, SWEEP_TOLERANCE = 30, 0.7, 1e-3
QUADRATURE = np.linspace(-6.0, 6.0, 97)
"""Places, in the cavity's standard deviations, at which a site's moments are summed."""
JITTER = 1e-8


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Successes among counts, each (n,)."""

    successes: Array
    counts: Array

    def log_likelihood(self, f: Array, lapse: float) -> float:
        p = lapse + (1 - 2 * lapse) * ndtr(f)
        return float(np.sum(self.successes * np.log(p) + (self.counts - self.successes) * np.log1p(-p)))


@dataclass(frozen=True, slots=True)
class _Slopes:
    """Derivatives of each point's log-likelihood at f, (n,) each; by the latent value unless named by the lapse."""

    gradient: Array
    observed: Array  # minus the second derivative
    expected: Array  # its expectation over outcomes, always positive
    expected_slope: Array
    value_by_lapse: Array
    gradient_by_lapse: Array
    expected_by_lapse: Array

    @classmethod
    def at(cls, f: Array, lapse: float, data: _Outcomes) -> _Slopes:
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
class _Prior:
    """The latent function's covariance at seen points: length scales (d,) and amplitude."""

    lengths: Array
    amplitude: float

    def covariance(self, a: Array, b: Array) -> Array:
        """Between points (n, d) and (m, d): (n, m)."""
        return self.amplitude**2 * (OFFSET + self._bell(a, b))

    def slopes(self, points: Array, weights: Array) -> Array:
        """Sum of `weights` (n, n) times the covariance's derivative by the logarithm of each length and amplitude."""
        weighted = self.amplitude**2 * weights * self._bell(points, points)
        symmetric, scaled = weighted + weighted.T, points / self.lengths
        by_length = symmetric.sum(axis=1) @ scaled**2 - np.sum(scaled * (symmetric @ scaled), axis=0)
        return np.append(by_length, 2 * (np.sum(weighted) + OFFSET * self.amplitude**2 * np.sum(weights)))

    def _bell(self, a: Array, b: Array) -> Array:
        return np.asarray(np.exp(-0.5 * cdist(a / self.lengths, b / self.lengths, "sqeuclidean")), dtype=float)


@dataclass(frozen=True, slots=True)
class _Mode:
    """The latent function's most probable values at the seen points, and the Gaussian around them.

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


def _find_mode(covariance: Array, data: _Outcomes, lapse: float, alpha: Array) -> _Mode:
    """Newton's method from `alpha`, with steps halved until they climb [Rasmussen and Williams 2006, alg. 3.1]."""
    values = covariance @ alpha
    reached = data.log_likelihood(values, lapse) - 0.5 * alpha @ values
    for _ in range(MAX_NEWTON_STEPS):
        slopes = _Slopes.at(values, lapse, data)
        curvature = np.where(slopes.observed > 0.1 * slopes.expected, slopes.observed, slopes.expected)
        root = np.sqrt(curvature)
        target = curvature * values + slopes.gradient
        factor = _factor(covariance, root)
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
    factor = _factor(covariance, root)
    log_evidence = float(max(reached, climbed) - np.sum(np.log(np.diag(factor))))
    return _Mode(covariance, alpha, values, slopes, root, factor, log_evidence)


def _factor(covariance: Array, root: Array) -> Array:
    inner = np.eye(len(root)) + root[:, None] * covariance * root
    return np.asarray(cholesky(inner, lower=True, check_finite=False), dtype=float)


def _propagated(mode: _Mode, data: _Outcomes, lapse: float) -> tuple[Array, Array, Array]:
    """`alpha`, `root`, `factor` of the Gaussian that matches every point's moments [Rasmussen and Williams 2006, 3.6].

    All points are updated at once, damped, from Laplace's sites; a site's moments are sums over a grid of its cavity.
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
        factor = _factor(covariance, root)
        alpha = nu - root * cho_solve((factor, True), root * (covariance @ nu), check_finite=False)
        before, mean = mean, covariance @ alpha
        if np.max(np.abs(mean - before)) < SWEEP_TOLERANCE:
            break
    return alpha, root, factor


def _tilted(mean: Array, std: Array, data: _Outcomes, lapse: float) -> tuple[Array, Array]:
    """Mean and variance (n,) of each point's likelihood times a Gaussian."""
    places = mean[:, None] + std[:, None] * QUADRATURE
    p = lapse + (1 - 2 * lapse) * ndtr(places)
    log_weights = data.successes[:, None] * np.log(p) + (data.counts - data.successes)[:, None] * np.log1p(-p)
    log_weights -= 0.5 * QUADRATURE**2
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    matched = np.sum(weights * places, axis=1)
    return matched, np.maximum(np.sum(weights * (places - matched[:, None]) ** 2, axis=1), JITTER)


def _evidence_slopes(mode: _Mode, prior: _Prior, points: Array, lapse: float) -> Array:
    """Derivatives of the log evidence by log lengths, log amplitude and log lapse; (d + 2,).

    The mode moves with them, and the information there with the mode [Rasmussen and Williams 2006, equation 5.23].
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


@dataclass(frozen=True, slots=True)
class LevelSetModel:
    """A latent function over the unit cube, Gaussian after the outcomes; it is 0 where P(works) crosses `level`.

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
        """P(works) at points (m, d), without mislabelling, averaged over what is not known of the latent; (m,)."""
        mean, std = self.latent(points)
        return np.asarray(ndtr((mean + ndtri(self.level)) / np.hypot(1.0, std)), dtype=float)

    def information(self, mean: Array, variance: Array) -> Array:
        """Expected information of one outcome on the mean of a latent with that mean and variance; (m,) each.

        Its root times the covariance with another point is the standard deviation of that point's new mean.
        """
        scale = np.sqrt(1.0 + variance)
        margin = (mean + ndtri(self.level)) / scale
        p = self.lapse + (1 - 2 * self.lapse) * ndtr(margin)
        slope = (1 - 2 * self.lapse) * np.exp(-0.5 * margin**2) / np.sqrt(2 * np.pi) / scale
        return np.asarray(slope**2 / (p * (1 - p)), dtype=float)

    def samples(self, points: ArrayLike, num: int, seed: int) -> Array:
        """`num` joint draws of the latent at points (m, d), for bands around boundary curves; (num, m)."""
        mean, covariance = self.joint(points)
        draws = np.random.default_rng(seed).multivariate_normal(mean, covariance, num, method="eigh")
        return np.asarray(draws, dtype=float)

    @property
    def _prior(self) -> _Prior:
        return _Prior(self.lengths, self.amplitude)

    def _parts(self, points: Array) -> tuple[Array, Array]:
        between = self._prior.covariance(self.points, points)
        half = solve_triangular(self.factor, self.root[:, None] * between, lower=True, check_finite=False)
        return self.alpha @ between - float(ndtri(self.level)), half


def fit(points: ArrayLike, successes: ArrayLike, counts: ArrayLike, level: float = 0.5) -> LevelSetModel:
    """The model of `successes` (n,) among `counts` (n,) draws at points (n, d) of the unit cube.

    Successes may be fractions (a rate times its count). Equal arguments give equal models; equal points are pooled.
    Raises ValueError for shapes or numbers that are none of this.
    """
    points, data = _checked(points, successes, counts, level)
    every = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS_FOR_SEARCH).astype(int))
    theta = _search(points[every], _Outcomes(data.successes[every], data.counts[every]))
    prior, lapse = _unpacked(theta)
    covariance = prior.covariance(points, points)
    mode = _find_mode(covariance, data, lapse, np.zeros(len(points)))
    return LevelSetModel(level, prior.lengths, prior.amplitude, lapse, points, *_propagated(mode, data, lapse))


def _checked(points: ArrayLike, successes: ArrayLike, counts: ArrayLike, level: float) -> tuple[Array, _Outcomes]:
    points = np.asarray(points, dtype=float)
    data = _Outcomes(np.asarray(successes, dtype=float), np.asarray(counts, dtype=float))
    if points.ndim != 2 or len(points) == 0 or not data.successes.shape == data.counts.shape == (len(points),):
        shapes = points.shape, data.successes.shape, data.counts.shape
        raise ValueError(f"points (n, d), successes (n,) and counts (n,), n > 0, are required, got {shapes}")
    if not (np.all((points >= 0) & (points <= 1)) and 0 < level < 1):
        raise ValueError(f"points in the unit cube and 0 < level < 1 are required, got level {level:g}")
    if not np.all((data.successes >= 0) & (data.successes <= data.counts) & np.isfinite(data.counts)):
        raise ValueError("0 <= successes <= counts is required of each point")
    # One site for all draws of a point: a product of several would be matched worse.
    distinct, inverse = np.unique(points, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    sums = (np.bincount(inverse, weights).astype(float) for weights in (data.successes, data.counts))
    return distinct, _Outcomes(*sums)


def _search(points: Array, data: _Outcomes) -> Array:
    """Most probable logarithms of lengths, amplitude and lapse, (d + 2,): a climb from the prior's middle."""
    dimension = points.shape[1]
    spread = np.concatenate([np.full(dimension, PRIOR_SPREAD[0]), PRIOR_SPREAD[1:]])
    middle = np.log([*[PRIOR_LENGTH] * dimension, PRIOR_AMPLITUDE, PRIOR_LAPSE])
    bounds = np.concatenate([np.repeat(BOUNDS[:1], dimension, axis=0), BOUNDS[1:]])
    alpha = np.zeros(len(points))

    def loss(theta: Array) -> tuple[float, Array]:
        nonlocal alpha
        prior, lapse = _unpacked(theta)
        mode = _find_mode(prior.covariance(points, points), data, lapse, alpha)
        alpha = mode.alpha
        slopes = _evidence_slopes(mode, prior, points, lapse)
        away = (theta - middle) / spread
        return 0.5 * float(away @ away) - mode.log_evidence, away / spread - slopes

    found = minimize(loss, middle, jac=True, method="L-BFGS-B", bounds=bounds, options=SEARCH_OPTIONS)
    return np.asarray(found.x, dtype=float)


def _unpacked(theta: Array) -> tuple[_Prior, float]:
    *lengths, amplitude, lapse = np.exp(theta)
    return _Prior(np.array(lengths), float(amplitude)), float(lapse)
