"""Figures of errors: against batch size, weight decay, betas and sparsity (the paper's figures 1, 2, 7-12)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from orchestrator.analysis.error_rates import KINDS
from orchestrator.figures.axes import decay_axis, number_axis
from orchestrator.figures.legend import draw_caption, draw_legend
from orchestrator.figures.registry import FigureInput, figure
from orchestrator.figures.series import Series, draw_error, series_of, shade_unmeasured
from orchestrator.figures.style import number_text
from trainables.config import Optimizer

PAPER_DECAY_SCALE = 25
"""The paper draws AdamW at lambda / 25 (its figures 2 and 12)."""


@figure(errors=KINDS)
def error_vs_batch_size(given: FigureInput) -> Figure:
    """Test and training error against batch size (the paper's figures 1, 11), a line for each optimizer and decay."""
    trials = given.trials
    figure = Figure(figsize=(6.4, 4.8))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    lines = series_of(trials, ("optimizer", "batch_size"), ("weight_decay",), given.chosen)
    offsets = _beside_each_other(lines)
    for series, offset in zip(lines, offsets, strict=True):
        sizes = series.trials["batch_size"]  # seeds are drawn beside their mean, further out
        shifted = series.trials.assign(x=sizes * offset, seed_x=sizes * offset**2.5)
        draw_error(upper, series, shifted, "test_error")
        draw_error(lower, series, shifted, "train_error")
    upper.set(xscale="log", ylabel=f"{given.error.label}test error")
    lower.set(xlabel="batch size $B$", ylabel=f"{given.error.label}training error".replace(" ", "\n"))
    number_axis(lower, trials, "batch_size")
    draw_legend(figure, trials, lines)
    draw_caption(figure, trials, ["optimizer", "weight_decay", "batch_size"], "error bars: mean ± std over {seeds}")
    return figure


@figure(errors=KINDS)
def error_vs_weight_decay(given: FigureInput) -> Figure:
    """Test error against weight decay (the paper's figures 2 and 12), a row for each batch size and number of epochs.

    Columns: lambda as given; AdamW at lambda / 25, the paper's convention; the decay of one step, eta * lambda.
    """
    trials = given.trials
    decoupled = ~trials["optimizer"].isin([o for o in Optimizer if o.is_coupled])
    trials = trials.assign(
        given=trials["weight_decay"],
        paper=trials["weight_decay"] / np.where(decoupled, PAPER_DECAY_SCALE, 1),
        step=trials["weight_decay"] * trials["learning_rate"],
    )
    rows = list(trials.groupby(["batch_size", "num_epochs"]))
    figure = Figure(figsize=(11.5, 1.5 + 2.5 * max(1, len(rows))))
    panels = figure.subplots(max(1, len(rows)), 3, sharex="col", sharey=True, squeeze=False)
    labels = {
        "given": r"weight decay $\lambda$",
        "paper": rf"$\lambda$ (Adam), $\lambda$/{PAPER_DECAY_SCALE} (AdamW)",
        "step": r"decay of one step $\eta\lambda$",
    }
    for panel_row, ((batch_size, num_epochs), row) in zip(panels, rows, strict=False):
        lines = series_of(row, ("optimizer", "weight_decay"), chosen=given.chosen)
        for axes, column in zip(panel_row, labels, strict=True):
            decay_axis(axes, trials[column])
            for level, series in enumerate(lines):
                positioned = series.trials.assign(x=series.trials[column], seed_x=series.trials[column])
                draw_error(axes, series, positioned, "test_error")
                shade_unmeasured(axes, series, positioned, level)
        panel_row[0].set_ylabel(f"$B$ = {batch_size}, $T$ = {number_text(num_epochs)}\n{given.error.label}test error")
    for axes, label in zip(panels[-1], labels.values(), strict=True):
        axes.set_xlabel(label)
    keys = ["optimizer", "weight_decay", "batch_size", "num_epochs"]
    draw_legend(figure, trials, series_of(trials, keys, chosen=given.chosen))
    draw_caption(figure, trials, keys, "error bars: mean ± std over {seeds}")
    return figure


@figure(fields=("noise_sparsity", "noise_std"))
def error_vs_sparsity(given: FigureInput) -> Figure:
    """Test error against the sparsity s of the noise, one panel for each batch size."""
    trials = given.trials
    panels = list(trials.groupby("batch_size"))
    figure = Figure(figsize=(1.5 + 3.1 * max(1, len(panels)), 3.8))
    row = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    lines: list[Series] = []
    for axes, (batch_size, own) in zip(row, panels, strict=False):
        lines = series_of(own, ("optimizer", "noise_sparsity", "noise_std"), ("weight_decay",), given.chosen)
        offsets = _beside_each_other(lines)
        for series, offset in zip(lines, offsets, strict=True):
            sparsity = series.trials["noise_sparsity"]
            shifted = series.trials.assign(x=sparsity * offset, seed_x=sparsity * offset**2.5)
            draw_error(axes, series, shifted, "test_error")
        axes.set(xscale="log", xlabel="noise sparsity $s$", title=f"$B$ = {batch_size}")
        number_axis(axes, own, "noise_sparsity")
    row[0].set_ylabel("test error")
    draw_legend(figure, trials, lines)
    draw_caption(figure, trials, ["optimizer", "noise_sparsity", "batch_size"], "error bars: mean ± std over {seeds}")
    return figure


@figure(errors=KINDS)
def error_vs_betas(given: FigureInput) -> Figure | None:
    """Test error against batch size (as the paper's figures 9 and 10), one panel for each pair of betas."""
    trials = given.trials.dropna(subset=["beta1", "beta2"])  # the other optimizers have no moments
    if trials.empty:
        return None
    pairs = list(trials.groupby(["beta1", "beta2"]))
    num_columns = min(3, max(1, len(pairs)))
    num_rows = max(1, math.ceil(len(pairs) / num_columns))
    figure = Figure(figsize=(max(6.4, 3.3 * num_columns), 1.2 + 2.4 * num_rows))
    panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (pair, cell) in zip(panels, pairs, strict=False):
        for series in series_of(cell, ("optimizer", "batch_size"), ("weight_decay",), given.chosen):
            sizes = series.trials["batch_size"]
            draw_error(axes, series, series.trials.assign(x=sizes, seed_x=sizes), "test_error")
        axes.set(xscale="log", title=rf"$\beta$ = {pair}", xlabel="batch size $B$")
        number_axis(axes, trials, "batch_size")
        axes.label_outer()
    for axes in panels[len(pairs) :]:
        axes.remove()
    figure.supylabel(f"{given.error.label}test error")
    lines = series_of(trials, ("optimizer", "batch_size", "beta1", "beta2"), ("weight_decay",), given.chosen)
    draw_legend(figure, trials, lines)
    keys = ["optimizer", "weight_decay", "batch_size", "beta1", "beta2"]
    draw_caption(figure, trials, keys, "error bars: mean ± std over {seeds}")
    return figure


def _beside_each_other(lines: Sequence[Series]) -> npt.NDArray[np.float64]:
    """A factor for each line on a logarithmic axis, so that no mark hides another."""
    return np.asarray(2.0 ** (np.linspace(-0.06, 0.06, len(lines)) if len(lines) > 1 else np.zeros(len(lines))))
