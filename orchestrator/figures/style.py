"""Defines how every figure shows optimizers, colours, symbols and numbers."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.colors import to_rgb

from trainables.config import Optimizer
from trainables.errors import ConfigError
from trainables.names import OptimizerTable

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


def our_style() -> AbstractContextManager[None]:
    """A context with matplotlib's defaults and `STYLE`, whatever a user's matplotlibrc or module has set.

    Figures are drawn, laid out and written in it: TeX or fonts that are not installed would end a launch at its end.
    """
    defaults: dict[Any, Any] = dict(rcParamsDefault)
    del defaults["backend"]  # a context does not restore it
    return rc_context(defaults | STYLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How every figure draws an optimizer; those drawn later are smaller, so that equal values stay visible."""

    name: str
    colour: str
    marker: str
    marker_size: float
    line_width: float
    hatch: str | None


# Okabe-Ito colours, safe for colour-blind readers: warm for coupled decay, cold for decoupled.
LOOKS = {
    Optimizer.ADAM: Look(name="Adam", colour="#D55E00", marker="o", marker_size=7.5, line_width=2.4, hatch=None),
    Optimizer.ADAMW: Look(name="AdamW", colour="#0072B2", marker="s", marker_size=4.5, line_width=1.3, hatch="////"),
    Optimizer.SIGNSGD: Look(name="SignSGD", colour="#E69F00", marker="^", marker_size=7.5, line_width=2.4, hatch=None),
    Optimizer.SIGNSGDW: Look(
        name="SignSGDW", colour="#56B4E9", marker="D", marker_size=4.0, line_width=1.3, hatch="////"
    ),
}

_LOOKS = OptimizerTable("look", "its look in figures", LOOKS)


def look_of(optimizer: Optimizer) -> Look:
    """How the optimizer is drawn; raises `ConfigError` if it has no look, or something else in its place."""
    look = _LOOKS.of(optimizer)
    if not isinstance(look, Look):
        raise ConfigError(f"the look of optimizer {str(optimizer)!r} must be a Look, got {look!r}")
    return look


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


def symbol(column: str) -> str:
    """The paper's symbol of a field, or its name in words."""
    return _SYMBOLS.get(column, column.replace("_", " "))


def number_text(value: Any) -> str:
    """A number as a reader writes it: 0.05, 100, or a power of ten; any other value as its text."""
    if not isinstance(value, int | float | np.number):
        return str(value).replace("$", r"\$")  # text of a user's, such as a data set's name, is no formula
    number = float(value)
    if math.isnan(number):
        return "none"  # a field that the optimizer does not read
    return f"{number:g}" if number == 0 or 1e-3 <= abs(number) < 1e4 else power_text(number)


def power_text(value: float) -> str:
    """A number as a multiple of a power of ten, in TeX."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.5e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\times"
    return f"${factor}10^{{{int(exponent)}}}$"


def lighter(colour: Any, share: float) -> tuple[float, float, float]:
    """The colour mixed with white."""
    red, green, blue = (c + (1 - c) * 0.75 * share for c in to_rgb(colour))
    return red, green, blue
