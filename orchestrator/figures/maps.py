"""Draws figures of maps from the ledger's rows and the sweep alone: phase diagrams and scaling laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from scipy.special import ndtr  # type: ignore[import-untyped]

from orchestrator.analysis.claims import cell_claims, judged
from orchestrator.analysis.evidence import Verdict
from orchestrator.analysis.scaling import fit_scaling, theory_exponent
from orchestrator.figures.axes import number_axis
from orchestrator.figures.legend import draw_caption, place_legend
from orchestrator.figures.registry import FigureInput, figure
from orchestrator.figures.style import look_of, symbol
from orchestrator.sweeps.map_trials import claim_ids, claim_keys, map_of
from orchestrator.sweeps.value import Sweep
from search_spaces.level_set.model import LevelSetModel, fit
from trainables.config import Optimizer

_DECAY = "weight_decay"
_CAPTION = "every dot a trial (filled: works); {seeds} at each point"
_CELLS = 80
"""Places along each axis at which the model is evaluated."""
_SURE = 0.975
"""A place whose posterior probability of lying on its side exceeds this is outside the boundary's 95% band."""

_VERDICT_COLOURS = {
    Verdict.BOTH: "#009E73",
    Verdict.ONLY_ADAM: look_of(Optimizer.ADAM).colour,
    Verdict.ONLY_ADAMW: look_of(Optimizer.ADAMW).colour,
    Verdict.NEITHER: "0.45",
    Verdict.UNDECIDED: "white",
}


def _no_plane(sweep: Sweep) -> str | None:
    fields = map_of(sweep).fields
    if _DECAY in fields and len(fields) > 1:
        return None
    return f"phase_diagram shows {_DECAY} against another field, and the space of {sweep.name} has {', '.join(fields)}"


def _no_scaling(sweep: Sweep) -> str | None:
    if map_of(sweep).scaling is not None:
        return None
    return f"scaling shows the field that MapSearch(scaling=...) names, and the search of {sweep.name} does not"


@figure(of_maps=True, rule=_no_plane)
def phase_diagram(given: FigureInput) -> Figure | None:
    """P(works) of each optimizer over lambda and the map's other field, its boundary with a 95% band, and verdicts."""
    trials, sweep = _judged(given), given.sweep
    if trials.empty:
        return None
    fields = map_of(sweep).fields
    other = next(name for name in fields if name != _DECAY)
    optimizers = [optimizer for optimizer in Optimizer if (trials["optimizer"] == optimizer).any()]
    figure = Figure(figsize=(4.4 * (len(optimizers) + 1), 4.4))
    panels = figure.subplots(1, len(optimizers) + 1, sharey=True, squeeze=False)[0]
    for axes, optimizer in zip(panels, optimizers, strict=False):
        own = trials[trials["optimizer"] == optimizer]
        _draw_region(axes, own, other, optimizer)
        _draw_theory(axes, own, other, optimizer)
        _draw_trials(axes, own, other, optimizer)
        look = look_of(optimizer)
        axes.set_title(look.name, color=look.colour)
    _draw_verdicts(panels[-1], trials, sweep, other)
    for axes in panels:
        axes.set(xscale="log", yscale="log", xlabel=r"weight decay $\lambda$")
        _add_step_axis(axes, trials)
    if other == "batch_size":
        number_axis(panels[0], trials, other, on="y")
    panels[0].set_ylabel(symbol(other))
    _place_legend(figure)
    draw_caption(figure, trials, [*fields, "optimizer"], _CAPTION)
    return figure


