"""Optuna studies of draws that were made elsewhere: for optuna-dashboard, Optuna's own plots and samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import create_trial

from search_spaces.space import MixedSpace

Draw = tuple[Mapping[str, Any], float]
"""A point of the space, and whether the draw there worked: 1 or 0."""


def write_study(name: str, space: MixedSpace, draws: Sequence[Draw], storage: str) -> optuna.Study:
    """A study of that name with these draws as its complete trials, in the place of one that was there.

    Draws outside an axis are left out: Optuna knows values of its distributions only.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    distributions = {field: axis.distribution() for field, axis in space.items()}
    inside = [
        (params, value) for params, value in draws if all(a.nearest(params[f]) == params[f] for f, a in space.items())
    ]
    study.add_trials(
        [create_trial(params=dict(params), distributions=distributions, value=float(value)) for params, value in inside]
    )
    return study
