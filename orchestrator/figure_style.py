"""How figures look: optimizers, marks of single seeds, axes, legends and captions, the same in all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from orchestrator.analysis import cell_summary, is_measured, varying_columns
from trainables.config import Optimizer, entry_of
from trainables.result import Outcome

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # editable text, as publishers ask
}


@dataclass(frozen=True, slots=True)
class Look:
    """How an optimizer is drawn everywhere; later ones are smaller, so that equal values stay visible on top."""

    name: str
    colour: str
    marker: str
    marker_size: float
    line_width: float
    hatch: str | None


# Okabe-Ito colours, safe for colour-blind readers: warm for coupled decay, cold for decoupled.
LOOKS = {
    Optimizer.ADAM: Look("Adam", "#D55E00", "o", 7.5, 2.4, None),
    Optimizer.ADAMW: Look("AdamW", "#0072B2", "s", 4.5, 1.3, "////"),
    Optimizer.SIGNSGD: Look("SignSGD", "#E69F00", "^", 7.5, 2.4, None),
    Optimizer.SIGNSGDW: Look("SignSGDW", "#56B4E9", "D", 4.0, 1.3, "////"),
}


def look_of(optimizer: Optimizer) -> Look:
    """How the optimizer is drawn; raises `ConfigError` for one that has no look."""
    return entry_of(optimizer, LOOKS, "its look in figures")


_SYMBOLS = {
    "weight_decay": r"$\lambda$",
    "batch_size": "$B$",
    "learning_rate": r"$\eta$",
    "num_epochs": "$T$",
    "num_train": "$n$",
    "dimension": "$d$",
    "noise_sparsity": "$s$",
    "noise_std": r"$\sigma_p$",
    "feature_noise": r"$\alpha$",
    "num_filters": "$m$",
    "activation_power": "$q$",
    "init_std": r"$\sigma_0$",
    "beta1": r"$\beta_1$",
    "beta2": r"$\beta_2$",
}


_SETTING = ("num_train", "dimension", "noise_sparsity", "learning_rate", "num_epochs")


# Outcomes that a seed's mark shows; the others are plain dots.
_HOLLOW, _CROSS, _TRIANGLE = Outcome.UNDERFIT, Outcome.STUCK, Outcome.DIVERGED


_MARK_LABELS = {
    _HOLLOW: "underfit seed",
    _CROSS: "stuck seed (error arbitrary, in no mean)",
    _TRIANGLE: "diverged seed (no error, in no mean)",
}


_DIVERGED_AT = 1.06
"""Where a diverged seed stands: above every error rate."""


_TEXT_INCHES = 0.09
"""About the width of a digit, with some room."""


_LEGEND_WIDTH, _LEGEND_HEIGHT = 0.98, 1 / 3
"""Shares of a figure that its legend may take: text is a little wider in a file of another resolution."""


def number_axis(axes: Axes, trials: pd.DataFrame, name: str, on: str = "x") -> None:
    """Ticks at the values that were trained, batch sizes say, named where there is room; the axis has its scale."""
    ticks = sorted(trials[name].unique())
    axis = axes.xaxis if on == "x" else axes.yaxis
    if len(ticks) == 1:  # or what stands beside each other at one value would fill the panel
        (axes.set_xlim if on == "x" else axes.set_ylim)(ticks[0] / 2, ticks[0] * 2)
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FixedFormatter(_where_there_is_room(axes, axis, ticks, is_x=on == "x")))
    axis.set_minor_locator(ticker.NullLocator())


def _where_there_is_room(axes: Axes, axis: Axis, ticks: Sequence[float], *, is_x: bool) -> list[str]:
    """The names of ticks, empty where the next larger one's is too near."""
    extent = axes.get_window_extent()
    inches = (extent.width if is_x else extent.height) / axes.figure.dpi
    places = axis.get_transform().transform(np.asarray(ticks, float))
    scale = inches / max(float(np.ptp(places)) if len(places) else 0.0, 1e-9)
    names, nearest = [], math.inf
    for tick, place in zip(ticks[::-1], places[::-1] * scale, strict=True):
        half = _TEXT_INCHES * (len(str(tick)) if is_x else 1.5) / 2
        has_room = place + half <= nearest
        names.append(str(tick) if has_room else "")
        nearest = place - half if has_room else nearest
    return names[::-1]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: an optimizer, and whatever else tells its trials at one position apart."""

    label: str
    look: Look
    colour: tuple[float, float, float]
    trials: pd.DataFrame


def series_of(
    trials: pd.DataFrame, within: Sequence[str], named: Sequence[str] = (), chosen: Sequence[str] = ()
) -> list[Series]:
    """The lines of a panel whose positions are the columns `within`; labels name the `named` columns where constant.

    The `chosen` columns, of which every point has its best value, tell no lines apart.
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
            lines.append(Series(label, look, _lighter(look.colour, rank / len(groups)), group))
    return lines


