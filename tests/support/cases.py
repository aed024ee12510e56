"""Cases of parametrized tests: some for every run, the others for `-m slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def rest_slow(values: Iterable[Any], quick: int = 1) -> list[Any]:
    """The values, those after the first `quick` marked as slow: they differ in what seldom breaks alone."""
    return [value if at < quick else pytest.param(value, marks=pytest.mark.slow) for at, value in enumerate(values)]
