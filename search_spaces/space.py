"""Values that a search may try: grids on a logarithmic axis, each number with one name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

SIGNIFICANT_DIGITS = 6


def round_significant(value: float, digits: int = SIGNIFICANT_DIGITS) -> float:
    """The nearest number with that many significant digits.

    The one place where grid and search values are rounded: a value that two grids compute differently, 1e-5 and
    10 ** -5.0 say, would otherwise name two trials.
    """
    return float(f"{value:.{digits - 1}e}")


def decades(low: float, high: float, per_decade: int = 1) -> tuple[float, ...]:
    """Logarithmic grid from `low` to `high`, both included, with `per_decade` values a decade; rising, rounded."""
    if not (0 < low <= high and per_decade >= 1):
        raise ValueError(f"0 < low <= high and per_decade >= 1 are required, got {low:g}, {high:g}, {per_decade}")
    steps = math.ceil(math.log10(high / low) * per_decade)
    values = [round_significant(low * 10 ** (k / per_decade)) for k in range(steps + 1)]
    last = round_significant(high)
    return (*(value for value in values if value < last), last)


@dataclass(frozen=True, slots=True)
class LogUniform:
    """An axis of positive numbers, searched on a logarithmic scale from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"0 < low < high is required, got {self.low:g}, {self.high:g}")


Space = Mapping[str, LogUniform]
"""Axes by the field that they give values to."""
