"""Defines the values that a sweep may try: logarithmic grids and axes, rounded so that one number names one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SIGNIFICANT_DIGITS = 6


def round_significant(value: float, digits: int = SIGNIFICANT_DIGITS) -> float:
    """The nearest number with that many significant digits.

    All values of grids and searches are rounded here. Otherwise a value that two grids compute differently, such as
    1e-5 and 10 ** -5.0, would name two trials.
    """
    return float(f"{value:.{digits - 1}e}")


def decades(low: float, high: float, per_decade: int = 1) -> tuple[float, ...]:
    """Return a logarithmic grid from `low` to `high`, both ends included.

    Args:
        low: The first value, positive.
        high: The last value, at least `low`.
        per_decade: Values in each factor of ten.

    Returns:
        The values, rising, each rounded to six significant digits so that one number names one trial.

    Raises:
        ValueError: `low` or `per_decade` is not positive, or `high` is below `low`.

    Example:
        >>> from search_spaces import decades
        >>> decades(1e-5, 1e-2)
        (1e-05, 0.0001, 0.001, 0.01)
        >>> decades(1, 20, per_decade=2)
        (1.0, 3.16228, 10.0, 20.0)
    """
    if not (0 < low <= high and per_decade >= 1):
        raise ValueError(f"0 < low <= high and per_decade >= 1 are required, got {low:g}, {high:g}, {per_decade}")
    steps = math.ceil(math.log10(high / low) * per_decade)
    values = [round_significant(low * 10 ** (k / per_decade)) for k in range(steps + 1)]
    last = round_significant(high)
    return (*(value for value in values if value < last), last)


class Axis(Protocol):
    """The values that one field may have, as shares of the axis and as an Optuna distribution."""

    def at(self, share: float) -> Any:
        """The value at a share of the axis, from 0 to 1; turns quasi-random points into values."""
        ...

    def nearest(self, value: Any) -> Any:
        """The value of this axis nearest to a sampler's value; raises `ValueError` if no value corresponds to it."""
        ...

    def within(self, values: tuple[Any, ...]) -> Axis:
        """An axis of the same kind with only these rising values, or with their range."""
        ...

    def distribution(self) -> BaseDistribution:
        """The Optuna distribution that contains every value of the axis."""
        ...


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A search tries positive numbers from `low` to `high`, evenly on a logarithmic scale.

    Args:
        low: The smallest value, positive.
        high: The largest value, above `low`.

    Raises:
        ValueError: `low` is not positive, or `high` is not above it.

    Example:
        >>> from search_spaces import LogUniform
        >>> axis = LogUniform(1e-4, 1e2)
        >>> axis.at(0.5)
        0.1
        >>> axis.nearest(1000)
        100.0
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"0 < low < high is required, got {self.low:g}, {self.high:g}")

    def at(self, share: float) -> float:
        """The value at a share of the axis, rounded."""
        return self.nearest(self.low * (self.high / self.low) ** share)

    def nearest(self, value: float) -> float:
        """The value, rounded and limited to the axis."""
        return min(max(round_significant(float(value)), self.low), self.high)

    def within(self, values: tuple[float, ...]) -> LogUniform:
        """The range of these values."""
        return LogUniform(values[0], values[-1])

    def distribution(self) -> BaseDistribution:
        """A float on a logarithmic scale."""
        from optuna.distributions import FloatDistribution  # planning loads no Optuna

        return FloatDistribution(self.low, self.high, log=True)

    def __str__(self) -> str:
        return f"in [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class LogIntegers:
    """A search tries some positive integers, such as batch sizes, and measures their distance by ratio.

    Args:
        values: Two or more positive integers, rising. The axis gives each an equal share.

    Raises:
        ValueError: There are fewer than two values, one is not positive, or they do not rise.

    Example:
        >>> from search_spaces import LogIntegers
        >>> sizes = LogIntegers((2, 20, 200))
        >>> sizes.at(0.5)
        20
        >>> sizes.nearest(64)
        200
    """

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or self.values[0] < 1 or any(b <= a for a, b in pairwise(self.values)):
            raise ValueError(f"two or more rising positive integers are required, got {self.values}")

    def at(self, share: float) -> int:
        """The value at a share of the axis; each has an equal share."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def nearest(self, value: float) -> int:
        """The value at the smallest ratio; of two at the same ratio, the smaller one."""
        return min(self.values, key=lambda known: abs(math.log(known / value)))

    def within(self, values: tuple[int, ...]) -> LogIntegers:
        """These values."""
        return LogIntegers(values)

    def distribution(self) -> BaseDistribution:
        """An integer on a logarithmic scale."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.values[0], self.values[-1], log=True)

    def __str__(self) -> str:
        return f"of {', '.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A search tries values that have no order, such as names.

    Args:
        values: One or more different values. The axis gives each an equal share.

    Raises:
        ValueError: There are no values, or two are equal.

    Example:
        >>> from search_spaces import Choice
        >>> precisions = Choice(("float32", "float64"))
        >>> precisions.at(0.9)
        'float64'
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"one or more different values are required, got {self.values}")

    def at(self, share: float) -> Any:
        """The value at a share of the axis; each has an equal share."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def nearest(self, value: Any) -> Any:
        """The value itself; raises `ValueError` if it is not one of the choices."""
        if value not in self.values:
            raise ValueError(f"{value!r} is not one of {self.values}")
        return value

    def within(self, values: tuple[Any, ...]) -> Choice:
        """These values."""
        return Choice(values)

    def distribution(self) -> BaseDistribution:
        """A categorical distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def __str__(self) -> str:
        return f"of {', '.join(map(str, self.values))}"


Space = Mapping[str, LogUniform]
"""Axes by field name, all of them logarithmic."""

MixedSpace = Mapping[str, Axis]
"""Axes of any kind by field name. If axes depend on the optimizer, each optimizer has its own space."""
