"""Tables from rows of real configs and results: cells, pairs, the printed table and the paper's tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.best import best_cells, only_best
from orchestrator.analysis.cells import cell_summary, mean_interval, varying_columns
from orchestrator.analysis.pairs import paired_difference, seed_pairs
from orchestrator.errors import UserError
from orchestrator.report.cell_tables import best_note, best_table, result_table
from orchestrator.report.paper_tables import paper_comparison, paper_table
from trainables.config import TrialConfig, make_config
from trainables.image_classifier.config import ImageClassifierConfig, ImageTracePoint
from trainables.result import Outcome, Provenance, TracePoint, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint

EPOCHS = (0, 1, 10, 100)


def make_result(
    optimizer: str,
    weight_decay: float,
    batch_size: int,
    seed: int,
    *,
    test_error: float = 0.0,
    train_error: float = 0.0,
    outcome: str = "learned",
    digest: str | None = "d",
    engine: str = "fused-cpu",
    device_name: str = "cpu-a",
    **fields: Any,
) -> TrialResult:
    """The result of a finished trial whose last trace point has the given errors."""
    values = {"optimizer": optimizer, "weight_decay": weight_decay, "batch_size": batch_size, "seed": seed, **fields}
    config = make_config(TwoLayerCNNConfig, values)
    share = np.linspace(0, 1, len(EPOCHS))
    trace = tuple(
        TwoLayerCNNTracePoint(
            epoch=epoch,
            train_loss=math.log(2) * (1 - x),
            train_error=0.5 + x * (train_error - 0.5),
            test_error=0.5 + x * (test_error - 0.5),
            weight_norm=2.0 + x,
            train_error_positive=train_error,
            train_error_negative=train_error,
            test_error_positive=test_error,
            test_error_negative=test_error,
            feature_learning_positive=0.02 + 0.3 * x * (1 - 2 * x) + 0.01 * seed,
            feature_learning_negative=0.02 + 0.2 * x,
            noise_min_positive=0.01 + x,
            noise_min_negative=0.02 + x,
            noise_max_positive=0.03 + 2 * x,
            noise_max_negative=0.04 + 2 * x,
        )
        for epoch, x in zip(EPOCHS, share.tolist(), strict=True)
    )
    return ended(config, Outcome(outcome), trace, provenance_of(engine, device_name), digest)


def ended(
    config: TrialConfig, outcome: Outcome, trace: tuple[TracePoint, ...], provenance: Provenance, digest: str | None
) -> TrialResult:
    return TrialResult(
        config=config,
        outcome=outcome,
        epochs_done=config.num_epochs,
        trace=trace,
        data_digest=digest,
        init_digest=digest,
        order_digest=digest,
        train_seconds=1.0,
        finished_at=0.0,
        provenance=provenance,
    )


def provenance_of(engine: str, device_name: str) -> Provenance:
    return Provenance(
        engine=engine,
        device="cpu",
        device_name=device_name,
        num_threads=1,
        hostname="host",
        code_digest="c",
        git_sha=None,
        git_dirty=None,
        package_version="0.1",
        python_version="3.11",
        numpy_version="2.0",
        numba_version=None,
        torch_version=None,
    )


def tables(results: Sequence[TrialResult], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials of the paper's two tables, as the ledger's readers get them from Parquet files."""
    pd.DataFrame([result.trial_row() for result in results]).to_parquet(folder / "trials.parquet")
    pd.DataFrame([row for result in results for row in result.trace_rows()]).to_parquet(folder / "traces.parquet")
    return pd.read_parquet(folder / "trials.parquet"), pd.read_parquet(folder / "traces.parquet")


def trials_of(results: Sequence[TrialResult], folder: Path) -> pd.DataFrame:
    return tables(results, folder)[0]


