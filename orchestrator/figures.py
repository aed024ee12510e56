"""The figures, drawn from the ledger's two tables alone; `draw` writes one as PNG and PDF, byte for byte reproducibly.

`trials` has one row a trial (`TrialResult.trial_row`), `traces` one row a trial and epoch (`TrialResult.trace_rows`).
Means are over trials whose error rate means something (`analysis.is_measured`); the others are drawn as what they are.
"""

from __future__ import annotations

import io
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.analysis import cell_summary, outcome_counts, varying_columns
from orchestrator.errors import UserError, unknown_name
from orchestrator.figure_style import (
    LOOKS,
    STYLE,
    Series,
    decay_axis,
    draw_caption,
    draw_error,
    draw_legend,
    number_axis,
    number_text,
    place_legend,
    series_of,
    shade_unmeasured,
    symbol,
)
from trainables.config import Optimizer
from trainables.result import SATISFYING, TwoLayerCNNTracePoint

FigureFunction = Callable[[pd.DataFrame, pd.DataFrame], Figure]

FIGURES: dict[str, FigureFunction] = {}
"""Figures by name; a function decorated with `_figure` is one."""

PAPER_DECAY_SCALE = 25
"""The paper draws AdamW at lambda / 25 (its figures 2 and 12)."""

_DPI = 200


_FEATURE_COLOUR, _NOISE_COLOUR = "#009E73", "#AA4499"


_DYNAMICS = [f.name for f in fields(TwoLayerCNNTracePoint)]
_LINEAR_UP_TO = 0.1
"""Inner products are drawn linearly up to here, logarithmically beyond."""


def draw(name: str, trials: pd.DataFrame, traces: pd.DataFrame, folder: Path, note: str = "") -> list[Path]:
    """Write the figure as `folder`/name.png and .pdf, each in one rename; raises `UserError` for an unknown name.

    `note` is a line below the caption: what the trials are a selection of, say.
    """
    if name not in FIGURES:
        raise UserError(unknown_name("figure", name, FIGURES))
    return write(FIGURES[name](trials, traces), name, folder, note)


def write(figure: Figure, name: str, folder: Path, note: str = "") -> list[Path]:
    """Write a figure as `folder`/name.png and .pdf, each in one rename; `note` as for `draw`."""
    if note:
        figure.supxlabel(f"{figure.get_supxlabel()}\n{note}", fontsize=8.5, color="0.35")
    folder.mkdir(parents=True, exist_ok=True)
    png = _save(figure, folder / f"{name}.png")
    figure.set_layout_engine("none")  # laid out once: computing it again would double the time
    return [png, _save(figure, folder / f"{name}.pdf")]


