"""The tables that end a map, as text, from the ledger's rows alone: verdicts, edges along lambda, exponents."""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchestrator.boundaries import Edge, edges
from orchestrator.claims import OPTIMIZERS, cell_claims, works
from orchestrator.exponent import fit_scaling
from orchestrator.map_run import claim_draws, claim_keys
from orchestrator.map_search import MapSearch
from orchestrator.sweep import Sweep
from trainables.result import SATISFYING

_DECAY = "weight_decay"


def map_tables(trials: pd.DataFrame, sweep: Sweep) -> list[tuple[str, pd.DataFrame]]:
    """Title and content of each table that the sweep's map has."""
    assert isinstance(sweep.search, MapSearch)
    trials = trials[trials["outcome"].isin(SATISFYING)]
    if trials.empty:
        return [(sweep.title, pd.DataFrame(columns=["nothing has ended yet"]))]
    trials = trials.assign(works=works(trials, sweep.search.rule))
    tables = []
    if any(map(sweep.search.is_claim, sweep.cells())):
        tables.append((f"{sweep.title}: verdicts", _claim_table(trials, sweep)))
    if sweep.search.lines:
        tables.append((f"{sweep.title}: edges along lambda", _edge_table(trials, sweep)))
    if sweep.search.scaling is not None:
        tables.append((f"{sweep.title}: lambda_max ~ {sweep.search.scaling}^k", _scaling_table(trials, sweep)))
    return tables


def _claim_table(trials: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    assert isinstance(sweep.search, MapSearch)
    keys = claim_keys(sweep)
    claims = cell_claims(trials[trials["trial_id"].isin(claim_draws(sweep))], keys, sweep.search.rule)
    table = pd.DataFrame({key: claims[key].map(_plain) for key in keys})
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
    """One row for each edge, or one that says that there is none."""
    assert isinstance(sweep.search, MapSearch)
    rows = []
    for line, setting in _lines(sweep):
        own = trials[np.logical_and.reduce([trials[name] == value for name, value in setting.items()])]
        own = own[own[_DECAY] > 0]
        if own.empty:
            continue
        found, highest = edges(own[_DECAY].to_numpy(float), own["works"].to_numpy(bool))
        place = ", ".join(f"{name} = {_plain(value)}" for name, value in line.items())
        for edge in found or (None,):
            rows.append([setting["optimizer"], place, *_edge_cells(edge, highest), f"{highest:.2f}", str(len(own))])
    columns = ["optimizer", "at", "edge", "lambda where P = 1/2", "95% band, decades", "highest P", "trials"]
    return pd.DataFrame(rows, columns=columns)


def _edge_cells(edge: Edge | None, highest: float) -> tuple[str, str, str]:
    if edge is None:
        return ("none: works nowhere" if highest < 0.5 else "none: works everywhere", "-", "-")
    band = f"[{10**edge.low:.3g}, {10**edge.high:.3g}]"
    return edge.side, f"{10**edge.log10_decay:.3g} {band}", f"\u00b1 {edge.half_width:.3f}"


def _lines(sweep: Sweep) -> list[tuple[dict[str, object], dict[str, object]]]:
    """Each line with each setting of the other fields."""
    assert isinstance(sweep.search, MapSearch)
    settings = [setting for setting, _ in sweep.search.boundaries(sweep)]
    on_line = [s for s in settings if any(name in s for name in sweep.search.fields)]
    return [({name: s[name] for name in sweep.search.fields if name in s}, s) for s in on_line]


def _scaling_table(trials: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The exponent of each optimizer and power q beside the theory's q - 2 (corollaries 4.3 and 4.6, for Adam)."""
    assert isinstance(sweep.search, MapSearch)
    assert sweep.search.scaling is not None
    rows = []
    for (optimizer, power), own in trials.groupby(["optimizer", "activation_power"]):
        q = int(str(power))
        law = fit_scaling(own[sweep.search.scaling], own[_DECAY], own["works"])
        k = law.exponent()
        width = law.width()
        agrees = "yes" if float(k.low) <= q - 2 <= float(k.high) else "no"
        rows.append(
            [
                optimizer,
                str(q),
                f"{float(k.value):.2f} [{float(k.low):.2f}, {float(k.high):.2f}]",
                str(q - 2),
                agrees,
                f"{float(width.value):.2f}",
                str(len(own)),
            ]
        )
    return pd.DataFrame(rows, columns=["optimizer", "q", "k, 95%", "q - 2", "agrees", "width, decades", "trials"])


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(value) else "-"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