def test_a_cell_has_mean_spread_and_outcomes_of_its_seeds(tmp_path: Path) -> None:
    errors = [0.9, 0.8, 0.1]
    results = [
        make_result("adam", 1e-5, 100, seed, test_error=error, outcome="learned" if error < 0.25 else "memorized")
        for seed, error in enumerate(errors)
    ]
    (cell,) = cell_summary(trials_of(results, tmp_path), ["optimizer", "batch_size"]).to_dict("records")
    assert (cell["optimizer"], cell["batch_size"], cell["n"], cell["num_trials"]) == ("adam", 100, 3, 3)
    assert cell["test_error_mean"] == pytest.approx(0.6)
    assert cell["test_error_std"] == pytest.approx(np.std(errors, ddof=1))
    assert (cell["test_error_min"], cell["test_error_max"]) == (pytest.approx(0.1), 0.9)
    assert (cell["memorized"], cell["learned"], cell["stuck"]) == (2, 1, 0)
    # t(0.975, 2) = 4.3027; the upper end is clipped to a rate's range
    assert (cell["test_error_low"], cell["test_error_high"]) == (0.0, 1.0)


@pytest.mark.parametrize("outcome", ["stuck", "diverged", "pruned", "unfinished", "failed"])
def test_trials_whose_error_means_nothing_are_counted_and_not_averaged(outcome: str, tmp_path: Path) -> None:
    results = [make_result("adam", 0.05, 2, seed, test_error=0.25 * seed) for seed in range(3)]
    odd = make_result("adam", 0.05, 2, 3, test_error=1.0, outcome=outcome)
    (cell,) = cell_summary(trials_of([*results, odd], tmp_path), ["batch_size"]).to_dict("records")
    assert (cell["n"], cell["num_trials"], cell[outcome]) == (3, 4, 1)
    assert cell["test_error_mean"] == pytest.approx(0.25)
    assert cell["test_error_max"] == 0.5


def test_non_finite_errors_and_single_seeds_give_nan_and_no_crash(tmp_path: Path) -> None:
    results = [
        make_result("adam", 0.0, 2, 0, test_error=0.25),
        make_result("adam", 0.0, 2, 1, test_error=math.nan),
        make_result("adam", 0.0, 4, 0, test_error=math.inf),
    ]
    cells = cell_summary(trials_of(results, tmp_path), ["batch_size"]).set_index("batch_size")
    assert (cells.loc[2, "n"], cells.loc[2, "test_error_mean"]) == (1, 0.25)
    assert cells.loc[2, ["test_error_std", "test_error_low", "test_error_high"]].isna().all()
    assert cells.loc[4, "n"] == 0
    assert math.isnan(cells.loc[4, "test_error_mean"])
    assert cell_summary(trials_of(results, tmp_path).iloc[:0], ["batch_size"]).empty


def test_the_interval_is_student_t_clipped_to_the_range() -> None:
    low, high = mean_interval(pd.Series([0.4, 0.5, 0.6, math.nan]))
    half_width = 4.302653 * 0.1 / math.sqrt(3)
    assert (low, high) == (pytest.approx(0.5 - half_width), pytest.approx(0.5 + half_width))
    assert mean_interval(pd.Series([0.0, 1.0])) == (0.0, 1.0)
    assert mean_interval(pd.Series([0.25, 0.25])) == (0.25, 0.25)
    assert all(math.isnan(end) for end in mean_interval(pd.Series([0.3])))


@pytest.mark.parametrize(("num_seeds", "spread"), [(5, 0.05), (20, 0.05), (20, 0.25)])
def test_the_interval_covers_the_true_mean_about_as_often_as_it_says(num_seeds: int, spread: float) -> None:
    rng = np.random.default_rng(0)
    true_mean = 0.4
    concentration = true_mean * (1 - true_mean) / spread**2 - 1  # of the beta distribution with that mean and std
    samples = rng.beta(true_mean * concentration, (1 - true_mean) * concentration, (1000, num_seeds))
    intervals = [mean_interval(pd.Series(sample)) for sample in samples]
    coverage = np.mean([low <= true_mean <= high for low, high in intervals])
    assert 0.93 <= coverage <= 0.97