@figure(of_maps=True, fields=("activation_power",), rule=_no_scaling)
def scaling(given: FigureInput) -> Figure | None:
    """The largest lambda against the field that the map scales, one panel for each power q: trials, law, theory."""
    trials = _judged(given)
    if trials.empty:
        return None
    name = map_of(given.sweep).scaling
    assert name is not None
    powers = sorted(trials["activation_power"].unique())
    figure = Figure(figsize=(5.0 * len(powers), 4.8))
    panels = figure.subplots(1, len(powers), sharey=True, squeeze=False)[0]
    for axes, q in zip(panels, powers, strict=True):
        texts = []
        for optimizer in Optimizer:
            own = trials[(trials["activation_power"] == q) & (trials["optimizer"] == optimizer)]
            if not own.empty:
                _draw_trials(axes, own, name, optimizer, decay_on="y")
                texts.append(_draw_law(axes, own, name, int(q), optimizer))
        axes.set(xscale="log", yscale="log", xlabel=symbol(name))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_title("\n".join([f"$q$ = {q}", *texts]), fontsize=9)
    panels[0].set_ylabel(r"weight decay $\lambda$")
    looks = map(look_of, (Optimizer.ADAM, Optimizer.ADAMW))
    handles = [Line2D([], [], color=look.colour, label=look.name) for look in looks]
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label="the theory's slope"))
    place_legend(figure, handles)
    draw_caption(figure, trials, [name, _DECAY, "optimizer"], _CAPTION)
    return figure


def _judged(given: FigureInput) -> pd.DataFrame:
    """The ended trials, with a column `works`; without those of zero decay, which a logarithmic axis cannot show."""
    return judged(given.trials[given.trials[_DECAY] > 0], map_of(given.sweep).rule)


def _region(trials: pd.DataFrame, other: str) -> tuple[LevelSetModel, npt.NDArray[Any], npt.NDArray[Any]]:
    """The model of P(works) over the trials' range, and that range's ends in log10(lambda), log10(other): two (2,)."""
    places = np.log10(trials[[_DECAY, other]].to_numpy(float))
    low, high = places.min(axis=0), places.max(axis=0)
    shares = (places - low) / np.where(high > low, high - low, 1.0)
    return fit(shares, trials["works"].to_numpy(float), np.ones(len(trials))), low, high


def _draw_region(axes: Axes, trials: pd.DataFrame, other: str, optimizer: Optimizer) -> None:
    model, low, high = _region(trials, other)
    share = np.linspace(0, 1, _CELLS)
    columns, rows = np.meshgrid(share, share)
    mean, std = model.latent(np.column_stack([columns.ravel(), rows.ravel()]))
    decay, height = (10 ** (low[i] + share * (high[i] - low[i])) for i in (0, 1))
    colour = look_of(optimizer).colour
    level, sure = np.reshape(mean, columns.shape), np.reshape(ndtr(mean / std), columns.shape)
    shades: dict[str, Any] = {"cmap": _tint(colour), "vmin": 0, "vmax": 1, "shading": "gouraud", "rasterized": True}
    axes.pcolormesh(decay, height, ndtr(level), zorder=0, **shades)
    axes.contourf(decay, height, sure, levels=[1 - _SURE, _SURE], colors=["0.2"], alpha=0.25, zorder=1)
    if level.min() < 0 < level.max():
        axes.contour(decay, height, level, levels=[0], colors=[colour], linewidths=2, zorder=2)


def _tint(colour: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    light = tuple(1 - 0.45 * (1 - c) for c in to_rgb(colour))
    return LinearSegmentedColormap.from_list("tint", [(1.0, 1.0, 1.0), light])


def _draw_trials(axes: Axes, trials: pd.DataFrame, other: str, optimizer: Optimizer, decay_on: str = "x") -> None:
    look = look_of(optimizer)
    for is_working, own in trials.groupby("works"):
        x, y = (own[_DECAY], own[other]) if decay_on == "x" else (own[other], own[_DECAY])
        face = look.colour if is_working else "white"
        axes.scatter(x, y, s=9, marker=look.marker, facecolors=face, edgecolors=look.colour, linewidths=0.6, zorder=3)


def _draw_theory(axes: Axes, trials: pd.DataFrame, other: str, optimizer: Optimizer) -> None:
    """Draw orders of magnitude of the theory: Adam is stuck beyond sigma_0^(q-2), AdamW works from min(B^2/n, 1) up."""
    if "init_std" not in trials:
        return
    line: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1, "zorder": 2}
    first = trials.iloc[0]
    if optimizer is Optimizer.ADAM and trials["init_std"].nunique() == 1:
        axes.axvline(first["init_std"] ** (first["activation_power"] - 2), **line)
    elif optimizer is Optimizer.ADAMW and other == "batch_size":
        sizes = np.geomspace(trials[other].min(), trials[other].max(), _CELLS)
        axes.plot(np.minimum(sizes**2 / first["num_train"], 1.0), sizes, **line)


