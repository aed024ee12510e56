"""Sets up the axes of figures: ticks at the values that were trained, and a logarithmic axis with 0 on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from orchestrator.figures.style import power_text

_TEXT_INCHES = 0.09
"""About the width of a digit, with some room."""


def number_axis(axes: Axes, trials: pd.DataFrame, name: str, on: str = "x") -> None:
    """Put ticks at the values that were trained, labelled where there is room; the axis has its scale already."""
    ticks = sorted(trials[name].unique())
    axis = axes.xaxis if on == "x" else axes.yaxis
    if len(ticks) == 1:  # else the marks side by side at the one value would fill the panel
        (axes.set_xlim if on == "x" else axes.set_ylim)(ticks[0] / 2, ticks[0] * 2)
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FixedFormatter(_where_there_is_room(axes, axis, ticks, is_x=on == "x")))
    axis.set_minor_locator(ticker.NullLocator())


def _where_there_is_room(axes: Axes, axis: Axis, ticks: Sequence[float], *, is_x: bool) -> list[str]:
    """The labels of ticks, empty where the label of the next larger tick is too near."""
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


def decay_axis(axes: Axes, values: pd.Series[float]) -> None:
    """Make the x axis logarithmic and show 0 on it, one step left of the smallest positive value."""
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
