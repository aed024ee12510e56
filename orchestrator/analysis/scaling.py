"""Fits the exponent of a scaling law lambda_max ~ c * x^k, with its uncertainty, to trials that work or do not.

P(works) = lapse + (1 - 2 lapse) * Phi((t + k * log10(x / x0) - log10(lambda)) / width): a psychometric function whose
threshold, log10(lambda) at P = 1/2, is a line in log10(x) (Treutwein & Strasburger 1999). Trials may have been placed
where earlier results suggested: the choice of the next point does not enter the likelihood. They must be independent
given x and lambda: one seed at several lambdas is less evidence than that many seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats  # type: ignore[import-untyped]

from orchestrator.errors import UserError
from trainables.config import Optimizer

Floats = NDArray[np.float64]

NUM_POINTS = 4096
MIN_EFFECTIVE = 400
"""Least number of effective points, of `NUM_POINTS`, in a fit, and after each temperature step if possible."""

_THRESHOLD_SPREAD = 1.5
"""Prior standard deviation of the threshold at x0, in decades added to half the range of the tried lambdas."""
_EXPONENT_SPREAD = 2.5
_LOG10_WIDTH = (-1.0, 0.5)
"""Prior mean and standard deviation of log10(width in decades): a tenth of a decade, within a factor of three."""
_LOGIT_LAPSE = (-3.8, 1.0)
"""Prior mean and standard deviation of logit(2 lapse), so that no lapse exceeds 1/2 and reverses the law: about one
trial in a hundred contradicts the law."""

_DEGREES = 5.0
_MAX_ROUNDS = 60
_REFINEMENTS = 2
_LEAST_STEP = 1.2
"""Least factor between temperatures: at one in between, a posterior can be a peak on a plain, which no t fits well."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A posterior median with its equal-tailed interval, as numbers or as arrays over x."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """The posterior of a scaling law as weighted points [point, (threshold at x0, k, log10 width, logit 2 lapse)].

    `num_effective` is Kish's effective number of points, `num_x` the number of different x among the trials.
    """

    points: Floats
    weights: Floats
    log10_x0: float
    num_x: int
    num_effective: float

    def exponent(self, confidence: float = 0.95) -> Estimate:
        """The exponent k; raises `UserError` if all trials have one x, which cannot determine it."""
        if self.num_x < 2:
            raise UserError("an exponent needs trials at two or more values of x, got one")
        return self._estimate(self.points[:, 1], confidence)

    def threshold(self, x: ArrayLike, confidence: float = 0.95) -> Estimate:
        """log10 of the lambda at which half of all trials work, at each x, with a pointwise band."""
        distance = np.log10(np.asarray(x, dtype=np.float64)) - self.log10_x0
        return self._estimate(self.points[:, 0] + distance[..., None] * self.points[:, 1], confidence)

    def width(self, confidence: float = 0.95) -> Estimate:
        """Standard deviation of the transition in decades of lambda."""
        return self._estimate(10 ** self.points[:, 2], confidence)

    def _estimate(self, values: Floats, confidence: float) -> Estimate:
        quantiles = (0.5, (1 - confidence) / 2, (1 + confidence) / 2)
        flat = values.reshape(-1, values.shape[-1])
        # only this method of numpy accepts weights
        read = [np.quantile(row, quantiles, weights=self.weights, method="inverted_cdf") for row in flat]
        return Estimate(*np.moveaxis(np.reshape(read, (*values.shape[:-1], 3)), -1, 0))


def theory_exponent(optimizer: Optimizer, q: int) -> int:
    """The paper's exponent of lambda_max against sigma_0: q - 2 where the decay is coupled (corollary 4.3), else 0.

    The bound of decoupled decay, O~(1), has no sigma_0 in it (theorems 4.4 and 4.5). Both are orders of magnitude.
    """
    return q - 2 if optimizer.is_coupled else 0


def fit_scaling(x: ArrayLike, decay: ArrayLike, works: ArrayLike) -> ScalingFit:
    """The posterior of a law with upper edge lambda_max(x), from trials at x and weight decay `decay` (both positive).

    For a lower edge (AdamW's smallest lambda) pass the negation of `works`. The fit is deterministic: annealed
    importance sampling (Neal 2001; temperatures by effective sample size, Del Moral et al. 2006) on quasi-random
    points. A multivariate t, fitted to each temperature's posterior, is the next one's proposal. The priors are proper,
    so results that a threshold separates without error need no special case. Raises `UserError` for no trials, unequal
    numbers of values, or values without a logarithm.
    """
    u, log_decay, is_working = _tried(x, decay, works)
    log10_x0 = float(u.mean())
    prior = _Prior.around(log_decay)
    points, log_weights = prior.points(), np.zeros(NUM_POINTS)  # log weights: prior over proposal, without the data
    temperature, refinements = 0.0, 0
    best = ScalingFit(
        points=points,
        weights=special.softmax(log_weights),
        log10_x0=log10_x0,
        num_x=len(np.unique(u)),
        num_effective=0.0,
    )
    for _ in range(_MAX_ROUNDS):
        log_likelihood = _log_likelihood(points, u - log10_x0, log_decay, is_working)
        temperature = _next_temperature(log_weights, log_likelihood, temperature)
        weights = special.softmax(log_weights + temperature * log_likelihood)
        refinements += temperature == 1
        if temperature == 1 and _effective(weights) > best.num_effective:
            best = replace(best, points=points, weights=weights, num_effective=_effective(weights))
        if refinements > _REFINEMENTS and best.num_effective >= MIN_EFFECTIVE:
            break
        points, log_proposal = _proposal(points, weights)
        log_weights = prior.log_density(points) - log_proposal
    return best


