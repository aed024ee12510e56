"""Makes the tables of a map as text, from the ledger's rows alone: verdicts, edges along lambda, exponents."""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchestrator.analysis.claims import OPTIMIZERS, cell_claims, judged
from orchestrator.analysis.edges import Edge, edges
from orchestrator.analysis.scaling import fit_scaling, theory_exponent
from orchestrator.report.text import value_text
from orchestrator.sweeps.map_trials import claim_ids, claim_keys, map_of, of_setting
from orchestrator.sweeps.value import Sweep
from trainables.config import Optimizer

_DECAY = "weight_decay"


def map_tables(trials: pd.DataFrame, sweep: Sweep) -> list[tuple[str, pd.DataFrame]]:
    """Title and content of each table that the sweep's map has."""
    search = map_of(sweep)
    trials = judged(trials, search.rule)
    if trials.empty:
        return [(sweep.title, pd.DataFrame(columns=["no trial has ended yet"]))]
    tables = []
    if any(map(search.is_claim, sweep.cells())):
        tables.append((f"{sweep.title}: verdicts", _claim_table(trials, sweep)))
    if search.lines:
        tables.append((f"{sweep.title}: edges along lambda", _edge_table(trials, sweep)))
    if search.scaling is not None:
        tables.append((f"{sweep.title}: lambda_max ~ {search.scaling}^k", _scaling_table(trials, search.scaling)))
    return tables


def _claim_table(trials: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    keys = claim_keys(sweep)
    claims = cell_claims(trials[trials["trial_id"].isin(claim_ids(sweep))], keys, map_of(sweep).rule)
    table = pd.DataFrame({key: claims[key].map(value_text) for key in keys})
    table["seeds"] = claims["num_seeds"].map(str)
    for optimizer in OPTIMIZERS:
        columns = (claims[f"{name}_{optimizer}"] for name in ("p", "p_low", "p_high"))
        table[f"P({optimizer} works)"] = [_interval(*row) for row in zip(*columns, strict=True)]
    columns = (claims[name] for name in ("difference", "difference_low", "difference_high"))
    table["adam - adamw"] = [_interval(*row) for row in zip(*columns, strict=True)]
    table["verdict"] = claims["verdict"].map(str)
    table["why"] = claims["reason"]
    return table


def _edge_table(trials: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """One row for each edge; a line without an edge has one row that says so."""
    rows = []
    for line, setting in map_of(sweep).lines_of(sweep.cells()):
        own = of_setting(trials, setting)
        own = own[own[_DECAY] > 0]
        if own.empty:
            continue
        found, highest = edges(own[_DECAY].to_numpy(float), own["works"].to_numpy(bool))
        place = ", ".join(f"{name} = {value_text(value)}" for name, value in line.items())
        for edge in found or (None,):
            rows.append([setting["optimizer"], place, *_edge_cells(edge, highest), f"{highest:.2f}", str(len(own))])
    columns = ["optimizer", "at", "edge", "lambda where P = 1/2", "95% band, decades", "highest P", "trials"]
    return pd.DataFrame(rows, columns=columns)


def _edge_cells(edge: Edge | None, highest: float) -> tuple[str, str, str]:
    if edge is None:
        return ("none: works nowhere" if highest < 0.5 else "none: works everywhere", "-", "-")
    band = f"[{10**edge.low:.3g}, {10**edge.high:.3g}]"
    return edge.side, f"{10**edge.log10_decay:.3g} {band}", f"\u00b1 {edge.half_width:.3f}"


def _scaling_table(trials: pd.DataFrame, scaled: str) -> pd.DataFrame:
    """The exponent of each optimizer and power q beside the theory's."""
    rows = []
    for (optimizer, power), own in trials[trials[_DECAY] > 0].groupby(["optimizer", "activation_power"]):
        q = int(str(power))
        theory = theory_exponent(Optimizer(str(optimizer)), q)
        law = fit_scaling(own[scaled], own[_DECAY], own["works"])
        if law.num_x < 2:  # of a map that has just begun
            rows.append([optimizer, str(q), "-", str(theory), "-", "-", str(len(own))])
            continue
        k, width = law.exponent(), law.width()
        agrees = "yes" if k.low <= theory <= k.high else "no"
        cells = (f"{k.value:.2f} [{k.low:.2f}, {k.high:.2f}]", str(theory), agrees, f"{width.value:.2f}", str(len(own)))
        rows.append([optimizer, str(q), *cells])
    return pd.DataFrame(rows, columns=["optimizer", "q", "k, 95%", "theory", "agrees", "width, decades", "trials"])


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(value) else "-"
