"""Statistics of the ledger's trials: cells with their spread, Adam against AdamW by seeds, the best of several values.

Everywhere `trials` has one row a trial, with the columns of `TrialResult.trial_row`. A trial's error rate counts only
where it means something: trials that are stuck (weights near zero, so the sign of the output is arbitrary), diverged
(weights are no numbers) or not finished are counted by their outcome, and left out of every mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

from orchestrator.errors import UserError
from trainables.config import MOMENT_FIELDS, Follows, Optimizer, TwoLayerCNNConfig
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
"""The columns of `cell_summary` beside its keys."""

BEST_STATISTICS = ("n", "num_seeds", "mean", "std", "is_on_edge")
"""The columns of `best_cells` beside its keys and the fields chosen."""

PAIR_STATISTICS = (
    *("n", "difference_mean", "difference_std", "difference_low", "difference_high"),
    *("num_unlike", "num_unmeasured", "num_flagged"),
)
"""The columns of `paired_difference` beside its keys."""

FIRST_KEYS = ("optimizer", "weight_decay", "batch_size")
_DIGESTS = ("data_digest", "init_digest", "order_digest")
_MACHINE = ("engine", "device_name")


def is_measured(trials: pd.DataFrame) -> pd.Series[bool]:
    """Whether each trial's test error means something: learned, memorized or underfit, and finite."""
    return trials["outcome"].isin(MEASURED) & np.isfinite(trials["test_error"].astype(float))


def trivial_losses(trials: pd.DataFrame) -> pd.Series[float]:
    """Each trial's training loss if all outputs were equal; the synthetic workloads have no column of classes."""
    classes = trials.get("num_classes", TwoLayerCNNConfig.num_classes)
    return pd.Series(np.log(classes), index=trials.index, dtype=float)


def config_columns(trials: pd.DataFrame) -> list[str]:
    """The columns that are config fields, in a table's order: optimizer, weight decay and batch size first, no seed."""
    fields = {name: None for w in trials["workload"].unique() for name in workload(w).config_type.model_fields}
    names = dict.fromkeys((*FIRST_KEYS, "workload_version", *fields))
    return [name for name in names if name in trials and name != "seed"]


def varying_columns(trials: pd.DataFrame, within: Sequence[str] = ()) -> list[str]:
    """The config columns that take several values among trials equal in the columns `within` (seeds apart).

    A column that follows from others (`Follows`) is among them only if it also varies where those are equal.
    """
    follows = _follows(trials)

    def varies(column: str) -> bool:
        # Null in these means "this optimizer does not read it", which is no value of its own.
        rows = trials.dropna(subset=[column]) if column in MOMENT_FIELDS else trials
        known = list(dict.fromkeys((*within, *follows.get(column, ()))))
        values = rows[[*known, column]].drop_duplicates()
        return len(values) > len(values[known].drop_duplicates()) if known else len(values) > 1

    return [column for column in config_columns(trials) if column not in within and varies(column)]


def cell_columns(trials: pd.DataFrame) -> list[str]:
    """The columns that name a table's cells: optimizer, weight decay, batch size, and all that varies but the seed."""
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
    """A 95% interval of the mean of one value a seed: Student's t on n - 1 degrees of freedom, clipped to [low, high].

    Non-finite values are left out; nan for n < 2. Exact for normal values; approximate for error rates of a few seeds,
    and of no width where all seeds agree.
    """
    finite = values[np.isfinite(values.astype(float))].astype(float)
    if len(finite) < 2:
        return math.nan, math.nan
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(finite) - 1)) * finite.std(ddof=1) / math.sqrt(len(finite))
    mean = finite.mean()
    return max(low, mean - half_width), min(high, mean + half_width)