def draw_error(axes: Axes, series: Series, trials: pd.DataFrame, error: str) -> None:
    """Mean and std over seeds at each `x`, and every seed at its `seed_x`; the line breaks where no seed counts."""
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
        axes.plot(own["seed_x"], own[error], linestyle="none", label="_seeds", zorder=3, **_mark(outcome, colour))
    axes.set_ylim(-0.04, 1.1)
    axes.yaxis.set_major_locator(ticker.MultipleLocator(0.25 if error == "test_error" else 0.5))


def _mark(outcome: Outcome | None, colour: Any) -> dict[str, Any]:
    """How one seed is drawn: faint and filled, or in a way that shows its outcome."""
    if outcome is None:
        faint = _lighter(colour, 0.6)
        return {"marker": "o", "markersize": 4, "color": faint, "markeredgecolor": "white", "markeredgewidth": 0.5}
    marker = {_HOLLOW: "o", _CROSS: "x", _TRIANGLE: "^"}[outcome]
    return {"marker": marker, "markersize": 5, "color": colour, "alpha": 0.8, "markerfacecolor": "none"}


def shade_unmeasured(axes: Axes, series: Series, trials: pd.DataFrame, level: int) -> None:
    """Shade the positions where a seed is stuck or diverged, half-way to the neighbours, and name them on top."""
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


def decay_axis(axes: Axes, values: pd.Series[float]) -> None:
    """A logarithmic axis that also shows 0, one step left of the smallest positive value."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-6, 1.0)
    axes.set_xscale("symlog", linthresh=low, linscale=0.7)
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / 6))
    decades = [10.0**k for k in range(last, first - 1, -stride)] or sorted({low, high}, reverse=True)
    axes.xaxis.set_major_locator(ticker.FixedLocator([0.0] * bool((values == 0).any()) + decades[::-1]))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: power_text(value)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(-0.45 * low if (values == 0).any() else low / 2, high * 2.5)


def draw_legend(figure: Figure, trials: pd.DataFrame, lines: Sequence[Series]) -> None:
    """One legend above the panels: the lines, and those marks of single seeds that occur."""
    handles: list[Artist] = [
        Line2D([], [], color=s.colour, marker=s.look.marker, markersize=s.look.marker_size, label=s.label)
        for s in lines
    ]
    handles.append(Line2D([], [], linestyle="none", label="single seed", **_mark(None, "0.2")))
    for outcome, label in _MARK_LABELS.items():
        if (trials["outcome"] == outcome).any():
            handles.append(Line2D([], [], linestyle="none", label=label, **_mark(outcome, "0.2")))
    place_legend(figure, handles)


def place_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """The legend above all panels, in as many columns as fit side by side; many rows make the figure higher."""
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
    """A line below: what the bars are, how many seeds, and the setting that all trials share."""
    if trials.empty:
        figure.supxlabel("no finished trials", fontsize=8.5, color="0.35")
        return
    seeds = trials.groupby(list(keys), dropna=False)["seed"].nunique()
    low, high = int(seeds.min()), int(seeds.max())
    count = f"{low} seed{'s' * (low != 1)}" if low == high else f"{low} to {high} seeds"
    shared = [name for name in _SETTING if name in trials and trials[name].nunique() == 1]
    setting = ", ".join(f"{symbol(name)} = {number_text(trials[name].iloc[0])}" for name in shared)
    figure.supxlabel(f"{what} over {count}    {setting}", fontsize=8.5, color="0.35")


def symbol(column: str) -> str:
    """The paper's symbol of a field, or its name in words."""
    return _SYMBOLS.get(column, column.replace("_", " "))


def number_text(value: Any) -> str:
    """A number as a reader writes it: 0.05, 100, or a power of ten."""
    if not isinstance(value, int | float | np.number):
        return str(value)
    number = float(value)
    if math.isnan(number):
        return "none"  # what the optimizer does not read
    return f"{number:g}" if number == 0 or 1e-3 <= abs(number) < 1e4 else power_text(number)


def power_text(value: float) -> str:
    """A number as a multiple of a power of ten, in TeX."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.5e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\times"
    return f"${factor}10^{{{int(exponent)}}}$"


def _lighter(colour: Any, share: float) -> tuple[float, float, float]:
    """The colour mixed with white."""
    red, green, blue = (c + (1 - c) * 0.75 * share for c in to_rgb(colour))
    return red, green, blue
