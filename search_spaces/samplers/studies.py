"""Writes Optuna studies of trials that were run elsewhere, for optuna-dashboard and Optuna's plots and samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import create_trial

from search_spaces.space import MixedSpace

Tried = tuple[Mapping[str, Any], float]
"""The parameters of a trial, and whether it worked: 1 or 0."""


def write_study(name: str, space: MixedSpace, trials: Sequence[Tried], storage: str) -> optuna.Study:
    """Write a study of that name, with `trials` as its complete trials; it replaces an existing study.

    Trials with values outside an axis are left out, since Optuna accepts only values in its distributions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    distributions = {field: axis.distribution() for field, axis in space.items()}
    inside = [
        (params, value) for params, value in trials if all(a.nearest(params[f]) == params[f] for f, a in space.items())
    ]
    study.add_trials(
        [create_trial(params=dict(params), distributions=distributions, value=float(value)) for params, value in inside]
    )
    return study