def fit_threshold(decay: ArrayLike, works: ArrayLike) -> ScalingFit:
    """`fit_scaling` for trials at one x, taken as x = 1: `threshold(1.0)` is log10(lambda_max) with its band."""
    return fit_scaling(np.ones(np.shape(decay)), decay, works)


def _tried(x: ArrayLike, decay: ArrayLike, works: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """log10(x), log10(decay) and works, as checked arrays."""
    x_n, decay_n, works_n = np.asarray(x, np.float64), np.asarray(decay, np.float64), np.asarray(works, np.bool_)
    if not x_n.shape == decay_n.shape == works_n.shape or x_n.ndim != 1 or not x_n.size:
        raise UserError("a fit needs one x, one weight decay and one result for each trial, and at least one trial")
    for name, values in (("x", x_n), ("weight decay", decay_n)):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise UserError(f"{name} must be positive and finite in every trial: the fit takes logarithms")
    return np.log10(x_n), np.log10(decay_n), works_n


@dataclass(frozen=True, slots=True)
class _Prior:
    """Independent normal priors of the four parameters."""

    mean: Floats
    spread: Floats

    @classmethod
    def around(cls, log_decay: Floats) -> _Prior:
        low, high = float(log_decay.min()), float(log_decay.max())
        threshold = ((low + high) / 2, _THRESHOLD_SPREAD + (high - low) / 2)
        columns = zip(threshold, (0.0, _EXPONENT_SPREAD), _LOG10_WIDTH, _LOGIT_LAPSE, strict=True)
        mean, spread = zip(*zip(*columns, strict=True), strict=True)
        return cls(np.array(mean), np.array(spread))

    def points(self) -> Floats:
        return np.asarray(self.mean + self.spread * _normal_points())

    def log_density(self, points: Floats) -> Floats:
        return np.asarray(-0.5 * (((points - self.mean) / self.spread) ** 2).sum(axis=1))


@cache
def _uniform_points() -> Floats:
    """Sobol points in the unit cube: the four parameters, and the scale of a multivariate t."""
    sobol = stats.qmc.Sobol(5, seed=0)
    return np.asarray(sobol.random(NUM_POINTS)).clip(1e-9, 1 - 1e-9)


@cache
def _normal_points() -> Floats:
    return np.asarray(special.ndtri(_uniform_points()[:, :4]))


@cache
def _t_points() -> tuple[Floats, Floats]:
    """Points of a standard multivariate t and their log densities, up to a constant."""
    scale = np.sqrt(stats.chi2.ppf(_uniform_points()[:, 4], _DEGREES) / _DEGREES)
    points = _normal_points() / scale[:, None]
    return points, -0.5 * (_DEGREES + 4) * np.log1p((points**2).sum(axis=1) / _DEGREES)


def _proposal(points: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Points of a multivariate t with the mean and covariance of weighted points, and their log densities."""
    mean = weights @ points
    covariance = (points - mean).T @ (weights[:, None] * (points - mean)) + 1e-8 * np.eye(points.shape[1])
    standard, log_density = _t_points()
    return mean + standard @ np.linalg.cholesky(covariance).T, log_density


def _log_likelihood(points: Floats, distance: Floats, log_decay: Floats, is_working: NDArray[np.bool_]) -> Floats:
    """Log likelihood of each point; `distance` is log10(x / x0) of each trial."""
    threshold, k, log_width, logit_lapse = points.T[:, :, None]
    sign = np.where(is_working, 1.0, -1.0)
    lapse = special.expit(logit_lapse) / 2
    z = sign * (threshold + k * distance - log_decay) / 10**log_width
    return np.asarray(np.log(lapse + (1 - 2 * lapse) * special.ndtr(z)).sum(axis=1))


def _effective(weights: Floats) -> float:
    return float(1 / (weights**2).sum())


def _next_temperature(log_weights: Floats, log_likelihood: Floats, temperature: float) -> float:
    """The highest temperature up to 1 that leaves enough effective points, but at least one step higher than before."""

    def is_enough(t: float) -> bool:
        return _effective(special.softmax(log_weights + t * log_likelihood)) >= MIN_EFFECTIVE

    low, high = min(1.0, _LEAST_STEP * temperature), 1.0
    if is_enough(high):
        return high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if is_enough(middle) else (low, middle)
    return low