def cell_summary(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row for each cell (trials equal in the columns `by`), sorted by them.

    `num_trials` and one count for each outcome cover all of the cell's trials; `n` is the number of seeds behind mean,
    std (ddof=1), min and max of `test_error` and `train_error`, and behind the 95% interval `test_error_low`,
    `test_error_high` of the mean test error (Student's t, see `mean_interval`). Statistics of no seeds, and spreads of
    one, are nan.
    """
    rows = []
    for key, cell in trials.groupby(list(by), dropna=False):
        finite = cell[is_measured(cell)]
        errors = [finite[error].agg(name) for error in ("test_error", "train_error") for name in _SPREAD]
        counts = [int((cell["outcome"] == outcome).sum()) for outcome in Outcome]
        rows.append([*key, len(cell), len(finite), *errors, *mean_interval(finite["test_error"]), *counts])
    return pd.DataFrame(rows, columns=[*by, *CELL_STATISTICS])


def seed_pairs(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Adam and AdamW of equal seed within equal cells: one row a pair, `difference` being Adam's minus AdamW's error.

    `is_comparable`: both halves saw the same data, initial weights and batch order (unknown is not the same).
    `is_measured`: both error rates mean something. `is_flagged`: the halves ran on different engines or devices.
    Raises `UserError` where a cell holds several trials of one optimizer and seed, since no pair is then the right one.
    """
    keys = [*(name for name in by if name != "optimizer"), "seed"]
    halves = []
    for optimizer in (Optimizer.ADAM, Optimizer.ADAMW):
        half = trials[trials["optimizer"] == optimizer]
        if half.duplicated(keys).any():
            names = ", ".join(varying_columns(half, within=keys)) or "nothing: the trial is there twice"
            raise UserError(
                f"a pair needs one {optimizer} trial for each {', '.join(keys)}; they also differ in {names}"
            )
        half = half.assign(is_measured=is_measured(half))
        halves.append(half[[*keys, "trial_id", "test_error", "is_measured", *_DIGESTS, *_MACHINE]])
    pairs = halves[0].merge(halves[1], on=keys, suffixes=("_adam", "_adamw"))

    def equal(names: Sequence[str]) -> pd.Series[bool]:
        # null == null is False here: two unknown digests are no evidence
        return pd.concat([pairs[f"{name}_adam"] == pairs[f"{name}_adamw"] for name in names], axis=1).all(axis=1)

    return pairs[[*keys, "trial_id_adam", "trial_id_adamw", "test_error_adam", "test_error_adamw"]].assign(
        difference=pairs["test_error_adam"] - pairs["test_error_adamw"],
        is_comparable=equal(_DIGESTS),
        is_measured=pairs["is_measured_adam"] & pairs["is_measured_adamw"],
        is_flagged=~equal(_MACHINE),
    )


def paired_difference(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Adam's minus AdamW's test error in each cell, paired by seed: mean, std, 95% interval (Student's t) and n pairs.

    Only comparable, measured pairs enter (see `seed_pairs`); `num_unlike` and `num_unmeasured` count those left out,
    and `num_flagged` those among the n that ran on different engines or devices.
    """
    by = [name for name in by if name != "optimizer"]
    rows = []
    for key, cell in seed_pairs(trials, by).groupby(by, dropna=False):
        used = cell[cell["is_comparable"] & cell["is_measured"]]
        statistics = len(used), used["difference"].mean(), used["difference"].std(ddof=1)
        interval = mean_interval(used["difference"], low=-1.0)
        unlike, unmeasured = ~cell["is_comparable"], cell["is_comparable"] & ~cell["is_measured"]
        counts = [int(flags.sum()) for flags in (unlike, unmeasured, used["is_flagged"])]
        rows.append([*key, *statistics, *interval, *counts])
    return pd.DataFrame(rows, columns=[*by, *PAIR_STATISTICS])


def best_cells(trials: pd.DataFrame, over: Sequence[str], error: str = "test_error") -> pd.DataFrame:
    """For each cell of everything but the fields `over` (learning rates, say), their values with the lowest mean error.

    Means are over `n` of the cell's `num_seeds`. Values at which more seeds mean nothing (stuck, diverged) or are
    missing come after all others: one lucky seed is no evidence. `is_on_edge`: the chosen values, or others with the
    same mean, hold the smallest or largest of several that were tried in that cell, so that the optimum may lie beyond
    them. The minimum is taken over the same seeds that it is reported for: it is lower than a fresh seed's mean.
    """
    keys = [name for name in cell_columns(trials) if name not in over]
    rows = []
    for key, cell in trials.groupby(keys, dropna=False):
        tried = {name: sorted(cell[name].dropna().unique()) for name in over}  # null: not read
        measured, num_seeds = cell.assign(value=cell[error].where(is_measured(cell))), cell["seed"].nunique()
        scores = measured.groupby(list(over), dropna=False)["value"].agg(n="count", mean="mean", std="std")
        scores = scores.assign(lost=num_seeds - scores["n"]).reset_index()
        ranked = scores.sort_values(["lost", "mean", *over], kind="stable")
        best = ranked.iloc[0]
        # Of equals the smallest is chosen, by no merit of its own: one at the edge leaves open what lies beyond.
        equals = ranked[
            (ranked["lost"] == best["lost"]) & np.isclose(ranked["mean"], best["mean"], rtol=1e-9, equal_nan=True)
        ]
        on_edge = any(
            len(values) > 1 and equals[name].isin((values[0], values[-1])).any() for name, values in tried.items()
        )
        chosen = {name: best[name] for name in over} | {"num_seeds": num_seeds, "is_on_edge": on_edge}
        rows.append({**dict(zip(keys, key, strict=True)), **best[["n", "mean", "std"]], **chosen})
    return pd.DataFrame(rows, columns=[*keys, *over, *BEST_STATISTICS])


def only_best(trials: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The trials of the cells that `best_cells` chose."""
    keys = [name for name in best.columns if name in trials]
    return trials.merge(best[keys], on=keys, how="inner")
