"""Fits of a scaling law: symmetries, separable and one-sided results, refusals, a small simulation of coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from orchestrator.analysis.scaling import MIN_EFFECTIVE, fit_scaling, fit_threshold
from orchestrator.errors import UserError


def draws(k: float, width: float, num_draws: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x in [0.1, 10], lambda over five decades, and results of lambda_max = 1e-4 x^k."""
    rng = np.random.default_rng(seed)
    log_x, log_decay = rng.uniform(-1, 1, num_draws), rng.uniform(-6.5, -1.5, num_draws)
    works = rng.random(num_draws) < special.ndtr((-4 + k * log_x - log_decay) / width)
    return 10**log_x, 10**log_decay, works


@pytest.mark.parametrize("k", [1.0, 2.0])
@pytest.mark.parametrize("width", [1e-6, 0.3])
def test_the_law_is_found_also_where_a_threshold_separates_the_draws(k: float, width: float) -> None:
    fit = fit_scaling(*draws(k, width, 300, 0))
    exponent, band = fit.exponent(), fit.threshold([0.1, 1.0, 10.0])
    assert exponent.low <= k <= exponent.high
    assert exponent.high - exponent.low < 0.5
    np.testing.assert_allclose(band.value, [-4 - k, -4, -4 + k], atol=0.25)
    assert np.all((band.low < band.value) & (band.value < band.high))
    assert fit.num_effective >= MIN_EFFECTIVE


def test_a_fit_is_deterministic_and_ignores_the_order_of_draws() -> None:
    x, decay, works = draws(1, 0.1, 40, 1)
    first, again = fit_scaling(x, decay, works).exponent(), fit_scaling(x, decay, works).exponent()
    assert first == again
    assert fit_scaling(x[::-1], decay[::-1], works[::-1]).exponent().value == pytest.approx(first.value, abs=0.02)


def test_units_do_not_matter() -> None:
    x, decay, works = draws(1, 0.1, 60, 2)
    fit, scaled = fit_scaling(x, decay, works), fit_scaling(100 * x, 1000 * decay, works)
    assert scaled.exponent().value == pytest.approx(fit.exponent().value, abs=1e-6)
    assert scaled.threshold(100.0).value == pytest.approx(fit.threshold(1.0).value + 3, abs=1e-6)


def test_a_single_x_has_a_threshold_and_no_exponent() -> None:
    fit = fit_threshold([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1] * 4, [True, True, True, False, False, False] * 4)
    band = fit.threshold(1.0)
    assert band.low < band.value < band.high
    assert band.value == pytest.approx(-3.5, abs=0.1)  # half-way between the last that works and the first that fails
    assert band.high - band.low < 1.2
    with pytest.raises(UserError, match="two or more values of x"):
        fit.exponent()


@pytest.mark.parametrize("works", [True, False])
def test_draws_that_all_agree_leave_one_end_open(works: bool) -> None:
    band = fit_threshold(np.logspace(-5, -2, 20), np.full(20, works)).threshold(1.0)
    assert band.high - band.low > 2
    assert (band.value > -2) if works else (band.value < -5)


def test_a_lower_end_is_the_upper_end_of_not_working() -> None:
    x, decay, works_below = draws(2, 0.1, 80, 3)
    works_above = ~works_below  # an optimizer that needs at least that much decay
    assert fit_scaling(x, decay, ~works_above).exponent().value == pytest.approx(2, abs=0.3)
    taken_wrongly = fit_scaling(x, decay, works_above).exponent()
    assert taken_wrongly.high - taken_wrongly.low > 2, "no amount of lapses turns a law upside down"


@pytest.mark.parametrize(
    ("x", "decay", "works", "message"),
    [([], [], [], "at least one"), ([1.0], [1e-3, 1e-2], [True], "one x"), ([1.0], [0.0], [True], "weight decay must")],
)
def test_draws_without_a_logarithm_or_of_unequal_number_are_refused(
    x: list[float], decay: list[float], works: list[bool], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit_scaling(x, decay, works)


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    fits = [fit_scaling(*draws(1, 0.15, 30, seed)).exponent() for seed in range(120)]
    assert np.mean([fit.low <= 1 <= fit.high for fit in fits]) >= 0.9


def test_an_edge_with_two_explanations_has_a_band_all_the_same() -> None:
    """Either two results are mislabelled, or the transition is wide: two peaks, and no proposal fits both well."""
    log_decay = np.array(
        [-3.881, -3.881, -3.204, -2.817, -2.817, -2.632, -2.173, -1.497, -0.997, -0.812, -0.812, -0.511]
        + [-0.449] * 4
        + [-0.448] * 6
        + [-0.442, -0.442, -0.376, -0.169, -0.162, -0.151, -0.151, -0.139, -0.128, -0.128, -0.126, -0.123, -0.113]
        + [-0.113, -0.104, -0.076, -0.076, 0.122, 0.392, 1.082, 1.498, 1.697, 1.697, 2.29, 2.981, 2.981]
    )
    works = np.array([c == "1" for c in "111111111111110111111111111111111010000000000000"])
    fit = fit_threshold(10**log_decay, works)
    assert 100 < fit.num_effective < MIN_EFFECTIVE
    threshold = fit.threshold(1.0)
    assert threshold.low < threshold.value < threshold.high
    assert -0.15 < threshold.value < -0.05
