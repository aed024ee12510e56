"""Grids on a logarithmic axis: each number has one name."""

from __future__ import annotations

import math

import pytest

from search_spaces import paper
from search_spaces.space import decades, round_significant


@pytest.mark.parametrize("value", [10**-5.0, 1e-6 * 10, 1e-4 / 10, math.exp(math.log(1e-5)), 1.00000049e-5])
def test_a_number_computed_in_any_way_has_one_name(value: float) -> None:
    assert round_significant(value) == 1e-5


@pytest.mark.parametrize("value", [0.0, 0.05, 5e-5, -3.0, 123456.0, 1e-300, 1e300])
def test_short_numbers_stay_what_they_are(value: float) -> None:
    assert round_significant(value) == value


def test_digits_count_from_the_first_that_is_not_zero() -> None:
    assert round_significant(0.000123456789) == 0.000123457
    assert round_significant(123456789.0) == 123457000.0
    assert round_significant(0.0128, digits=2) == 0.013


def test_whole_decades_are_exact() -> None:
    assert decades(1e-6, 1e2) == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def test_a_finer_grid_contains_the_coarser_one() -> None:
    assert decades(1e-3, 1e-1, per_decade=2) == (1e-3, 3.16228e-3, 1e-2, 3.16228e-2, 1e-1)
    assert set(decades(1e-6, 1e2)) < set(decades(1e-6, 1e2, per_decade=4))


def test_both_ends_are_in_although_the_last_step_is_shorter() -> None:
    assert decades(1e-3, 5e-2) == (1e-3, 1e-2, 5e-2)
    assert decades(0.3, 0.3) == (0.3,)


@pytest.mark.parametrize(("low", "high", "per_decade"), [(0.0, 1.0, 1), (-1.0, 1.0, 1), (1.0, 0.1, 1), (0.1, 1.0, 0)])
def test_a_grid_that_is_none_is_refused(low: float, high: float, per_decade: int) -> None:
    with pytest.raises(ValueError, match="are required"):
        decades(low, high, per_decade)


def test_the_papers_values() -> None:
    assert paper.SYNTHETIC_WEIGHT_DECAY == {"adam": 1e-5, "adamw": 1e-2}
    assert paper.SYNTHETIC_LARGE_WEIGHT_DECAY == {"adam": 0.05, "adamw": 0.5}
    assert (paper.LARGE_BATCH, paper.MINI_BATCH, paper.SYNTHETIC_NUM_EPOCHS) == (100, 2, 10_000)
