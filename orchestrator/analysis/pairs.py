"""Adam against AdamW by seeds: trials paired within cells, and their differences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from orchestrator.analysis.cells import is_measured, mean_interval, varying_columns
from orchestrator.errors import UserError
from trainables.config import Optimizer

PAIR_STATISTICS = (
    *("n", "difference_mean", "difference_std", "difference_low", "difference_high"),
    *("num_unlike", "num_unmeasured", "num_flagged"),
)
"""The columns of `paired_difference` beside its keys."""

_DIGESTS = ("data_digest", "init_digest", "order_digest")
_MACHINE = ("engine", "device_name")


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