def test_pairs_are_adam_minus_adamw_of_one_seed(tmp_path: Path) -> None:
    adam, adamw = [0.9, 0.7, 0.5], [0.5, 0.5, 0.5]
    results = [make_result("adam", 1e-5, 100, s, test_error=e, outcome="memorized") for s, e in enumerate(adam)]
    results += [make_result("adamw", 1e-2, 100, s, test_error=e, outcome="memorized") for s, e in enumerate(adamw)]
    results += [make_result("adam", 1e-5, 2, 0), make_result("adamw", 1e-2, 2, 1), make_result("signsgd", 0, 2, 1)]
    trials = trials_of(results, tmp_path)
    (cell,) = paired_difference(trials, ["batch_size"]).to_dict("records")  # B = 2 has no pair
    assert (cell["batch_size"], cell["n"], cell["num_unlike"], cell["num_flagged"]) == (100, 3, 0, 0)
    assert cell["difference_mean"] == pytest.approx(0.2)
    assert cell["difference_std"] == pytest.approx(0.2)
    half_width = 4.302653 * 0.2 / math.sqrt(3)
    assert cell["difference_low"] == pytest.approx(0.2 - half_width)
    assert cell["difference_high"] == pytest.approx(0.2 + half_width)
    assert seed_pairs(trials, ["batch_size"])["difference"].tolist() == pytest.approx([0.4, 0.2, 0.0])


def test_pairs_need_equal_digests_and_measured_halves_and_flag_other_machines(tmp_path: Path) -> None:
    adam = [make_result("adam", 1e-5, 100, seed, test_error=0.75) for seed in range(3)]
    adam += [
        make_result("adam", 1e-5, 100, 3, digest=None),
        make_result("adam", 1e-5, 100, 4, digest="other"),
        make_result("adam", 1e-5, 100, 5, outcome="stuck"),
    ]
    adamw = [
        make_result("adamw", 1e-2, 100, 0, test_error=0.25),
        make_result("adamw", 1e-2, 100, 1, test_error=0.25, engine="reference"),
        make_result("adamw", 1e-2, 100, 2, test_error=0.25, device_name="cpu-b"),
        make_result("adamw", 1e-2, 100, 3, digest=None),
        *[make_result("adamw", 1e-2, 100, seed) for seed in (4, 5)],
    ]
    trials = trials_of([*adam, *adamw], tmp_path)
    trials.index = pd.Index([0] * len(trials))  # part files that were concatenated repeat their indices
    pairs = seed_pairs(trials, ["batch_size"]).set_index("seed")
    assert pairs["is_comparable"].tolist() == [True, True, True, False, False, True]
    assert pairs["is_flagged"].tolist() == [False, True, True, False, False, False]
    assert pairs["is_measured"].tolist() == [True, True, True, True, True, False]
    (cell,) = paired_difference(trials, ["batch_size"]).to_dict("records")
    assert (cell["n"], cell["difference_mean"]) == (3, 0.5)
    assert (cell["num_unlike"], cell["num_unmeasured"], cell["num_flagged"]) == (2, 1, 2)


@pytest.mark.parametrize("by", [[], ["optimizer", "seed"], ["batch_size", "batchsize"]])
def test_cells_of_pairs_are_told_apart_by_columns_that_are_there(by: list[str], tmp_path: Path) -> None:
    trials = trials_of([make_result(optimizer, 1e-5, 2, 0) for optimizer in ("adam", "adamw")], tmp_path)
    with pytest.raises(UserError, match="one or more columns of the trials"):
        paired_difference(trials, by)


def test_an_ambiguous_pair_is_refused_with_the_column_that_tells_apart(tmp_path: Path) -> None:
    results = [make_result("adam", decay, 2, 0) for decay in (1e-5, 1e-4)] + [make_result("adamw", 1e-2, 2, 0)]
    with pytest.raises(
        UserError, match=r"one adam trial for each batch_size, seed, got several, which differ in weight_decay"
    ):
        seed_pairs(trials_of(results, tmp_path), ["batch_size"])


def test_varying_columns_ignore_seeds_and_fields_an_optimizer_does_not_read(tmp_path: Path) -> None:
    results = [
        make_result("adam", 1e-5, 2, 0, num_epochs=2000),
        make_result("adam", 1e-5, 100, 1),
        make_result("signsgd", 1e-5, 2, 0, num_epochs=2000),
    ]
    trials = trials_of(results, tmp_path)
    assert varying_columns(trials) == ["optimizer", "batch_size", "num_epochs"]
    assert varying_columns(trials, within=["optimizer", "batch_size"]) == []


