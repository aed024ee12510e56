"""Searches for one or several boundaries: where in a space outcomes change from "works" to "does not work".

Nothing is optimized. After a quasi-random design, each proposed point is the one whose outcome is expected to leave the
least volume on the wrong side of the boundaries (stepwise uncertainty reduction), as `level_set` models them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr, owens_t  # type: ignore[import-untyped]
from scipy.stats import qmc  # type: ignore[import-untyped]

from search_spaces.level_set.blas_threads import one_blas_thread
from search_spaces.level_set.model import LevelSetModel, fit
from search_spaces.space import round_significant

Array = NDArray[np.float64]
Space = Mapping[str, BaseDistribution]
Params = dict[str, Any]
Outcomes = Sequence[float | None]
"""The outcome for each boundary: 1 works, 0 does not, a number between them is a rate, None is unknown."""

STARTUP_PER_DIMENSION = 8
EXPLORE_EVERY = 4
"""One in this many points continues the quasi-random design, to find regions that the design has missed so far."""
GRID_BITS = 10
NUM_GRID = 2**GRID_BITS
"""Number of quasi-random points, new in each call, over which the expected errors are summed."""
NUM_CANDIDATES = 128
"""Number of grid points, the most likely ones on the wrong side, from which a proposed point is chosen."""


@one_blas_thread
def propose_boundary(
    space: Space,
    history: Sequence[tuple[Mapping[str, Any], Outcomes]],
    pending: Sequence[Mapping[str, Any]],
    num: int,
    seed: int,
    number: int | None = None,
    level: float = 0.5,
) -> list[Params]:
    """`num` points to try next, after `history` and while `pending` run; equal arguments give equal points.

    `number` is the index of the first proposed point in the whole search; it distinguishes rounds with the same `seed`.
    Its default is the number of points in `history` and `pending`. Raises ValueError for an outcome outside of [0, 1].
    """
    for params, outcomes in history:
        for outcome in outcomes:
            if outcome is not None and not 0 <= outcome <= 1:
                raise ValueError(f"an outcome is 0, 1 or a rate between them, got {outcome} for {dict(params)}")
    first = len(history) + len(pending) if number is None else number
    num_startup = STARTUP_PER_DIMENSION * len(space)
    is_blind = not any(outcome is not None for _, outcomes in history for outcome in outcomes)
    num_design = num if is_blind else min(max(num_startup - first, 0), num)
    design = qmc.Sobol(len(space), rng=np.random.default_rng(seed)).random_base2((first + num).bit_length())
    asked = [_decode(space, row) for row in design[first : first + num_design]]
    later = range(first + num_design, first + num)
    tried = [*(params for params, _ in history), *pending, *asked]
    for _ in range(sum(one % EXPLORE_EVERY == 0 for one in later)):
        unseen = (point for point in map(partial(_decode, space), design[num_startup:]) if point not in tried)
        asked.append(next(unseen, _decode(space, design[-1])))
        tried.append(asked[-1])
    if num_informed := num - len(asked):
        rng = np.random.default_rng([seed, first])
        asked += _informative(space, history, [*pending, *asked], num=num_informed, rng=rng, level=level)
    return asked


def _informative(
    space: Space,
    history: Sequence[tuple[Mapping[str, Any], Outcomes]],
    pending: Sequence[Mapping[str, Any]],
    num: int,
    rng: np.random.Generator,
    level: float,
) -> list[Params]:
    """`num` points, one after the other; each takes into account the earlier ones and an outcome imagined for them.

    Imagined outcomes move the boundary about as far as it is uncertain, which spreads the points of a batch. Without
    them, all points would be placed on the present boundary.
    """
    fresh = [_decode(space, row) for row in qmc.Sobol(len(space), rng=rng).random_base2(GRID_BITS)]
    tried, successes, counts = pool(space, history)
    grid = np.array([encode(space, params) for params in fresh])
    running = np.array([encode(space, params) for params in pending]).reshape(-1, grid.shape[1])
    points = np.concatenate([grid, running])
    fields = []
    for column in np.flatnonzero(counts.any(axis=0)):
        known = counts[:, column] > 0
        fields.append(_Field(fit(tried[known], successes[known, column], counts[known, column], level), points))
    for field in fields:
        for at in range(len(grid), len(points)):
            field.imagine(at, rng)
    chosen = []
    for _ in range(num):
        at = _least_errors(fields)
        chosen.append(fresh[at])
        for field in fields:
            field.imagine(at, rng)
    return chosen


def _least_errors(fields: Sequence[_Field]) -> int:
    risk = sum(field.errors()[:NUM_GRID] for field in fields)
    candidates = np.argsort(-risk, kind="stable")[:NUM_CANDIDATES]
    left = sum(field.expected_errors(candidates) for field in fields)
    return int(candidates[np.argmin(left)])


class _Field:
    """Mean (m,) and covariance (m, m) of one boundary's latent function at the grid points and the pending points."""

    def __init__(self, model: LevelSetModel, points: Array) -> None:
        self.model = model
        self.mean, self.covariance = model.joint(points)

    def errors(self) -> Array:
        """Probability for each point that the model puts it on the wrong side; (m,)."""
        return np.asarray(ndtr(-np.abs(self.mean) / np.sqrt(np.diag(self.covariance))), dtype=float)

    def expected_errors(self, candidates: NDArray[np.intp]) -> Array:
        """For each of the candidates (k,), the sum of `errors` over the grid expected after an outcome there; (k,).

        The latent value (mean m, deviation s) and its new mean (deviation t) are jointly Gaussian. They differ in sign
        with probability 2 T(m / s, sqrt(s^2 - t^2) / t), where T is Owen's function.
        """
        variance = np.diag(self.covariance)[:NUM_GRID]
        columns = self.covariance[candidates, :NUM_GRID]
        explained = self._information(candidates)[:, None] * columns**2
        odds = np.sqrt(np.maximum(variance - explained, 0.0) / np.maximum(explained, 1e-300))
        return np.asarray(2 * owens_t(self.mean[:NUM_GRID] / np.sqrt(variance), odds).sum(axis=1), dtype=float)

    def imagine(self, at: int, rng: np.random.Generator) -> None:
        """Update mean and covariance by an outcome at that point, sampled from the model's prediction."""
        column = self.covariance[at].copy()
        here = np.array([at])
        works, slope = self.model.outcome(self.mean[here], np.diag(self.covariance)[here])
        pull = slope / works if rng.random() < works else -slope / (1 - works)
        self.mean = self.mean + pull[0] * column
        self.covariance -= self._information(here)[0] * np.outer(column, column)

    def _information(self, at: NDArray[np.intp]) -> Array:
        return self.model.information(self.mean[at], np.diag(self.covariance)[at])


