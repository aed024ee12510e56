"""Numbers as text, as tables show them."""

from __future__ import annotations

import math


def rate_text(value: float) -> str:
    """An error rate with four digits, "-" where it is no number."""
    return f"{value:.4f}" if math.isfinite(value) else "-"


def mean_std(mean: float, std: float) -> str:
    """Mean ± std; the mean alone where there is no std, "-" where there is neither."""
    return f"{rate_text(mean)} ± {rate_text(std)}" if math.isfinite(std) else rate_text(mean)


def value_text(value: object) -> str:
    """A config's value as a table shows it, "-" where it is null or no number."""
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
