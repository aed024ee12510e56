"""Searches for an optimum: Optuna's TPE proposes points.

`propose` depends only on its arguments, so that a search can be replayed. No study is kept from one round to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from search_spaces.samplers.registry import Observation
from search_spaces.space import Space, round_significant

WORST = 1.0
"""The error reported for a point whose error means nothing (diverged, stuck, failed); no error rate is higher."""


def propose(space: Space, history: Sequence[Observation], num: int, seed: int) -> list[dict[str, float]]:
    """`num` points that TPE proposes after `history`; equal arguments give equal points.

    Points of a round are proposed together, and each takes the others into account (constant liar). Optuna's TPE ranks
    stopped points, as pruned trials, below complete ones, and higher the later they were stopped.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(axis.low, axis.high, log=True) for name, axis in space.items()
    }
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for seen in history:
        error = seen.error if math.isfinite(seen.error) else WORST
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if seen.is_complete else TrialState.PRUNED,
                value=error if seen.is_complete else None,
                params=seen.params,
                distributions=distributions,
                intermediate_values={seen.epoch: error},
            )
        )
    asked = [study.ask(distributions).params for _ in range(num)]
    return [{name: _within(space, name, float(value)) for name, value in params.items()} for params in asked]


def _within(space: Space, name: str, value: float) -> float:
    """The value, rounded and limited to the axis."""
    return min(max(round_significant(value), space[name].low), space[name].high)
