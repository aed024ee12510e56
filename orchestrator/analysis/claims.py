"""Judges each cell of a map: verdicts on Adam and AdamW with e-values, intervals and reasons.

A trial works if it trained and generalizes; an optimizer works in a cell if more than half of all seeds would. Each
cell has its own seeds, independent of other cells' seeds: with shared seeds, one cell's results would steer another's.
Cells are judged once all asked trials have ended, since those that end early may be the diverged ones. Then seeds may
be added wherever the results so far suggest it, and verdicts and intervals keep their guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.cells import is_measured, trivial_losses
from orchestrator.analysis.evidence import (
    CLAIMS,
    Floats,
    Ints,
    Verdict,
    bounded_mean_interval,
    can_be_decided,
    decide,
    evidence_needed,
    fewest_seeds,
    least_evidence,
    log_e_above_half,
    log_e_values,
    proportion_interval,
)
from orchestrator.analysis.pairs import seed_pairs
from orchestrator.sweeps.claim_rule import ClaimRule
from trainables.config import Optimizer
from trainables.result import SATISFYING

OPTIMIZERS = (Optimizer.ADAM, Optimizer.ADAMW)

CLAIM_STATISTICS = (
    *("num_seeds", "num_unsettled"),
    *(f"{name}_{optimizer}" for optimizer in OPTIMIZERS for name in ("n", "works", "p", "p_low", "p_high")),
    *("num_pairs", "difference", "difference_low", "difference_high"),
    *(f"e_{claim}" for claim in CLAIMS),
    *("verdict", "reason"),
)
"""The columns of `cell_claims` besides its keys."""


def works(trials: pd.DataFrame, rule: ClaimRule) -> pd.Series[bool]:
    """Whether each trial trained and generalizes; False if stuck or diverged, whatever its error rates."""
    is_low = (trials["train_error"] <= rule.max_train_error) & (trials["test_error"] <= rule.max_test_error)
    is_fitted = trials["train_loss"] <= rule.max_loss_share * trivial_losses(trials)
    return is_low & is_fitted & is_measured(trials)


def judged(trials: pd.DataFrame, rule: ClaimRule) -> pd.DataFrame:
    """The trials that ended, with a column `works`, sorted by id because rounding depends on the order of sums."""
    ended = trials[trials["outcome"].isin(SATISFYING)].sort_values("trial_id", ignore_index=True)
    return ended.assign(works=works(ended, rule))


def cell_claims(trials: pd.DataFrame, by: Sequence[str], rule: ClaimRule) -> pd.DataFrame:
    """One row for each cell (trials equal in the columns `by`), sorted by them: the claim and the evidence behind it.

    For each optimizer, `n_` is the number of its trials that ended, and `works_` the number of these that work, a share
    `p_` with its confidence sequence. `num_unsettled` counts the trials of the cell that did not end (unfinished,
    pruned, failed). `difference` is Adam's minus AdamW's mean test error over the `num_pairs` comparable, measured
    pairs of equal seed (see `seed_pairs`). Each interval is valid separately, at all looks together (`evidence`).
    E-values and `verdict` are those of `log_e_values` and `decide` with all rows as the map; `reason` says why a cell
    is undecided. Raises `UserError` if a cell has several trials of one optimizer and seed.
    """
    keys = [name for name in by if name not in ("optimizer", "seed")]
    trials = trials[trials["optimizer"].isin(OPTIMIZERS)] if len(trials) else trials
    if trials.empty:
        return pd.DataFrame(columns=[*keys, *CLAIM_STATISTICS])
    cells = trials[keys].drop_duplicates().sort_values(keys).reset_index(drop=True)
    cells["cell"] = range(len(cells))
    pairs = seed_pairs(trials, keys).merge(cells, on=keys)
    counted = trials.assign(settled=trials["outcome"].isin(SATISFYING), works=works(trials, rule)).merge(cells, on=keys)
    cells["num_seeds"] = counted.groupby("cell")["seed"].nunique()
    cells["num_unsettled"] = np.bincount(counted["cell"][~counted["settled"]], minlength=len(cells))
    table = pd.concat([cells, _proportions(counted, len(cells), rule), _differences(pairs, len(cells), rule)], axis=1)
    n, num_works = _by_optimizer(table, "n"), _by_optimizer(table, "works")
    log_e = log_e_values(num_works, n)
    verdicts = decide(log_e, rule.alpha)
    with np.errstate(over="ignore"):
        table = table.assign(**{f"e_{claim}": np.exp(log_e[:, i]) for i, claim in enumerate(CLAIMS)})
    return table.assign(verdict=verdicts, reason=_reasons(log_e, verdicts, num_works, n, rule)).drop(columns="cell")


def seeds_to_add(claims: pd.DataFrame, rule: ClaimRule) -> pd.Series[int]:
    """The number of seeds to add to each row of `cell_claims`: up to `min_seeds` first, then half as many again.

    0 for cells that are decided, have `max_seeds`, or could not be decided by more seeds.
    """
    if claims.empty:
        return pd.Series(dtype=np.int64)
    num_seeds = claims["num_seeds"].to_numpy()
    target = np.where(num_seeds < rule.min_seeds, rule.min_seeds, np.ceil(1.5 * num_seeds)).astype(np.int64)
    is_open = can_be_decided(_by_optimizer(claims, "works"), _by_optimizer(claims, "n"), rule.max_seeds, rule.alpha)
    is_open &= (claims["verdict"] == Verdict.UNDECIDED).to_numpy()
    more = np.maximum(np.minimum(target, rule.max_seeds) - num_seeds, 0)
    return pd.Series([int(k) for k in np.where(is_open, more, 0)], index=claims.index)


def _by_optimizer(table: pd.DataFrame, name: str) -> Ints:
    return table[[f"{name}_{optimizer}" for optimizer in OPTIMIZERS]].to_numpy(dtype=np.int64)


def _proportions(counted: pd.DataFrame, num_cells: int, rule: ClaimRule) -> pd.DataFrame:
    """The columns of each optimizer's share of trials that work."""
    columns: dict[str, Floats | Ints] = {}
    for optimizer in OPTIMIZERS:
        half = counted[counted["settled"] & (counted["optimizer"] == optimizer)]
        n = np.bincount(half["cell"], minlength=num_cells)
        num_works = np.bincount(half["cell"][half["works"]], minlength=num_cells)
        intervals = [proportion_interval(int(k), int(m), rule.confidence) for k, m in zip(num_works, n, strict=True)]
        columns |= {f"n_{optimizer}": n, f"works_{optimizer}": num_works}
        columns |= {f"p_{optimizer}": np.where(n > 0, num_works / np.maximum(n, 1), math.nan)}
        columns |= {
            f"p_{end}_{optimizer}": np.array([i[side] for i in intervals]) for side, end in enumerate(("low", "high"))
        }
    return pd.DataFrame(columns)