def pool(space: Space, history: Sequence[tuple[Mapping[str, Any], Outcomes]]) -> tuple[Array, Array, Array]:
    """Distinct points (n, d), and the successes and counts for each boundary there, (n, k) each."""
    rows: dict[tuple[float, ...], Array] = {}
    num = max((len(outcomes) for _, outcomes in history), default=0)
    for params, outcomes in history:
        row = rows.setdefault(tuple(encode(space, params)), np.zeros((2, num)))
        for k, outcome in enumerate(outcomes):
            if outcome is not None:
                row[:, k] += outcome, 1.0
    sums = np.array(list(rows.values())).reshape(-1, 2, num)
    return np.array(list(rows)).reshape(len(rows), -1), sums[:, 0], sums[:, 1]


def encode(space: Space, params: Mapping[str, Any]) -> list[float]:
    """Coordinates in the unit cube: one for a number, and one for each choice of a categorical parameter."""
    coordinates: list[float] = []
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            index = int(distribution.to_internal_repr(params[name]))
            coordinates += [float(k == index) for k in range(len(distribution.choices))]
        else:
            low, high = _edges(distribution)
            at = (_scaled(distribution, params[name]) - low) / (high - low) if high > low else 0.5
            coordinates.append(min(max(at, 0.0), 1.0))
    return coordinates


def _decode(space: Space, row: Array) -> Params:
    """The parameters at a point (d,) of the unit cube with one coordinate for each parameter."""
    return {name: _value(distribution, float(at)) for (name, distribution), at in zip(space.items(), row, strict=True)}


def _value(distribution: BaseDistribution, at: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(at * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _edges(distribution)
    value = low + at * (high - low)
    value = math.exp(value) if distribution.log else value
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    elif distribution.log:
        value = round_significant(value)
    return type(distribution.low)(min(max(value, distribution.low), distribution.high))


def _edges(distribution: BaseDistribution) -> tuple[float, float]:
    """Ends of the axis on its scale; half a step wider if it has steps, so that each value has an equal share."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    half = (distribution.step or 0) / 2 if distribution.low < distribution.high else 0.0
    return _scaled(distribution, distribution.low - half), _scaled(distribution, distribution.high + half)


def _scaled(distribution: BaseDistribution, value: float) -> float:
    return math.log(value) if getattr(distribution, "log", False) else float(value)


class BoundarySampler(BaseSampler):
    """An Optuna sampler that proposes trials where they tell most about the boundary between works and does not work.

    The study's values are outcomes: 1 works, 0 does not, a number between them is a rate. A study with several values
    has one boundary for each. Parameters are random until a trial is complete and shows which parameters exist. Then
    trials follow a quasi-random design, and later a Gaussian-process model of all boundaries. The sampler pools trials
    with equal parameters, takes running trials into account, and ignores failed and pruned ones. A parameter that some
    complete trial lacks is always random.

    Args:
        seed: Equal seeds give equal parameters if trials are asked and told in the same order. None is a random seed.
        level: The share of trials on the boundary that work, between 0 and 1.

    Raises:
        ValueError: A value of the study is below 0 or above 1. The next `ask` raises it.

    Example:
        >>> import optuna
        >>> from search_spaces import BoundarySampler
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def works(trial: optuna.Trial) -> float:
        ...     return float(trial.suggest_float("weight_decay", 1e-6, 1e2, log=True) < 1e-2)
        >>> study = optuna.create_study(sampler=BoundarySampler(seed=0))
        >>> study.optimize(works, n_trials=16)
        >>> decays = sorted(trial.params["weight_decay"] for trial in study.trials)
        >>> min(decay for decay in decays if decay >= 1e-2) / max(decay for decay in decays if decay < 1e-2) < 10
        True
    """

    def __init__(self, seed: int | None = None, level: float = 0.5) -> None:
        self._seed = int(np.random.SeedSequence().entropy) % 2**32 if seed is None else seed  # type: ignore[arg-type]
        self._level = level

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all complete trials share, without those that can take only one value."""
        space = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """The point that `propose_boundary` proposes after the study's complete and running trials."""
        if not search_space:
            return {}
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        history = [(t.params, t.values) for t in trials if t.state == TrialState.COMPLETE]
        running = [t.params for t in trials if t.state == TrialState.RUNNING and search_space.keys() <= t.params.keys()]
        return propose_boundary(
            search_space, history, running, num=1, seed=self._seed, number=trial.number, level=self._level
        )[0]

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """A random value, uniform on the axis."""
        rng = np.random.default_rng([self._seed, trial.number, crc32(name.encode())])
        return _value(distribution, float(rng.random()))