def image_trials(folder: Path, *cells: dict[str, Any]) -> pd.DataFrame:
    """One trial of each cell, read from a Parquet file."""
    sizes = {"num_test": 20, "num_classes": 10, "channels": 3, "image_size": 16, "dataset_digest": "d" * 16}
    base = {"optimizer": "adam", "weight_decay": 1e-2, "batch_size": 8, "seed": 0, "num_train": 40, **sizes}
    point = ImageTracePoint(2, 0.1, 0.0, 0.25, 1.0, 0.0, 0.1, 0.0, 2, 0.25)
    there = provenance_of("torch", "cpu-a")
    configs = [make_config(ImageClassifierConfig, {**base, **cell}) for cell in cells]
    return trials_of([ended(config, Outcome.LEARNED, (point,), there, "d") for config in configs], folder)


def test_what_follows_from_other_fields_tells_nothing_apart_where_those_do(tmp_path: Path) -> None:
    norms = image_trials(tmp_path, {}, {"normalization": "group"}, {"micro_batch_size": 4})
    assert norms["batchnorm_policy"].nunique(dropna=False) == 3
    assert varying_columns(norms) == ["normalization", "micro_batch_size"]
    halves = image_trials(
        tmp_path,
        {"subset_seed": None, "learning_rate": 0.00250123},
        {"num_train": 20, "dataset_digest": "e" * 16, "learning_rate": 0.00123457},
    )
    assert varying_columns(halves) == ["learning_rate", "num_train"]
    table = result_table(halves)
    assert {"subset_seed", "dataset_digest"}.isdisjoint(table)
    assert table["learning_rate"].tolist() == ["0.00123457", "0.00250123"]
    other = {"dataset": "mnist", "channels": 1, "image_size": 28, "num_train": 60, "dataset_digest": "f" * 16}
    assert varying_columns(image_trials(tmp_path, {}, other)) == ["dataset"]


def test_what_follows_from_other_fields_tells_apart_where_those_are_equal(tmp_path: Path) -> None:
    changed = image_trials(tmp_path, {}, {"dataset_digest": "e" * 16})
    assert varying_columns(changed) == ["dataset_digest"], "the images under that name were changed"
    assert "dataset_digest" in result_table(changed)
    subsets = [{"subset_seed": seed, "dataset_digest": f"{seed}" * 16} for seed in (0, 1)]
    assert varying_columns(image_trials(tmp_path, *subsets)) == ["subset_seed"]
    given = [make_result("adam", 1e-5, 2, 0, noise_std=std) for std in (0.1, 0.2)]
    assert varying_columns(trials_of(given, tmp_path)) == ["noise_std"]


def test_the_result_table_is_ready_to_print(tmp_path: Path) -> None:
    results = [make_result("adamw", 1e-2, 2, 0), make_result("adam", 1e-5, 2, 0), make_result("adam", 0.05, 2, 0)]
    results[2] = make_result("adam", 0.05, 2, 0, test_error=0.7, outcome="stuck")
    results += [
        make_result("adam", 1e-5, 100, seed, test_error=error, outcome=outcome)
        for seed, (error, outcome) in enumerate([(0.9, "memorized"), (0.2, "learned"), (0.7, "memorized")])
    ]
    table = result_table(trials_of(results, tmp_path))
    assert table.columns.tolist() == [
        *("optimizer", "weight_decay", "batch_size"),
        *("n", "train error", "test error", "min", "max", "outcomes"),
    ]
    assert table.to_numpy().tolist() == [
        ["adam", "1e-05", "2", "1", "0.0000", "0.0000", "0.0000", "0.0000", "1 learned"],
        [
            *("adam", "1e-05", "100", "3", "0.0000 ± 0.0000", "0.6000 ± 0.3606", "0.2000", "0.9000"),
            "2 memorized, 1 learned",
        ],
        ["adam", "0.05", "2", "1", "-", "-", "-", "-", "1 stuck"],
        ["adamw", "0.01", "2", "1", "0.0000", "0.0000", "0.0000", "0.0000", "1 learned"],
    ]
    wider = [*results, make_result("adam", 1e-5, 2, 0, activation_power=4)]
    assert "activation_power" in result_table(trials_of(wider, tmp_path))
    assert result_table(trials_of(results, tmp_path).iloc[:0]).columns.tolist() == table.columns.tolist()