def _differences(pairs: pd.DataFrame, num_cells: int, rule: ClaimRule) -> pd.DataFrame:
    """The columns of the paired difference of test error."""
    used = pairs[pairs["is_comparable"] & pairs["is_measured"]]
    values = [used["difference"][used["cell"] == cell].to_numpy(dtype=np.float64) for cell in range(num_cells)]
    intervals = [tuple(map(float, bounded_mean_interval(v, rule.confidence))) for v in values]
    rows = [(len(v), v.mean() if len(v) else math.nan, *ends) for v, ends in zip(values, intervals, strict=True)]
    return pd.DataFrame(rows, columns=["num_pairs", "difference", "difference_low", "difference_high"])


def _reasons(log_e: Floats, verdicts: NDArray[np.object_], num_works: Ints, n: Ints, rule: ClaimRule) -> list[str]:
    """Why each undecided cell is undecided, in words; empty for decided cells."""
    is_open = can_be_decided(num_works, n, rule.max_seeds, rule.alpha)
    needed = evidence_needed(verdicts, rule.alpha)
    reasons = []
    for i, verdict in enumerate(verdicts):
        best = int(log_e[i].argmax())
        strongest = f"e = {math.exp(log_e[i, best]):.3g} for {CLAIMS[best]}; {needed[best]:.3g} is needed on this map"
        too_little = _too_little(num_works[i], n[i], bool(is_open[i]), rule)
        reasons.append("" if verdict != Verdict.UNDECIDED else too_little or f"the strongest evidence is {strongest}")
    return reasons


def _too_little(num_works: Ints, n: Ints, is_open: bool, rule: ClaimRule) -> str:
    """Why these seeds could not decide the cell on any map, in words; empty if they could."""
    for optimizer, seeds in zip(OPTIMIZERS, n, strict=True):
        if seeds == 0:
            return f"no trial of {optimizer} has ended"
    seeds, least = int(n.min()), least_evidence(rule.alpha)
    strongest = float(np.exp(log_e_above_half(seeds, seeds)))
    if strongest < least:
        return (
            f"{seeds} seed{'s' * (seeds > 1)} cannot decide at {100 * rule.alpha:.3g}%: the strongest possible "
            f"evidence is e = {strongest:.3g} of {least:.3g} at least, which takes {fewest_seeds(rule.alpha)} seeds"
        )
    if not is_open:
        counts = ", ".join(f"{o} works for {k} of {m}" for o, k, m in zip(OPTIMIZERS, num_works, n, strict=True))
        return f"seeds disagree ({counts}): no further ones up to {rule.max_seeds} could decide"
    return ""
