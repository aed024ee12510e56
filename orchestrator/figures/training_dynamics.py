"""Draws figures over training: feature and noise (the paper's figures 3-6), and agreement with sign descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.analysis.cells import cell_summary, outcome_counts, varying_columns
from orchestrator.errors import UserError
from orchestrator.figures.legend import draw_caption, place_legend
from orchestrator.figures.registry import FigureInput, figure
from orchestrator.figures.style import look_of, number_text, symbol
from trainables.config import Optimizer
from trainables.sign_agreement.config import SignAgreementTracePoint
from trainables.two_layer_cnn.config import TwoLayerCNNTracePoint

_FEATURE_COLOUR, _NOISE_COLOUR = "#009E73", "#AA4499"
_LARGE_COLOUR, _SMALL_COLOUR = _FEATURE_COLOUR, _NOISE_COLOUR
_AGREEMENT = [f.name for f in fields(SignAgreementTracePoint)]
_DYNAMICS = [f.name for f in fields(TwoLayerCNNTracePoint)]
_LINEAR_UP_TO = 0.1
"""Inner products are drawn linearly up to here, logarithmically beyond."""


@figure(traces=_DYNAMICS)
def feature_and_noise(given: FigureInput) -> Figure:
    """Feature learning and noise memorization over training (as the paper's figures 3-6), one block for each cell."""
    trials, traces = given.trials, given.traces
    _check(traces, _DYNAMICS, "feature_and_noise draws two_layer_cnn traces")
    keys = _cell_keys(trials)
    figure, blocks = _cell_blocks(trials, keys, height_ratios=(2, 1))
    for cell, (upper, lower) in blocks:
        _draw_dynamics(upper, lower, cell, traces)
        over = "min" if _is_large_batch(cell) else "max"
        _title_cell(upper, keys, cell, f"noise: {over} over samples")
        if _is_leftmost(upper):
            upper.set_ylabel(f"inner product (log above {_LINEAR_UP_TO})")
            lower.set_ylabel("loss, error")
    _finish(figure, trials, keys)
    return figure


@figure(traces=_AGREEMENT)
def sign_agreement(given: FigureInput) -> Figure:
    """Where Adam's updates are SignSGD's over training (Mechanism 3, Lemma C.2), one block for each cell.

    Above: the share of weights whose update has SignSGD's sign (and size, to a factor of 2), of those with |g| >= eta
    and of the others. Below: the distance from SignSGD's weights divided by the way travelled, and both test errors.
    """
    trials, traces = given.trials, given.traces
    _check(traces, _AGREEMENT, "sign_agreement draws sign_agreement traces")
    keys = _cell_keys(trials)
    figure, blocks = _cell_blocks(trials, keys, height_ratios=(1, 1))
    for cell, (upper, lower) in blocks:
        own = traces[traces["trial_id"].isin(cell["trial_id"])]
        for group, name, colour in (("large", r"$|g| \geq \eta$", _LARGE_COLOUR), ("small", "others", _SMALL_COLOUR)):
            _draw_band(upper, own, f"same_sign_{group}", f"same sign, {name}", color=colour)
            _draw_band(upper, own, f"same_size_{group}", f"and size, {name}", color=colour, linestyle=(0, (4, 2)))
        _draw_band(upper, own, "large_share", r"share with $|g| \geq \eta$", color="0.6", linestyle=":")
        apart = own.assign(apart=own["sign_distance"] / own["travelled"].where(own["travelled"] > 0))
        _draw_band(lower, apart, "apart", "distance / way travelled", color="0.6")
        _draw_band(lower, own, "test_error", "test error", color="0.0")
        _draw_band(lower, own, "sign_test_error", "test error of SignSGD(W)", color="0.0", linestyle=(0, (4, 2)))
        for axes in (upper, lower):
            _epoch_axis(axes, own)
        upper.set_ylim(-0.04, 1.04)
        lower.set_ylim(bottom=-0.04)
        lower.set_xlabel("epoch")
        _title_cell(upper, keys, cell)
        if _is_leftmost(upper):
            upper.set_ylabel("share of weights")
            lower.set_ylabel("distance, error")
    _finish(figure, trials, keys)
    return figure


def _is_leftmost(axes: Axes) -> bool:
    place = axes.get_subplotspec()
    return place is not None and place.is_first_col()


def _finish(figure: Figure, trials: pd.DataFrame, keys: Sequence[str]) -> None:
    """Draw the legend of all panels and the caption."""
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    place_legend(figure, [line for label, line in handles.items() if not str(label).startswith("_")])
    draw_caption(figure, trials, keys, "lines and bands: mean and range over {seeds}")


def _check(traces: pd.DataFrame, names: Sequence[str], what: str) -> None:
    if missing := [name for name in names if name not in traces]:
        raise UserError(f"{what}; these lack {', '.join(missing)}")


def _cell_keys(trials: pd.DataFrame) -> list[str]:
    keys = ["optimizer", "weight_decay", "batch_size"]
    return keys + varying_columns(trials, within=keys)


def _cell_blocks(
    trials: pd.DataFrame, keys: Sequence[str], height_ratios: tuple[int, int]
) -> tuple[Figure, list[tuple[pd.DataFrame, tuple[Axes, Axes]]]]:
    """A figure with two panels, one above the other, for each cell, large batches first."""
    ordered = trials.sort_values(list(keys), ascending=[name != "batch_size" for name in keys], kind="stable")
    cells = [cell for _, cell in ordered.groupby(list(keys), dropna=False, sort=False)]
    even = [count for count in (4, 3) if len(cells) % count == 0]
    num_columns = even[0] if even and cells else min(4, max(1, len(cells)))
    num_blocks = max(1, math.ceil(len(cells) / num_columns))
    figure = Figure(figsize=(max(6.4, 3.1 * num_columns), 1.0 + 4.0 * num_blocks))
    panels = figure.subplots(2 * num_blocks, num_columns, height_ratios=height_ratios * num_blocks, squeeze=False)
    blocks = []
    for index in range(num_blocks * num_columns):
        block, column = divmod(index, num_columns)
        upper, lower = panels[2 * block][column], panels[2 * block + 1][column]
        if index < len(cells):
            blocks.append((cells[index], (upper, lower)))
        else:
            upper.remove()
            lower.remove()
    return figure, blocks


def _draw_dynamics(upper: Axes, lower: Axes, trials: pd.DataFrame, traces: pd.DataFrame) -> None:
    """Draw one cell's traces: inner products above, loss and errors below."""
    own = traces[traces["trial_id"].isin(trials["trial_id"])]
    extreme = "min" if _is_large_batch(trials) else "max"
    for name, colour, text in (
        ("feature_learning", _FEATURE_COLOUR, r"feature, max$_r\langle w_{j,r}, jv\rangle$"),
        (f"noise_{extreme}", _NOISE_COLOUR, r"noise, max$_r\langle w_{j,r}, \xi_i\rangle$"),
    ):
        for sign, side, style in (("+1", "positive", "-"), ("-1", "negative", (0, (4, 2)))):
            _draw_band(upper, own, f"{name}_{side}", f"{text}, $j = {sign}$", color=colour, linestyle=style)
    for name, text, style, colour in (
        ("train_loss", "training loss", "-", "0.6"),
        ("train_error", "training error", ":", "0.0"),
        ("test_error", "test error", "-", "0.0"),
    ):
        _draw_band(lower, own, name, text, color=colour, linestyle=style)
    upper.axhline(0, color="0.4", linewidth=0.7, zorder=1)
    _product_axis(upper)
    lower.set(ylim=(-0.04, 1.1), xlabel="epoch")
    for axes in (upper, lower):
        _epoch_axis(axes, own)


def _epoch_axis(axes: Axes, traces: pd.DataFrame) -> None:
    """Make the epoch axis logarithmic from 1 upwards, with 0 at its left end."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(0, max(1, traces["epoch"].max()) if len(traces) else 1)
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _product_axis(axes: Axes) -> None:
    """Make the axis linear up to 0.1 and logarithmic beyond: the small feature's flip shows beside the large noise."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    low, high = np.nanmin(values), np.nanmax(values)  # the zero line is among them
    if max(-low, high) > _LINEAR_UP_TO:
        axes.set_yscale("symlog", linthresh=_LINEAR_UP_TO)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"${value:g}$"))
        axes.set_ylim(1.5 * low - 0.01, 1.5 * high)


