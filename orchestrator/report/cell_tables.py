"""Makes tables as text, ready to print: a sweep's cells, and the best of several values."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from orchestrator.analysis.best import BEST_STATISTICS
from orchestrator.analysis.cells import FIRST_KEYS, cell_columns, cell_summary, outcome_counts
from orchestrator.analysis.error_rates import PLAIN, judged_by, kind_of, precise
from orchestrator.report.text import mean_std, rate_text, result_text


def result_table(trials: pd.DataFrame, error: str = PLAIN.test) -> pd.DataFrame:
    """The result table of a run, as text: one row for each cell, with every field that varies but the seed.

    Errors are mean ± std over the seeds whose error means something, "-" if there are none. Errors of the precise kind
    follow those of `error` where the trials have them.
    """
    kind, precise_kind = kind_of(error), precise(error)
    train, test = f"{kind.label}train error", f"{kind.label}test error"
    if trials.empty:
        return pd.DataFrame(columns=[*FIRST_KEYS, "n", train, test, "min", "max", "outcomes"])
    keys = cell_columns(trials)
    cells = cell_summary(judged_by(trials, kind), keys)
    table = pd.DataFrame({name: cells[name].map(result_text) for name in keys})
    table["n"] = cells["num_trials"].map(str)
    table[train], table[test] = _means(cells, "train_error"), _means(cells, "test_error")
    table["min"], table["max"] = cells["test_error_min"].map(rate_text), cells["test_error_max"].map(rate_text)
    if precise_kind is not None and precise_kind.test in trials and trials[precise_kind.test].notna().any():
        of_precise = cell_summary(judged_by(trials, precise_kind), keys)
        table[f"{precise_kind.label}test error"] = _means(of_precise, "test_error")
    table["outcomes"] = [outcome_counts(row) for _, row in cells.iterrows()]
    return table


def _means(cells: pd.DataFrame, error: str) -> list[str]:
    return [mean_std(*pair) for pair in zip(cells[f"{error}_mean"], cells[f"{error}_std"], strict=True)]


def best_table(best: pd.DataFrame, over: Sequence[str]) -> pd.DataFrame:
    """The rows of `best_cells` as text."""
    keys = [name for name in best.columns if name not in BEST_STATISTICS]
    table = pd.DataFrame({f"best {name}" if name in over else name: best[name].map(result_text) for name in keys})
    pairs = zip(best["n"].astype(int), best["num_seeds"], strict=True)
    table["n"] = [str(n) if n == num_seeds else f"{n} of {num_seeds}" for n, num_seeds in pairs]
    table["error"] = [mean_std(*pair) for pair in zip(best["mean"], best["std"], strict=True)]
    table["at an end of the grid"] = best["is_on_edge"].map({True: "yes", False: "no"})
    return table


def best_note(best: pd.DataFrame, over: Sequence[str]) -> str:
    """The rows of `best_cells` summed up in one line."""
    fewer = int((best["n"] < best["num_seeds"]).sum())
    return (
        f"best {', '.join(over)} of each point, at an end of the grid at {best['is_on_edge'].sum()} of {len(best)}"
        + (f", with fewer seeds than others at {fewer}" if fewer else "")
    )
