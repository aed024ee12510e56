"""Values that a search may try: grids on a logarithmic axis, each number with one name."""

from __future__ import annotations

import math

SIGNIFICANT_DIGITS = 6


def round_significant(value: float, digits: int = SIGNIFICANT_DIGITS) -> float:
    """The nearest number with that many significant digits.

    The one place where grid and search values are rounded: a value that two grids compute differently, 1e-5 and
    10 ** -5.0 say, would otherwise name two trials.
    """
    return float(f"{value:.{digits - 1}e}")


def decades(low: float, high: float, per_decade: int = 1) -> tuple[float, ...]:
    """Logarithmic grid from `low` to `high`, both included, with `per_decade` values a decade."""
    if not 0 < low <= high:
        raise ValueError(f"0 < low <= high is required, got {low:g}, {high:g}")
    steps = round(math.log10(high / low) * per_decade)
    return tuple(round_significant(low * 10 ** (k / per_decade)) for k in range(steps + 1))