def _draw_verdicts(axes: Axes, trials: pd.DataFrame, sweep: Sweep, other: str) -> None:
    """Draw each judged cell in its verdict's colour, undecided ones hatched."""
    search = map_of(sweep)
    axes.set_title("verdicts at equal $\\lambda$")
    if not any(map(search.is_claim, sweep.cells())):
        return
    claimed = trials[trials["trial_id"].isin(claim_ids(sweep))]
    if claimed.empty:
        return
    claims = cell_claims(claimed, claim_keys(sweep), search.rule)
    lefts, bottoms = _cell_edges(claims[_DECAY]), _cell_edges(claims[other])
    for _, cell in claims.iterrows():
        (left, right), (bottom, top) = lefts[cell[_DECAY]], bottoms[cell[other]]
        verdict = Verdict(cell["verdict"])
        hatch = "////" if verdict is Verdict.UNDECIDED else None
        axes.add_patch(
            Rectangle(
                (left, bottom),
                right - left,
                top - bottom,
                facecolor=_VERDICT_COLOURS[verdict],
                edgecolor="0.6",
                hatch=hatch,
                linewidth=0.5,
                alpha=0.85,
            )
        )
    axes.set_xlim(min(low for low, _ in lefts.values()), max(high for _, high in lefts.values()))


def _cell_edges(values: pd.Series[float]) -> dict[float, tuple[float, float]]:
    """Ends of each value's cell, half-way to its neighbours on a logarithmic axis."""
    places = np.log10(np.sort(values.unique().astype(float)))
    gaps = np.diff(places) if len(places) > 1 else np.array([0.6])
    low = np.concatenate([[places[0] - gaps[0] / 2], places[:-1] + gaps / 2])[: len(places)]
    high = np.concatenate([places[:-1] + gaps / 2, [places[-1] + gaps[-1] / 2]])[-len(places) :]
    return {value: (10**a, 10**b) for value, a, b in zip(np.sort(values.unique()), low, high, strict=True)}


def _add_step_axis(axes: Axes, trials: pd.DataFrame) -> None:
    """Add an axis of the decay of one step, eta * lambda, above the panel if all trials share eta."""
    if trials["learning_rate"].nunique() == 1:
        eta = float(trials["learning_rate"].iloc[0])
        scale: tuple[Any, Any] = (lambda x: x * eta, lambda x: x / eta)
        above = axes.secondary_xaxis("top", functions=scale)
        above.set_xlabel(r"$\eta\lambda$", fontsize=8)
        above.tick_params(labelsize=7)


def _place_legend(figure: Figure) -> None:
    patches = [
        Patch(
            facecolor=colour,
            edgecolor="0.6",
            hatch="////" if verdict is Verdict.UNDECIDED else None,
            label=verdict.value.replace("_", " "),
        )
        for verdict, colour in _VERDICT_COLOURS.items()
    ]
    band = Patch(facecolor="0.2", alpha=0.25, label="95% band of P(works) = 1/2")
    place_legend(figure, [*patches, band])


def _draw_law(axes: Axes, trials: pd.DataFrame, name: str, q: int, optimizer: Optimizer) -> str:
    """Draw one optimizer's law with its band, and the theory's slope through its middle; the exponent as text."""
    look, theory = look_of(optimizer), theory_exponent(optimizer, q)
    law = fit_scaling(trials[name], trials[_DECAY], trials["works"])
    if law.num_x < 2:
        return f"{look.name}: $k$ needs trials at two values of {symbol(name)}"
    x = np.geomspace(trials[name].min(), trials[name].max(), _CELLS)
    threshold, k = law.threshold(x), law.exponent()
    axes.plot(x, 10**threshold.value, color=look.colour, linewidth=2, zorder=4)
    axes.fill_between(x, 10**threshold.low, 10**threshold.high, color=look.colour, alpha=0.25, linewidth=0)
    middle = _CELLS // 2
    axes.plot(x, 10 ** threshold.value[middle] * (x / x[middle]) ** theory, color="black", linestyle="--", linewidth=1)
    return f"{look.name}: $k$ = {k.value:.2f} [{k.low:.2f}, {k.high:.2f}], theory {theory}"
