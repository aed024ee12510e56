"""Summarizes trials by cell, and finds the columns that identify cells.

Everywhere `trials` has one row for each trial, with the columns of `TrialResult.trial_row`. A trial's error rate counts
only if it means something. Trials that are stuck (weights near zero, so the sign of the output is arbitrary), diverged
(weights are not finite) or not finished are counted by their outcome, and left out of every mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

from trainables.config import MOMENT_FIELDS, Follows
from trainables.registry import workload
from trainables.result import Outcome

MEASURED = (Outcome.LEARNED, Outcome.MEMORIZED, Outcome.UNDERFIT)
"""Outcomes whose error rates mean something."""

CONFIDENCE = 0.95

_SPREAD = ("mean", "std", "min", "max")

CELL_STATISTICS = (
    *("num_trials", "n"),
    *(f"{error}_{name}" for error in ("test_error", "train_error") for name in _SPREAD),
    *("test_error_low", "test_error_high"),
    *(str(outcome) for outcome in Outcome),
)
"""The columns of `cell_summary` besides its keys."""


FIRST_KEYS = ("optimizer", "weight_decay", "batch_size")


def is_measured(trials: pd.DataFrame) -> pd.Series[bool]:
    """Whether each trial's test error means something: learned, memorized or underfit, and finite."""
    return trials["outcome"].isin(MEASURED) & np.isfinite(trials["test_error"].astype(float))


def trivial_losses(trials: pd.DataFrame) -> pd.Series[float]:
    """Each trial's training loss if all outputs were equal."""
    classes = trials["workload"].map({name: workload(name).num_classes for name in trials["workload"].unique()})
    if "num_classes" in trials:
        classes = trials["num_classes"].fillna(classes)
    return pd.Series(np.log(classes.astype(float)), index=trials.index, dtype=float)


def config_columns(trials: pd.DataFrame) -> list[str]:
    """The config columns except the seed, in a table's order: optimizer, weight decay and batch size first."""
    fields = {name: None for w in trials["workload"].unique() for name in workload(w).config_type.model_fields}
    names = dict.fromkeys((*FIRST_KEYS, "workload_version", *fields))
    return [name for name in names if name in trials and name != "seed"]


def varying_columns(trials: pd.DataFrame, within: Sequence[str] = ()) -> list[str]:
    """The config columns, except the seed, with several values among trials that are equal in the columns `within`.

    A column that follows from others (`Follows`) is included only if it also varies where those are equal.
    """
    follows = _follows(trials)

    def varies(column: str) -> bool:
        # Null in these means "this optimizer does not read it", which does not count as a value.
        rows = trials.dropna(subset=[column]) if column in MOMENT_FIELDS else trials
        known = list(dict.fromkeys((*within, *follows.get(column, ()))))
        values = rows[[*known, column]].drop_duplicates()
        return len(values) > len(values[known].drop_duplicates()) if known else len(values) > 1

    return [column for column in config_columns(trials) if column not in within and varies(column)]


def cell_columns(trials: pd.DataFrame) -> list[str]:
    """The columns that identify cells: optimizer, weight decay, batch size, and all that vary except the seed."""
    varying = varying_columns(trials)
    return [name for name in config_columns(trials) if name in FIRST_KEYS or name in varying]


def _follows(trials: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The config columns that follow from others, with those others."""
    return {
        name: mark.fields
        for w in trials["workload"].unique()
        for name, field in workload(w).config_type.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Follows) and set(mark.fields) <= set(trials)
    }


def mean_interval(values: pd.Series[float], low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """A 95% interval of the mean of one value per seed: Student's t, n - 1 degrees of freedom, clipped to [low, high].

    Non-finite values are left out; nan for n < 2. Exact for normal values; approximate for error rates of a few seeds,
    and of zero width if all seeds agree.
    """
    finite = values[np.isfinite(values.astype(float))].astype(float)
    if len(finite) < 2:
        return math.nan, math.nan
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(finite) - 1)) * finite.std(ddof=1) / math.sqrt(len(finite))
    mean = finite.mean()
    return max(low, mean - half_width), min(high, mean + half_width)


def cell_summary(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row for each cell (trials equal in the columns `by`), sorted by them.

    `num_trials` and one count for each outcome cover all of the cell's trials. `n` is the number of seeds that
    mean, std (ddof=1), min and max of `test_error` and `train_error` are computed from, and the 95% interval
    `test_error_low`, `test_error_high` of the mean test error (Student's t, see `mean_interval`). Statistics of zero
    seeds, and std and interval of one seed, are nan.
    """
    rows = []
    for key, cell in trials.groupby(list(by), dropna=False):
        finite = cell[is_measured(cell)]
        errors = [finite[error].agg(name) for error in ("test_error", "train_error") for name in _SPREAD]
        counts = [int((cell["outcome"] == outcome).sum()) for outcome in Outcome]
        rows.append([*key, len(cell), len(finite), *errors, *mean_interval(finite["test_error"]), *counts])
    return pd.DataFrame(rows, columns=[*by, *CELL_STATISTICS])


def outcome_counts(cell: pd.Series) -> str:
    """A row of `cell_summary` as "3 memorized, 2 learned", the most frequent outcome first."""
    counts = sorted(((int(cell[str(outcome)]), str(outcome)) for outcome in Outcome), key=lambda pair: -pair[0])
    return ", ".join(f"{count} {outcome}" for count, outcome in counts if count)
