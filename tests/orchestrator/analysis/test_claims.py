"""Verdicts, their evidence and intervals: exact properties by enumeration, edge cases of tables, a small simulation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.claims import CLAIM_STATISTICS, ClaimRule, cell_claims, seeds_to_add, works
from orchestrator.analysis.evidence import (
    Verdict,
    bounded_mean_interval,
    decide,
    e_bh,
    fewest_seeds,
    log_e_above_half,
    log_e_values,
    proportion_interval,
)
from orchestrator.errors import UserError
from tests.orchestrator.analysis.test_cells import make_result, trials_of
from trainables.result import TrialResult

RULE = ClaimRule()


def cell_results(adam: str, adamw: str, batch_size: int = 2) -> list[TrialResult]:
    """One trial for each letter and seed: l(earned), m(emorized), s(tuck), d(iverged), f(ailed), - for none."""
    names = {"l": "learned", "m": "memorized", "s": "stuck", "d": "diverged", "f": "failed"}
    return [
        make_result(optimizer, decay, batch_size, seed, outcome=names[kind], test_error=0.75 if kind == "m" else 0.0)
        for optimizer, decay, kinds in (("adam", 1e-5, adam), ("adamw", 1e-2, adamw))
        for seed, kind in enumerate(kinds)
        if kind != "-"
    ]


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("n", [0, 3, 12])
def test_evidence_is_a_supermartingale_under_its_null_and_a_martingale_at_one_half(p: float, n: int) -> None:
    for k in range(n + 1):
        now, failed, worked = np.exp([log_e_above_half(*at) for at in ((k, n), (k, n + 1), (k + 1, n + 1))])
        expected = p * worked + (1 - p) * failed
        assert expected <= now * (1 + 1e-12)
        if p == 0.5:
            assert expected == pytest.approx(now)
    assert float(log_e_above_half(0, 0)) == pytest.approx(0)


def test_evidence_grows_with_successes_and_only_one_side_is_above_one() -> None:
    for n in range(1, 60):
        above = log_e_above_half(np.arange(n + 1), n)
        assert np.all(np.diff(above) > 0)
        assert np.all(np.minimum(above, above[::-1]) <= 1e-12)


def test_no_stopping_rule_makes_false_differences_likely() -> None:
    # every sequence of ten pairs with opposite halves, the hardest law: P = 1/2 for both
    reached = 0
    for outcomes in itertools.product((0, 1), repeat=10):
        totals = np.cumsum([[x, 1 - x] for x in outcomes], axis=0)
        log_e = log_e_values(totals, np.arange(1, 11)[:, None].repeat(2, axis=1))
        reached += bool((log_e[:, :2].max(axis=1) >= math.log(2 / 0.05)).any())
    assert 0 < reached / 2**10 <= 0.05


def test_swapping_the_optimizers_swaps_the_claims() -> None:
    num_works, n = np.array([[8, 1], [3, 8], [0, 0]]), np.array([[8, 9], [8, 8], [5, 8]])
    there, back = log_e_values(num_works, n), log_e_values(num_works[:, ::-1], n[:, ::-1])
    np.testing.assert_array_equal(there[:, [1, 0, 2, 3]], back)


def test_e_bh_finds_the_largest_set_and_counts_those_granted_before() -> None:
    log_e = np.log([100.0, 45.0, 30.0, 1.0])
    assert e_bh(log_e, 4, 0.05).tolist() == [True, True, True, False]  # 80 / 3 < 30
    assert e_bh(log_e[2:], 4, 0.05).tolist() == [False, False]
    assert e_bh(log_e[2:], 4, 0.05, granted=2).tolist() == [True, False]
    assert e_bh(log_e[:0], 4, 0.05).tolist() == []


def test_a_difference_needs_its_own_evidence_and_helps_the_others() -> None:
    # twenty cells: many sure agreements do not make a weak difference sure
    n = np.full((20, 2), 8)
    num_works = np.array([[8, 8]] * 19 + [[8, 0]])
    verdicts = decide(log_e_values(num_works, n), 0.05)
    assert set(verdicts[:19]) == {Verdict.BOTH}
    assert verdicts[19] == Verdict.UNDECIDED
    more = decide(log_e_values(np.array([[8, 8]] * 19 + [[11, 0]]), np.array([[8, 8]] * 19 + [[11, 11]])), 0.05)
    assert more[19] == Verdict.ONLY_ADAM


@pytest.mark.parametrize("n", [1, 2, 8, 32])
def test_the_interval_of_a_share_holds_the_share_and_mirrors(n: int) -> None:
    intervals = [proportion_interval(k, n, 0.95) for k in range(n + 1)]
    for k, (low, high) in enumerate(intervals):
        assert 0 <= low <= k / n <= high <= 1
        mirrored = proportion_interval(n - k, n, 0.95)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)
    assert np.all(np.diff([low for low, _ in intervals]) >= -1e-9)
    assert intervals[0][0] == 0
    assert intervals[-1][1] == 1
    assert proportion_interval(0, 0, 0.95) == (0, 1)


def test_the_interval_of_a_mean_holds_it_ignores_the_order_and_knows_the_range() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.uniform(-1, 1, 12), np.ones(10), np.zeros(1), rng.choice([-1.0, 1.0], 8)):
        low, high = bounded_mean_interval(values, 0.95)
        assert -1 <= low <= values.mean() + 1e-9
        assert values.mean() - 1e-9 <= high <= 1
        assert bounded_mean_interval(np.sort(values), 0.95) == (pytest.approx(low), pytest.approx(high))
        assert bounded_mean_interval(-values, 0.95) == (pytest.approx(-high), pytest.approx(-low))
    assert bounded_mean_interval([], 0.95) == (-1, 1)
    with pytest.raises(ValueError, match=r"must lie in \[-1.0, 1.0\]"):
        bounded_mean_interval([1.5], 0.95)


def test_intervals_hold_the_truth_at_all_looks_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([-1.0, 1.0], (400, 20), p=[0.3, 0.7])
    holds = np.ones(400, dtype=bool)
    for n in (5, 10, 20):
        low, high = bounded_mean_interval(values[:, :n], 0.95)
        holds &= (low <= 0.4) & (high >= 0.4)
    assert holds.mean() >= 0.93


def test_verdicts_of_a_small_map(tmp_path: Path) -> None:
    cells = {2: ("l" * 10, "l" * 10), 20: ("m" * 10, "l" * 10), 100: ("l" * 10, "s" * 10), 200: ("d" * 10, "m" * 10)}
    results = [r for batch_size, kinds in cells.items() for r in cell_results(*kinds, batch_size)]
    claims = cell_claims(trials_of(results, tmp_path), ["batch_size", "optimizer"], RULE).set_index("batch_size")
    assert claims.columns.tolist() == list(CLAIM_STATISTICS)
    assert claims["verdict"].tolist() == ["both", "only_adamw", "only_adam", "neither"]
    assert set(claims["reason"]) == {""}
    assert claims.loc[20, ["works_adam", "works_adamw", "num_pairs"]].tolist() == [0, 10, 10]
    assert claims.loc[20, "difference"] == pytest.approx(0.75)
    assert claims.loc[20, "difference_low"] > 0
    assert claims.loc[100, "num_pairs"] == 0  # stuck: its error means nothing
    assert math.isnan(claims.loc[100, "difference"])
    assert seeds_to_add(claims, RULE).tolist() == [0, 0, 0, 0]


def test_five_seeds_cannot_decide_and_it_is_said(tmp_path: Path) -> None:
    claims = cell_claims(trials_of(cell_results("lllll", "sssss"), tmp_path), ["batch_size"], RULE)
    (cell,) = claims.to_dict("records")
    assert cell["verdict"] == Verdict.UNDECIDED
    assert "5 seeds cannot decide at 5%: the strongest possible evidence is e = 22.5 of 40" in cell["reason"]
    assert cell["reason"].endswith(f"takes {fewest_seeds(0.05)} seeds")
    assert seeds_to_add(claims, RULE).tolist() == [3]


def test_missing_halves_and_unended_trials_are_counted_out(tmp_path: Path) -> None:
    results = cell_results("llll", "ll-f") + cell_results("l", "-", 20)
    pair, alone = cell_claims(trials_of(results, tmp_path), ["batch_size"], RULE).to_dict("records")
    counts = {name: pair[name] for name in ("n_adam", "n_adamw", "num_pairs", "num_unsettled", "num_seeds")}
    assert counts == {"n_adam": 4, "n_adamw": 2, "num_pairs": 2, "num_unsettled": 1, "num_seeds": 4}
    assert alone["reason"] == "no trial of adamw has ended"
    assert (alone["p_low_adamw"], alone["p_high_adamw"]) == (0, 1)
    assert alone["e_only_adam"] == pytest.approx(1)


def test_pairs_of_unlike_digests_give_no_difference_but_count_for_each_optimizer(tmp_path: Path) -> None:
    results = [make_result("adam", 1e-5, 2, 0), make_result("adamw", 1e-2, 2, 0, digest="other")]
    (cell,) = cell_claims(trials_of(results, tmp_path), ["batch_size"], RULE).to_dict("records")
    assert (cell["num_pairs"], cell["n_adam"], cell["n_adamw"]) == (0, 1, 1)
    assert (cell["difference_low"], cell["difference_high"]) == (-1, 1)
    assert "1 seed cannot decide" in cell["reason"]


def test_no_trials_give_no_rows_and_doubles_are_refused(tmp_path: Path) -> None:
    trials = trials_of(cell_results("l", "l"), tmp_path)
    empty = cell_claims(trials.iloc[:0], ["batch_size"], RULE)
    assert empty.columns.tolist() == ["batch_size", *CLAIM_STATISTICS]
    assert seeds_to_add(empty, RULE).empty
    with pytest.raises(UserError, match="one adam trial"):
        cell_claims(pd.concat([trials, trials]), ["batch_size"], RULE)


def test_thresholds_include_their_value_and_stuck_or_diverged_never_works(tmp_path: Path) -> None:
    results = [
        make_result("adam", 1e-5, 2, 0, train_error=0.125, test_error=0.25),
        make_result("adam", 1e-5, 2, 1, train_error=0.126, test_error=0.25, outcome="underfit"),
        make_result("adam", 1e-5, 2, 2, test_error=0.26),
        *(make_result("adam", 1e-5, 2, seed, outcome=o) for seed, o in enumerate(("stuck", "diverged", "pruned"), 3)),
    ]
    trials = trials_of(results, tmp_path).sort_values("seed")
    rule = ClaimRule(max_train_error=0.125, max_test_error=0.25)
    assert works(trials, rule).tolist() == [True, False, False, False, False, False]


def test_a_trial_that_fits_nothing_does_not_work_however_right_its_signs_are(tmp_path: Path) -> None:
    results = [make_result("adamw", 1e-2, 2, seed) for seed in range(3)]
    losses = [share * math.log(2) for share in (0.95, 0.951, 0.999)]
    results = [
        replace(result, trace=(*result.trace[:-1], replace(result.trace[-1], train_loss=loss)))
        for result, loss in zip(results, losses, strict=True)
    ]
    trials = trials_of(results, tmp_path).sort_values("seed")
    assert works(trials, RULE).tolist() == [True, False, False]
    assert works(trials, ClaimRule(max_loss_share=1.0)).tolist() == [True, True, True]
    of_ten_classes = trials.assign(num_classes=10)
    assert works(of_ten_classes, ClaimRule(max_loss_share=0.29)).tolist() == [True, True, False]


def test_seeds_grow_by_half_up_to_the_most_and_only_where_they_can_decide(tmp_path: Path) -> None:
    rule = ClaimRule(max_seeds=20)
    kinds = {2: "l" * 7 + "m", 20: "lm" * 5, 100: "lm" * 9, 200: "l" * 14 + "m" * 5}
    results = [
        r for batch_size, letters in kinds.items() for r in cell_results(letters, "l" * len(letters), batch_size)
    ]
    claims = cell_claims(trials_of(results, tmp_path), ["batch_size"], rule)
    assert set(claims["verdict"]) == {Verdict.UNDECIDED}
    assert seeds_to_add(claims, rule).tolist() == [4, 0, 0, 0]
    assert claims["reason"][0].startswith("the strongest evidence is e = ")
    assert claims["reason"][2] == (
        "seeds disagree (adam works for 9 of 18, adamw works for 18 of 18): no further ones up to 20 could decide"
    )


def test_verdicts_stay_while_only_undecided_cells_get_seeds() -> None:
    rng = np.random.default_rng(0)
    p = rng.choice([0.02, 0.5, 0.95], (60, 2))
    n, num_works = np.zeros((60, 2), dtype=np.int64), np.zeros((60, 2), dtype=np.int64)
    before = np.full(60, Verdict.UNDECIDED, dtype=object)
    for _ in range(20):
        more = np.where(before == Verdict.UNDECIDED, 2, 0)[:, None]
        num_works, n = num_works + rng.binomial(more, p), n + more
        after = decide(log_e_values(num_works, n), 0.05)
        assert np.all((after == before) | (before == Verdict.UNDECIDED))
        before = after
    assert (before != Verdict.UNDECIDED).sum() > 20


@pytest.mark.parametrize(
    "field", [{"alpha": 0.0}, {"confidence": 1.0}, {"max_test_error": 2.0}, {"min_seeds": 40}, {"max_loss_share": 0.0}]
)
def test_a_rule_that_makes_no_sense_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(UserError):
        ClaimRule(**field)  # type: ignore[arg-type]
