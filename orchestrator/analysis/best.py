"""Finds the best value of a field, such as the learning rate, in each cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from orchestrator.analysis.cells import cell_columns, is_measured

BEST_STATISTICS = ("n", "num_seeds", "mean", "std", "is_on_edge")
"""The columns of `best_cells` besides its keys and the chosen fields."""


def best_cells(trials: pd.DataFrame, over: Sequence[str], error: str = "test_error") -> pd.DataFrame:
    """One row for each cell of all fields except `over`, with the values of `over` that have the lowest mean error.

    Means are over `n` of the cell's `num_seeds`. Values with more missing or meaningless (stuck, diverged) seeds rank
    after all others, since one lucky seed is no evidence. `is_on_edge`: the chosen values, or others with the same
    mean, include the smallest or largest of several values tried in that cell, so that the optimum may lie beyond them.
    The reported mean is over the seeds that chose the minimum, so it is biased below the mean over new seeds.
    """
    keys = [name for name in cell_columns(trials) if name not in over]
    rows = []
    for key, cell in trials.groupby(keys, dropna=False):
        tried = {name: sorted(cell[name].dropna().unique()) for name in over}  # null: a field not read
        measured, num_seeds = cell.assign(value=cell[error].where(is_measured(cell))), cell["seed"].nunique()
        scores = measured.groupby(list(over), dropna=False)["value"].agg(n="count", mean="mean", std="std")
        scores = scores.assign(lost=num_seeds - scores["n"]).reset_index()
        ranked = scores.sort_values(["lost", "mean", *over], kind="stable")
        best = ranked.iloc[0]
        # Of equals the smallest is chosen, an arbitrary choice: if any is at an end, the optimum may lie beyond it.
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
