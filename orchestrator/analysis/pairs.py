"""Compares Adam with AdamW: pairs trials of one seed within cells, and summarizes their differences."""

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
"""The columns of `paired_difference` besides its keys."""

_DIGESTS = ("data_digest", "init_digest", "order_digest")
_MACHINE = ("engine", "device_name")


def seed_pairs(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row for each pair of Adam and AdamW trials of one cell and seed; `difference` is Adam's minus AdamW's error.

    `is_comparable`: both trials saw the same data, initial weights and batch order (unknown is not the same).
    `is_measured`: both error rates mean something. `is_flagged`: the trials ran on different engines or devices.
    Raises `UserError` if a cell has several trials of one optimizer and seed, since the pair would be ambiguous.
    """
    keys = [*(name for name in by if name != "optimizer"), "seed"]
    halves = []
    for optimizer in (Optimizer.ADAM, Optimizer.ADAMW):
        half = trials[trials["optimizer"] == optimizer]
        if half.duplicated(keys).any():
            names = ", ".join(varying_columns(half, within=keys)) or "nothing: a trial is given twice"
            raise UserError(
                f"a pair needs one {optimizer} trial for each {', '.join(keys)}, got several, which differ in {names}"
            )
        half = half.assign(is_measured=is_measured(half))
        halves.append(half[[*keys, "trial_id", "test_error", "is_measured", *_DIGESTS, *_MACHINE]])
    pairs = halves[0].merge(halves[1], on=keys, suffixes=("_adam", "_adamw"))

    def equal(names: Sequence[str]) -> pd.Series[bool]:
        # null == null is False here: two unknown digests do not show equality
        return pd.concat([pairs[f"{name}_adam"] == pairs[f"{name}_adamw"] for name in names], axis=1).all(axis=1)

    return pairs[[*keys, "trial_id_adam", "trial_id_adamw", "test_error_adam", "test_error_adamw"]].assign(
        difference=pairs["test_error_adam"] - pairs["test_error_adamw"],
        is_comparable=equal(_DIGESTS),
        is_measured=pairs["is_measured_adam"] & pairs["is_measured_adamw"],
        is_flagged=~equal(_MACHINE),
    )


def paired_difference(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return by how much Adam's test error exceeds AdamW's in each cell, from pairs of trials of one seed.

    Two trials of one seed share data, initial weights and batch order, so their difference varies less than either
    error. A pair counts if the digests in its rows show that it did share them, and if both error rates mean something
    (`learned`, `memorized` or `underfit`).

    Args:
        trials: One row for each trial, with the columns that `Ledger.trials` and `TrialResult.trial_row` give.
        by: One or more columns that identify the cells. Optimizer and seed are ignored. Give `weight_decay` only if
            both optimizers have the same values.

    Returns:
        One row for each cell, with its keys; `n`, the number of pairs that count; mean and standard deviation of Adam's
        minus AdamW's error; `difference_low` and `difference_high`, the 95% interval by Student's t; `num_unlike` and
        `num_unmeasured`, the numbers of pairs that do not count; and `num_flagged`, the number of the n pairs whose
        trials ran on different engines or devices.

    Raises:
        UserError: `by` names no column, or one that the trials lack; or a cell has several trials of one optimizer
            and seed, so that their pair is ambiguous.

    Example:
        >>> import pandas as pd
        >>> from orchestrator import paired_difference
        >>> from trainables import Member, config_from_values, workload
        >>> values = {"workload": "two_layer_cnn", "batch_size": 20, "num_epochs": 5}
        >>> arms = ({"optimizer": "adam", "weight_decay": 1e-5}, {"optimizer": "adamw", "weight_decay": 1e-2})
        >>> configs = [config_from_values({**values, **arm, "seed": seed}) for arm in arms for seed in (0, 1, 2)]
        >>> pack = workload("two_layer_cnn").open([Member(config, until_epoch=5) for config in configs])
        >>> rows = [report.result.trial_row() for report in pack.advance(seconds=60) if report.result]
        >>> table = paired_difference(pd.DataFrame(rows), by=["batch_size"])
        >>> table[["batch_size", "n", "num_unlike"]].to_dict("records")
        [{'batch_size': 20, 'n': 3, 'num_unlike': 0}]
    """
    by = [name for name in by if name not in ("optimizer", "seed")]
    if not by or not set(by) <= set(trials):
        raise UserError(f"`by` must name one or more columns of the trials, got {', '.join(by) or 'none'}")
    rows = []
    for key, cell in seed_pairs(trials, by).groupby(by, dropna=False):
        used = cell[cell["is_comparable"] & cell["is_measured"]]
        statistics = len(used), used["difference"].mean(), used["difference"].std(ddof=1)
        interval = mean_interval(used["difference"], low=-1.0)
        unlike, unmeasured = ~cell["is_comparable"], cell["is_comparable"] & ~cell["is_measured"]
        counts = [int(flags.sum()) for flags in (unlike, unmeasured, used["is_flagged"])]
        rows.append([*key, *statistics, *interval, *counts])
    return pd.DataFrame(rows, columns=[*by, *PAIR_STATISTICS])