def _draw_band(axes: Axes, traces: pd.DataFrame, quantity: str, label: str, **line: Any) -> None:
    """Draw mean and full range over seeds: where seeds split up, a std would suggest values that none of them takes."""
    values = traces[quantity].astype(float).where(np.isfinite).groupby(traces["epoch"])
    mean = values.mean()
    axes.plot(mean.index, mean, label=label, linewidth=1.5, **line)
    axes.fill_between(mean.index, values.min(), values.max(), color=line["color"], alpha=0.18, linewidth=0)


def _is_large_batch(trials: pd.DataFrame) -> bool:
    """Whether an epoch has at most two batches: there the paper takes the least memorized sample, else the most."""
    return bool((2 * trials["batch_size"] >= trials["num_train"]).all())


def _title_cell(axes: Axes, keys: Sequence[str], cell: pd.DataFrame, remark: str = "") -> None:
    """Title the cell with its setting, in its optimizer's colour; below it, how its trials ended and a remark."""
    look = look_of(Optimizer(cell["optimizer"].iloc[0]))
    values = [f"{symbol(key)} = {number_text(cell[key].iloc[0])}" for key in keys[1:]]
    outcomes = outcome_counts(cell_summary(cell, ["optimizer"]).iloc[0])
    axes.set_title(f"{', '.join([look.name, *values])}\n", color=look.colour)
    subtitle = "; ".join(filter(None, [outcomes, remark]))
    axes.text(0.5, 1.03, subtitle, transform=axes.transAxes, ha="center", fontsize=8.5, color="0.25")