def _save(figure: Figure, path: Path) -> Path:
    # No time stamps and no versions: equal data give equal files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    suffix = path.suffix[1:]
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=_DPI, metadata=metadata[suffix])
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _figure(function: FigureFunction) -> FigureFunction:
    """Register a figure under its function's name; it draws settled trials in our style."""

    @wraps(function)
    def styled(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
        # Sums round by their order: rows in another order must not give another file.
        settled = trials[trials["outcome"].isin(SATISFYING)].sort_values("trial_id", ignore_index=True)
        with rc_context(STYLE):
            return function(settled, traces.sort_values(["trial_id", "epoch"], ignore_index=True))

    FIGURES[function.__name__] = styled
    return styled


@_figure
def error_vs_batch_size(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Test and training error against batch size (as the paper's figure 1), one line an optimizer and weight decay."""
    return _error_vs_batch_size(trials)


@_figure
def top5_error_vs_batch_size(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Top-5 errors against batch size (as the paper's figure 11)."""
    return _error_vs_batch_size(_judged_by_top5(trials), "top-5 ")


def _judged_by_top5(trials: pd.DataFrame) -> pd.DataFrame:
    return trials.assign(test_error=trials["test_top5_error"], train_error=trials["train_top5_error"])


def _error_vs_batch_size(trials: pd.DataFrame, kind: str = "") -> Figure:
    figure = Figure(figsize=(6.4, 4.8))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    lines = series_of(trials, ("optimizer", "batch_size"), named=("weight_decay",))
    offsets = 2.0 ** (np.linspace(-0.06, 0.06, len(lines)) if len(lines) > 1 else np.zeros(len(lines)))
    for series, offset in zip(lines, offsets, strict=True):
        sizes = series.trials["batch_size"]  # seeds stand beside their mean, further out
        shifted = series.trials.assign(x=sizes * offset, seed_x=sizes * offset**2.5)
        draw_error(upper, series, shifted, "test_error")
        draw_error(lower, series, shifted, "train_error")
    upper.set(xscale="log", ylabel=f"{kind}test error")
    lower.set(xlabel="batch size $B$", ylabel="training\nerror")
    number_axis(lower, trials, "batch_size")
    draw_legend(figure, trials, lines)
    draw_caption(figure, trials, ["optimizer", "weight_decay", "batch_size"], "error bars: mean ± std")
    return figure


@_figure
def error_vs_weight_decay(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Test error against weight decay (as the paper's figure 2)."""
    return _error_vs_weight_decay(trials)


@_figure
def top5_error_vs_weight_decay(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Top-5 test error against weight decay (as the paper's figure 12)."""
    return _error_vs_weight_decay(_judged_by_top5(trials), "top-5 ")


def _error_vs_weight_decay(trials: pd.DataFrame, kind: str = "") -> Figure:
    """One row of panels for each batch size and number of epochs.

    Columns: lambda as given; AdamW at lambda / 25, the paper's convention; the decay of one step, eta * lambda.
    """
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
        lines = series_of(row, ("optimizer", "weight_decay"))
        for axes, column in zip(panel_row, labels, strict=True):
            decay_axis(axes, trials[column])
            for level, series in enumerate(lines):
                positioned = series.trials.assign(x=series.trials[column], seed_x=series.trials[column])
                draw_error(axes, series, positioned, "test_error")
                shade_unmeasured(axes, series, positioned, level)
        panel_row[0].set_ylabel(f"$B$ = {batch_size}, $T$ = {number_text(num_epochs)}\n{kind}test error")
    for axes, label in zip(panels[-1], labels.values(), strict=True):
        axes.set_xlabel(label)
    draw_legend(figure, trials, series_of(trials, ("optimizer", "weight_decay", "batch_size", "num_epochs")))
    draw_caption(figure, trials, ["optimizer", "weight_decay", "batch_size", "num_epochs"], "error bars: mean ± std")
    return figure


@_figure
def error_vs_sparsity(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Test error against the sparsity s of the noise, one panel a batch size."""
    panels = list(trials.groupby("batch_size"))
    figure = Figure(figsize=(1.5 + 3.1 * max(1, len(panels)), 3.8))
    row = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    lines: list[Series] = []
    for axes, (batch_size, own) in zip(row, panels, strict=False):
        lines = series_of(own, ("optimizer", "noise_sparsity", "noise_std"), named=("weight_decay",))
        offsets = 2.0 ** (np.linspace(-0.06, 0.06, len(lines)) if len(lines) > 1 else np.zeros(len(lines)))
        for series, offset in zip(lines, offsets, strict=True):
            sparsity = series.trials["noise_sparsity"]
            shifted = series.trials.assign(x=sparsity * offset, seed_x=sparsity * offset**2.5)
            draw_error(axes, series, shifted, "test_error")
        axes.set(xscale="log", xlabel="noise sparsity $s$", title=f"$B$ = {batch_size}")
        number_axis(axes, own, "noise_sparsity")
    row[0].set_ylabel("test error")
    draw_legend(figure, trials, lines)
    draw_caption(figure, trials, ["optimizer", "noise_sparsity", "batch_size"], "error bars: mean ± std")
    return figure


@_figure
def error_vs_betas(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Test error against batch size (as the paper's figures 9 and 10), one panel a pair of betas."""
    return _error_vs_betas(trials)


@_figure
def top5_error_vs_betas(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Top-5 test error against batch size, one panel a pair of betas."""
    return _error_vs_betas(_judged_by_top5(trials), "top-5 ")


def _error_vs_betas(trials: pd.DataFrame, kind: str = "") -> Figure:
    pairs = list(trials.groupby(["beta1", "beta2"]))
    num_columns = min(3, max(1, len(pairs)))
    num_rows = max(1, math.ceil(len(pairs) / num_columns))
    figure = Figure(figsize=(max(6.4, 3.3 * num_columns), 1.2 + 2.4 * num_rows))
    panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (pair, cell) in zip(panels, pairs, strict=False):
        for series in series_of(cell, ("optimizer", "batch_size"), named=("weight_decay",)):
            sizes = series.trials["batch_size"]
            draw_error(axes, series, series.trials.assign(x=sizes, seed_x=sizes), "test_error")
        axes.set(xscale="log", title=rf"$\beta$ = {pair}", xlabel="batch size $B$")
        number_axis(axes, trials, "batch_size")
        axes.label_outer()
    for axes in panels[len(pairs) :]:
        axes.remove()
    figure.supylabel(f"{kind}test error")
    lines = series_of(trials, ("optimizer", "batch_size", "beta1", "beta2"), named=("weight_decay",))
    draw_legend(figure, trials, lines)
    keys = ["optimizer", "weight_decay", "batch_size", "beta1", "beta2"]
    draw_caption(figure, trials, keys, "error bars: mean ± std")
    return figure


@_figure
def feature_and_noise(trials: pd.DataFrame, traces: pd.DataFrame) -> Figure:
    """Feature learning and noise memorization over training (as the paper's figures 3-6), one block a cell."""
    if missing := [name for name in _DYNAMICS if name not in traces]:
        raise UserError(f"feature_and_noise draws two_layer_cnn traces; these lack {', '.join(missing)}")
    keys = ["optimizer", "weight_decay", "batch_size"]
    keys += varying_columns(trials, within=keys)
    ordered = trials.sort_values(keys, ascending=[name != "batch_size" for name in keys], kind="stable")
    cells = [cell for _, cell in ordered.groupby(keys, dropna=False, sort=False)]
    num_columns = min(4, max(1, len(cells)))
    num_blocks = max(1, math.ceil(len(cells) / num_columns))
    figure = Figure(figsize=(max(6.4, 3.1 * num_columns), 1.0 + 4.0 * num_blocks))
    panels = figure.subplots(2 * num_blocks, num_columns, height_ratios=(2, 1) * num_blocks, squeeze=False)
    for index in range(num_blocks * num_columns):
        block, column = divmod(index, num_columns)
        upper, lower = panels[2 * block][column], panels[2 * block + 1][column]
        if index >= len(cells):
            upper.remove()
            lower.remove()
            continue
        _draw_dynamics(upper, lower, cells[index], traces)
        _title_cell(upper, keys, cells[index])
        if column == 0:
            upper.set_ylabel(f"inner product (log above {_LINEAR_UP_TO})")
            lower.set_ylabel("loss, error")
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    place_legend(figure, [line for label, line in handles.items() if not str(label).startswith("_")])
    draw_caption(figure, trials, keys, "lines and bands: mean and range")
    return figure


def _draw_dynamics(upper: Axes, lower: Axes, trials: pd.DataFrame, traces: pd.DataFrame) -> None:
    """One cell's traces: products above, loss and errors below."""
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
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(0, max(1, own["epoch"].max()) if len(own) else 1)
        axes.xaxis.set_minor_locator(ticker.NullLocator())


def _product_axis(axes: Axes) -> None:
    """Linear up to 0.1 and logarithmic beyond: shows the small feature's flip beside the large noise."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    low, high = np.nanmin(values), np.nanmax(values)  # the zero line is among them
    if max(-low, high) > _LINEAR_UP_TO:
        axes.set_yscale("symlog", linthresh=_LINEAR_UP_TO)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"${value:g}$"))
        axes.set_ylim(1.5 * low - 0.01, 1.5 * high)


def _draw_band(axes: Axes, traces: pd.DataFrame, quantity: str, label: str, **line: Any) -> None:
    """Mean and full range over seeds: where seeds part ways, a std would suggest values that none of them takes."""
    values = traces[quantity].astype(float).where(np.isfinite).groupby(traces["epoch"])
    mean = values.mean()
    axes.plot(mean.index, mean, label=label, linewidth=1.5, **line)
    axes.fill_between(mean.index, values.min(), values.max(), color=line["color"], alpha=0.18, linewidth=0)


def _is_large_batch(trials: pd.DataFrame) -> bool:
    """Whether an epoch has at most two batches: there the paper takes the least memorized sample, else the most."""
    return bool((2 * trials["batch_size"] >= trials["num_train"]).all())


def _title_cell(axes: Axes, keys: Sequence[str], cell: pd.DataFrame) -> None:
    look = LOOKS[Optimizer(cell["optimizer"].iloc[0])]
    values = [f"{symbol(key)} = {number_text(cell[key].iloc[0])}" for key in keys[1:]]
    over = "min" if _is_large_batch(cell) else "max"
    outcomes = outcome_counts(cell_summary(cell, ["optimizer"]).iloc[0])
    axes.set_title(f"{', '.join([look.name, *values])}\n", color=look.colour)
    subtitle = f"{outcomes}; noise: {over} over samples"
    axes.text(0.5, 1.03, subtitle, transform=axes.transAxes, ha="center", fontsize=8.5, color="0.25")
