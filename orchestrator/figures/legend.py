"""Draws the legend above a figure's panels and the caption below them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from orchestrator.figures.series import MARK_LABELS, Series, seed_mark
from orchestrator.figures.style import STYLE, number_text, symbol

_SETTING = ("num_train", "dimension", "noise_sparsity", "learning_rate", "num_epochs")

_LEGEND_WIDTH, _LEGEND_HEIGHT = 0.98, 1 / 3
"""Shares of a figure that its legend may take: text is a little wider in a file of another resolution."""


def draw_legend(figure: Figure, trials: pd.DataFrame, lines: Sequence[Series]) -> None:
    """Draw one legend above the panels: the lines, and the marks of single seeds that occur."""
    handles: list[Artist] = [
        Line2D([], [], color=s.colour, marker=s.look.marker, markersize=s.look.marker_size, label=s.label)
        for s in lines
    ]
    handles.append(Line2D([], [], linestyle="none", label="single seed", **seed_mark(None, "0.2")))
    for outcome, label in MARK_LABELS.items():
        if (trials["outcome"] == outcome).any():
            handles.append(Line2D([], [], linestyle="none", label=label, **seed_mark(outcome, "0.2")))
    place_legend(figure, handles)


def place_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Place the legend above all panels, in as many columns as fit; many rows make the figure higher."""
    if not handles:
        return
    width, height = figure.get_size_inches()
    for columns in range(min(max(1, int(width / 2.1)), len(handles)), 0, -1):
        legend = _legend(figure, handles, columns)
        if (needed := _inches(legend)[0] / _LEGEND_WIDTH) <= width:
            break
        legend.remove()
    else:
        legend = _legend(figure, handles, 1, scale=width / needed)
    figure.set_figheight(height + max(0.0, _inches(legend)[1] - _LEGEND_HEIGHT * height))


def _legend(figure: Figure, handles: Sequence[Artist], columns: int, scale: float = 1.0) -> Legend:
    size = STYLE["legend.fontsize"] * scale
    return figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=size)


def _inches(legend: Legend) -> tuple[float, float]:
    extent = legend.get_window_extent()
    return extent.width / legend.figure.dpi, extent.height / legend.figure.dpi


def draw_caption(figure: Figure, trials: pd.DataFrame, keys: Sequence[str], what: str) -> None:
    """Write a line below the panels: `what` with the number of seeds for `{seeds}`, and the setting of all trials."""
    seeds = trials.groupby(list(keys), dropna=False)["seed"].nunique()
    low, high = int(seeds.min()), int(seeds.max())
    count = f"{low} seed{'s' * (low != 1)}" if low == high else f"{low} to {high} seeds"
    shared = [name for name in _SETTING if name in trials and trials[name].nunique() == 1]
    setting = ", ".join(f"{symbol(name)} = {number_text(trials[name].iloc[0])}" for name in shared)
    figure.supxlabel(f"{what.format(seeds=count)}    {setting}", fontsize=8.5, color="0.35")
