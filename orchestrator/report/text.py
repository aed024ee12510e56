"""Formats numbers and values as tables show them, and opens the console that prints them as they are."""

from __future__ import annotations

import math

from rich.console import Console


def plain_console(width: int | None = None) -> Console:
    """Standard output, where text is never markup: in paths, titles and errors, [b] and :x: are what they say."""
    return Console(width=width, markup=False, emoji=False, highlight=False)


def rate_text(value: float) -> str:
    """An error rate with four digits, "-" where it is not finite."""
    return f"{value:.4f}" if math.isfinite(value) else "-"


def mean_std(mean: float, std: float) -> str:
    """Mean ± std; the mean alone where there is no std, "-" where there is neither."""
    return f"{rate_text(mean)} ± {rate_text(std)}" if math.isfinite(std) else rate_text(mean)


def value_text(value: object) -> str:
    """A value as a plan or a map's table shows it: a float with up to six digits, anything else as Python does."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def result_text(value: object) -> str:
    """A value as a result table shows it: as `value_text`, "-" where it is null or not finite."""
    is_missing = value is None or (isinstance(value, float) and not math.isfinite(value))
    return "-" if is_missing else value_text(value)
