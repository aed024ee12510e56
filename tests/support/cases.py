"""Cases of parametrized tests: some for every run, the others for `-m slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def rest_slow(values: Iterable[Any], quick: int = 1) -> list[Any]:
    """The values, or tuples of values, those after the first `quick` marked as slow."""
    cases = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*case, marks=() if at < quick else pytest.mark.slow) for at, case in enumerate(cases)]