def rates_of(errors: dict[float, tuple[float, ...]], outcome: str = "learned", **fields: Any) -> list[TrialResult]:
    """Trials of one cell with these test errors at each learning rate, one for each seed."""
    return [
        make_result("adam", 1e-5, 20, seed, test_error=error, outcome=outcome, learning_rate=rate, **fields)
        for rate, of_seeds in errors.items()
        for seed, error in enumerate(of_seeds)
    ]


def test_the_best_rate_is_the_lowest_mean_over_seeds_and_says_whether_it_is_on_the_edge(tmp_path: Path) -> None:
    results = rates_of({1e-5: (0.5, 0.3), 1e-4: (0.0, 0.2), 1e-3: (0.1, 0.15)})
    results += rates_of({1e-5: (0.1, 0.1), 1e-4: (0.2, 0.2)}, noise_sparsity=50)
    best = best_cells(trials_of(results, tmp_path), ["learning_rate"]).set_index("noise_sparsity")
    assert best.loc[100, ["learning_rate", "n", "mean"]].tolist() == [1e-4, 2, pytest.approx(0.1)]
    assert best.loc[100, "std"] == pytest.approx(np.std([0.0, 0.2], ddof=1))
    assert not best.loc[100, "is_on_edge"]
    assert best.loc[50, "learning_rate"] == 1e-5
    assert best.loc[50, "is_on_edge"]
    kept = only_best(trials_of(results, tmp_path), best_cells(trials_of(results, tmp_path), ["learning_rate"]))
    assert (
        sorted(zip(kept["noise_sparsity"], kept["learning_rate"], strict=True)) == [(50, 1e-5)] * 2 + [(100, 1e-4)] * 2
    )
    text = best_table(best.reset_index(), ["learning_rate"])
    assert text["at an end of the grid"].tolist() == ["yes", "no"]
    assert text["best learning_rate"].tolist() == ["1e-05", "0.0001"]
    assert text["n"].tolist() == ["2", "2"]


@pytest.mark.parametrize(
    ("errors", "is_on_edge"),
    [
        ({1e-5: (0.3,), 1e-4: (0.0,), 1e-3: (0.1,)}, False),
        ({1e-5: (0.3,), 1e-4: (0.0,), 1e-3: (0.0,)}, True),
        ({1e-5: (0.3, 0.1, 0.2), 1e-4: (0.2, 0.1, 0.0), 1e-3: (0.0, 0.2, 0.1)}, True),  # rounded sums may differ
        ({1e-5: (0.3,), 1e-4: (0.1,), 1e-3: (0.1,), 1e-2: (0.2,)}, False),
    ],
)
def test_a_rate_at_the_edge_that_is_as_good_as_the_best_counts(
    errors: dict[float, tuple[float, ...]], is_on_edge: bool, tmp_path: Path
) -> None:
    (best,) = best_cells(trials_of(rates_of(errors), tmp_path), ["learning_rate"]).to_dict("records")
    assert best["is_on_edge"] == is_on_edge
    assert best["learning_rate"] == 1e-4 or len(errors[1e-4]) > 1


def test_the_best_of_a_field_that_one_optimizer_does_not_read(tmp_path: Path) -> None:
    results = [make_result("adam", 1e-3, 2, 0, beta1=beta1, test_error=beta1) for beta1 in (0.5, 0.8)]
    results.append(make_result("signsgd", 1e-3, 2, 0, test_error=0.2))
    best = best_cells(tables(results, tmp_path)[0], ["beta1"]).set_index("optimizer")
    assert (best.loc["adam", "beta1"], best.loc["adam", "mean"], best.loc["adam", "is_on_edge"]) == (0.5, 0.5, True)
    assert math.isnan(best.loc["signsgd", "beta1"])
    assert (best.loc["signsgd", "mean"], best.loc["signsgd", "is_on_edge"]) == (0.2, False)


