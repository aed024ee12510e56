"""Draws the series of a panel: an optimizer's line, its error bars, and the marks of single seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from orchestrator.analysis.cells import cell_summary, is_measured, varying_columns
from orchestrator.figures.style import Look, lighter, look_of, number_text, symbol
from trainables.config import Optimizer
from trainables.result import Outcome

# Outcomes that a seed's mark shows; the others are plain dots.
_HOLLOW, _CROSS, _TRIANGLE = Outcome.UNDERFIT, Outcome.STUCK, Outcome.DIVERGED

MARK_LABELS = {
    _HOLLOW: "underfit seed",
    _CROSS: "stuck seed (error arbitrary, in no mean)",
    _TRIANGLE: "diverged seed (no error, in no mean)",
}

_DIVERGED_AT = 1.06
"""The height at which a diverged seed is drawn: above every error rate."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: an optimizer, with the value of every field that splits its trials at one position."""

    label: str
    look: Look
    colour: tuple[float, float, float]
    trials: pd.DataFrame


def series_of(
    trials: pd.DataFrame, within: Sequence[str], named: Sequence[str] = (), chosen: Sequence[str] = ()
) -> list[Series]:
    """The lines of a panel whose positions are the columns `within`; labels name the `named` columns where constant.

    The `chosen` columns, in which every point has its best value, split no lines.
    """
    if trials.empty:
        return []
    apart = [name for name in varying_columns(trials, within=within) if name not in chosen]
    lines = []
    for optimizer in Optimizer:
        own = trials[trials["optimizer"] == optimizer]
        groups = [group for _, group in own.groupby(apart, dropna=False)] if apart else [own] * (not own.empty)
        for rank, group in enumerate(groups):
            look = look_of(optimizer)
            names = dict.fromkeys(name for name in (*named, *apart) if group[name].nunique() == 1)
            label = ", ".join([look.name, *(f"{symbol(name)} = {number_text(group[name].iloc[0])}" for name in names)])
            lines.append(Series(label, look, lighter(look.colour, rank / len(groups)), group))
    return lines


def draw_error(axes: Axes, series: Series, trials: pd.DataFrame, error: str) -> None:
    """Draw mean and std over seeds at each `x`, and each seed at its `seed_x`; the line breaks where no seed counts."""
    look, colour = series.look, series.colour
    cells = cell_summary(trials, ["x"])
    axes.errorbar(
        cells["x"],
        cells[f"{error}_mean"],
        yerr=cells[f"{error}_std"],
        color=colour,
        marker=look.marker,
        markersize=look.marker_size,
        linewidth=look.line_width,
        elinewidth=1.2,
        capsize=3,
        label=series.label,
    )
    counted = is_measured(trials)
    marks = [(trials[counted & (trials["outcome"] != _HOLLOW)], None), (trials[counted], _HOLLOW)]
    if error == "test_error":
        marks += [(trials, _CROSS), (trials.assign(test_error=_DIVERGED_AT), _TRIANGLE)]
    for seeds, outcome in marks:
        own = seeds if outcome is None else seeds[seeds["outcome"] == outcome]
        axes.plot(own["seed_x"], own[error], linestyle="none", label="_seeds", zorder=3, **seed_mark(outcome, colour))
    axes.set_ylim(-0.04, 1.1)
    axes.yaxis.set_major_locator(ticker.MultipleLocator(0.25 if error == "test_error" else 0.5))


def seed_mark(outcome: Outcome | None, colour: Any) -> dict[str, Any]:
    """How one seed is drawn: faint and filled, or in a way that shows its outcome."""
    if outcome is None:
        faint = lighter(colour, 0.6)
        return {"marker": "o", "markersize": 4, "color": faint, "markeredgecolor": "white", "markeredgewidth": 0.5}
    marker = {_HOLLOW: "o", _CROSS: "x", _TRIANGLE: "^"}[outcome]
    return {"marker": marker, "markersize": 5, "color": colour, "alpha": 0.8, "markerfacecolor": "none"}


def shade_unmeasured(axes: Axes, series: Series, trials: pd.DataFrame, level: int) -> None:
    """Shade the positions where a seed is stuck or diverged, half-way to the neighbours, and label them on top."""
    is_bad = trials["outcome"].isin((_CROSS, _TRIANGLE)).groupby(trials["x"]).any()
    scale = axes.xaxis.get_transform()
    positions = scale.transform(is_bad.index.to_numpy(float))
    margin = 0.03 * np.ptp(scale.transform(np.array(axes.get_xlim())))
    edges = np.concatenate([positions[:1] - margin, (positions[1:] + positions[:-1]) / 2, positions[-1:] + margin])
    for start, stop in _runs(is_bad.to_numpy(bool)):
        low, high = scale.inverted().transform(edges[[start, stop]])
        hatch = series.look.hatch
        tint = to_rgba(series.colour, 0.45 if hatch else 0.13)
        face = "none" if hatch else tint
        axes.axvspan(low, high, facecolor=face, edgecolor=tint, hatch=hatch, linewidth=0, zorder=0)
        bad = trials[trials["x"].isin(is_bad.index[start:stop])]["outcome"]
        text = f"{series.look.name} {' / '.join(o for o in (_CROSS, _TRIANGLE) if (bad == o).any())}"
        where = axes.get_xaxis_transform()
        axes.text(high, 1.01 + 0.075 * level, text, transform=where, color=series.colour, fontsize=8, ha="right")


def _runs(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[tuple[int, int]]:
    """Half-open index ranges of consecutive True flags."""
    steps = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    yield from zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True)