def test_a_rate_at_which_seeds_mean_nothing_is_not_the_best(tmp_path: Path) -> None:
    results = rates_of({1e-4: (0.4, 0.4)}) + rates_of({1e-3: (0.0, 0.0)}, outcome="stuck")
    (best,) = best_cells(trials_of(results, tmp_path), ["learning_rate"]).to_dict("records")
    assert (best["learning_rate"], best["n"], best["is_on_edge"]) == (1e-4, 2, True)


@pytest.mark.parametrize("second", ["stuck", "missing"])
def test_one_lucky_seed_is_not_the_best(second: str, tmp_path: Path) -> None:
    results = rates_of({1e-4: (0.4, 0.4), 1e-3: (0.1,), 1e-2: (0.5, 0.5)})
    if second == "stuck":
        results += rates_of({1e-3: (0.1, 0.0)}, outcome="stuck")[1:]
    best = best_cells(trials_of(results, tmp_path), ["learning_rate"])
    assert best[["learning_rate", "n", "num_seeds"]].to_numpy().tolist() == [[1e-4, 2, 2]]
    assert best_note(best, ["learning_rate"]).endswith("at an end of the grid at 1 of 1")


def test_a_best_of_fewer_seeds_says_so(tmp_path: Path) -> None:
    """No rate has all seeds: a sweep was interrupted, or trials failed."""
    results = rates_of({1e-4: (0.4, 0.4, 0.1)})[:2] + rates_of({1e-3: (0.3, 0.3, 0.1)})[1:]
    best = best_cells(trials_of(results, tmp_path), ["learning_rate"])
    assert best_table(best, ["learning_rate"])[["best learning_rate", "n"]].to_numpy().tolist() == [["0.001", "2 of 3"]]
    assert best_note(best, ["learning_rate"]).endswith("at 1 of 1, with fewer seeds than others at 1")


def test_top_5_tables_show_top_5_errors_and_precise_ones_beside_them(tmp_path: Path) -> None:
    trials = trials_of([make_result("adam", 1e-4, 16, seed, test_error=0.9) for seed in range(2)], tmp_path)
    trials = trials.assign(test_top5_error=[0.25, 0.5], train_top5_error=0.125, precise_test_top5_error=[0.25, np.nan])
    trials = trials.assign(precise_train_top5_error=0.0)
    (row,) = result_table(trials, "test_top5_error").to_dict("records")
    assert row["top-5 train error"] == "0.1250 ± 0.0000"
    assert row["top-5 test error"] == "0.3750 ± 0.1768"
    assert (row["min"], row["max"]) == ("0.2500", "0.5000")
    assert row["precise top-5 test error"] == "0.2500"
    assert "precise" not in " ".join(result_table(trials).columns)


def test_the_paper_stands_beside_ours_of_exactly_its_setting(tmp_path: Path) -> None:
    results = [make_result("adam", 1e-5, 100, s, test_error=0.95 + 0.01 * s, outcome="memorized") for s in range(3)]
    results += [
        make_result("adam", 1e-5, 100, 0, test_error=0.1, num_epochs=1000),
        make_result("adam", 1e-5, 2, 0, test_error=0.1, dimension=500),
        make_result("adamw", 1e-2, 2, 0),
    ]
    rows = paper_comparison(trials_of(results, tmp_path)).set_index(["optimizer", "batch_size"])
    assert rows["paper_test_error"].tolist() == [0.9545, 0.0, 0.5485, 0.0]
    assert rows["table"].tolist() == [1, 1, 2, 2]
    assert rows["n"].tolist() == [3, 0, 0, 1]
    assert rows.loc[("adam", 100), "test_error_mean"] == pytest.approx(0.96)
    assert rows.loc[("adam", 100), "test_error_std"] == pytest.approx(0.01)
    assert math.isnan(rows.loc[("adam", 2), "test_error_mean"])
    assert paper_comparison(trials_of(results, tmp_path).iloc[:0])["n"].tolist() == [0, 0, 0, 0]
    large, mini = paper_table(trials_of(results, tmp_path)).to_dict("records")
    assert (large["test error in the paper"], large["test error here"]) == ("0.9545", "0.9600 ± 0.0100")
    assert large["n"] == "3"
    assert (mini["optimizer"], mini["batch_size"], mini["weight_decay"], mini["n"]) == ("adamw", "2", "0.01", "1")
