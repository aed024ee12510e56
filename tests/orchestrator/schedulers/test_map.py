"""Maps: axes, claims with added seeds, boundary rounds, and a map that continues unchanged after any kill."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from orchestrator.analysis.claims import works
from orchestrator.driver.exports import export_optuna
from orchestrator.errors import SweepError
from orchestrator.figures.drawing import draw
from orchestrator.figures.registry import FigureInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.report.map_tables import map_tables
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.claim_rule import ClaimRule
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.map_trials import claim_ids, sample_seed
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.samplers.boundary import BoundarySampler
from search_spaces.space import Axis, Choice, LogIntegers, LogUniform
from tests.support.launching import checked, kill_tree, launch, rows, start, traces, wait_for
from trainables.config import Optimizer, TrialConfig
from trainables.contract import Member
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

SIZES: dict[str, Any] = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4}
SPACE = {"batch_size": LogIntegers((2, 5, 20)), "weight_decay": LogUniform(1e-4, 1e2)}
RULE = ClaimRule(max_test_error=0.2, min_seeds=6, max_seeds=12)


def map_of(**more: Any) -> Sweep:
    """A small map: four judged cells, both boundaries over the space, and both along B = 2.

    Of 28 points over the space 16 are the quasi-random design's, of 12 along the line 8; the others depend on results.
    """
    fields: dict[str, Any] = {"rounds": 7, "per_round": 4, "line_rounds": 3, "lines": ({"batch_size": 2},)}
    search = MapSearch({"adam": SPACE, "adamw": SPACE}, **{"rule": RULE, **fields, **more})
    axes = {"batch_size": (2, 20), "weight_decay": (1e-3, 10.0)}
    base = {**SIZES, "num_epochs": 40, "learning_rate": 5e-3, "init_std": 0.1}
    return Sweep("mapped", "a map", (Grid({"adam": {}, "adamw": {}}, axes, base),), search=search)


@cache
def train(config: TrialConfig, until_epoch: int) -> TrialResult:
    """A trial's result: the maps of this module, which differ in what they ask and when, train each trial once."""
    (report,) = workload(config.workload).open([Member(config, until_epoch)]).advance(math.inf)
    assert report.result is not None
    return report.result


def run(
    sweep: Sweep,
    ledger: Ledger,
    *,
    lives: Iterable[int] = (),
    newest_first: bool = False,
    outcome: Outcome | None = None,
) -> Ledger:
    """Run a map with real trials; forget everything except the ledger after each of these numbers of trials.

    With an `outcome`, every trial is recorded with this outcome.
    """
    scheduler = plan_sweep(sweep, ledger).scheduler
    queue, _ = scheduler.advance()
    deaths = accumulate(lives)
    death, num_done = next(deaths, None), 0
    while queue:
        task = queue.pop(-1 if newest_first else 0)
        result = train(task.config, task.until_epoch)
        results = [replace(result, outcome=outcome or result.outcome)]
        ledger.append(results)
        num_done += 1
        if num_done == death:
            death = next(deaths, None)
            scheduler = plan_sweep(sweep, ledger).scheduler
            queue, _ = scheduler.advance()
        else:
            queue += scheduler.advance(results)[0]
    assert plan_sweep(sweep, ledger).scheduler.advance() == ([], [])
    assert plan_sweep(sweep, ledger).is_complete
    return ledger


def ids(ledger: Ledger) -> set[str]:
    return set(ledger.trials("two_layer_cnn", columns=("trial_id",))["trial_id"].to_pylist())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return run(map_of(), Ledger(str(tmp_path_factory.mktemp("undisturbed"))))


# --- axes ---


@pytest.mark.parametrize(
    ("axis", "ends"),
    [
        (LogUniform(1e-4, 1e2), (1e-4, 1e2)),
        (LogIntegers((2, 4, 10, 200)), (2, 200)),
        (Choice(("a", "b", "c")), ("a", "c")),
    ],
)
def test_an_axis_has_one_definition_for_shares_and_optuna(axis: Axis, ends: tuple[Any, Any]) -> None:
    distribution = axis.distribution()
    for value in (axis.at(share) for share in (0.0, 0.2, 0.5, 0.99, 1.0)):
        assert axis.nearest(value) == value
        assert distribution._contains(distribution.to_internal_repr(value))
    assert (axis.at(0.0), axis.at(1.0)) == ends


def test_integers_stand_for_what_is_nearest_by_ratio() -> None:
    sizes = LogIntegers((2, 4, 10, 20, 200))
    assert [sizes.nearest(value) for value in (1, 2.7, 3, 15, 64, 1000)] == [2, 2, 4, 20, 200, 200]


def test_nonsense_axes_are_refused() -> None:
    for make in (lambda: LogIntegers((4, 2)), lambda: LogIntegers((0, 2)), lambda: Choice(("a", "a"))):
        with pytest.raises(ValueError, match="required"):
            make()
    with pytest.raises(ValueError, match="not one of"):
        Choice(("a", "b")).nearest("c")


# --- what is asked ---


@pytest.mark.slow
def test_cells_share_no_seeds_and_the_halves_of_a_pair_do(undisturbed: Ledger) -> None:
    trials = undisturbed.trials("two_layer_cnn").to_pandas()
    claims = trials[trials["trial_id"].isin(claim_ids(map_of()))]
    for _, pair in claims.groupby(["batch_size", "weight_decay", "seed"]):
        assert sorted(pair["optimizer"]) == ["adam", "adamw"]
        assert pair["data_digest"].nunique() == pair["order_digest"].nunique() == 1
    assert claims.groupby("seed")[["batch_size", "weight_decay"]].nunique().max().max() == 1
    others = trials[~trials["trial_id"].isin(claims["trial_id"])]
    assert others["seed"].is_unique
    assert not set(others["seed"]) & set(claims["seed"])


@pytest.mark.slow
def test_every_cell_gets_the_least_seeds_and_none_more_than_the_most(undisturbed: Ledger) -> None:
    trials = undisturbed.trials("two_layer_cnn").to_pandas()
    claims = trials[trials["trial_id"].isin(claim_ids(map_of()))]
    seeds = claims.groupby(["batch_size", "weight_decay", "optimizer"]).size()
    assert len(seeds) == 8
    assert seeds.between(RULE.min_seeds, RULE.max_seeds).all()


@pytest.mark.slow
def test_boundary_draws_lie_in_the_space_as_many_as_rounds_say(undisturbed: Ledger) -> None:
    trials = undisturbed.trials("two_layer_cnn").to_pandas()
    draws = trials[~trials["trial_id"].isin(claim_ids(map_of()))]
    assert draws.groupby("optimizer").size().to_dict() == {"adam": 40, "adamw": 40}
    assert set(draws["batch_size"]) <= {2, 5, 20}
    assert draws["weight_decay"].between(1e-4, 1e2).all()
    assert (draws[draws["batch_size"] == 2].groupby("optimizer").size() >= 3).all()


@pytest.mark.slow
def test_later_boundary_rounds_follow_the_results(undisturbed: Ledger, tmp_path: Path) -> None:
    """If no trial works, the same map has the same design, and different points after it."""
    failing = run(map_of(), Ledger(str(tmp_path)), outcome=Outcome.STUCK)
    asked = []
    for ledger in (undisturbed, failing):
        draws = [c for c in plan_sweep(map_of(), ledger).configs if c.trial_id not in claim_ids(map_of())]
        asked.append([(c.batch_size, c.weight_decay) for c in draws if c.optimizer is Optimizer.ADAM])
    design, later = slice(0, 16), slice(16, 28)
    assert asked[0][design] == asked[1][design]
    assert sum(point in asked[1][later] for point in asked[0][later]) <= 3  # the exploring points


def test_another_rule_is_another_search() -> None:
    search = map_of().search
    assert isinstance(search, MapSearch)
    strict = replace(search, rule=replace(RULE, max_test_error=0.01))
    cell = {"optimizer": "adam", "num_epochs": 40}
    assert search.key(cell) != strict.key(cell)
    assert search.space_key(cell) == strict.space_key(cell)
    assert search.key(cell) == replace(search, rounds=20, rule=replace(RULE, max_seeds=20)).key(cell)


def test_a_draws_seed_depends_on_its_point_alone() -> None:
    point = {"optimizer": "adam", "weight_decay": 1e-3, "batch_size": 2}
    assert sample_seed(point, 0, "claim") == sample_seed({**point, "optimizer": "adamw"}, 0, "claim")
    seeds = {
        sample_seed({**point, "weight_decay": decay}, replicate, purpose)
        for decay in (1e-3, 1e-2)
        for replicate in range(50)
        for purpose in ("claim", "boundary adam")
    }
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_steps_decide_the_epochs_unless_a_cell_does() -> None:
    search = MapSearch({"adam": SPACE}, num_steps=1000, max_epochs=500)
    assert [search.completed({"batch_size": b}, 200)["num_epochs"] for b in (2, 7, 100, 200)] == [10, 35, 500, 500]
    assert search.completed({"batch_size": 2, "num_epochs": 3}, 200)["num_epochs"] == 3


# --- kills, refinements ---


@pytest.mark.slow
def test_an_interrupted_map_has_the_trials_of_one_left_alone(undisturbed: Ledger, tmp_path: Path) -> None:
    """It dies within rounds and after several, now and then soon again."""
    again = run(map_of(), Ledger(str(tmp_path)), lives=cycle((3, 1, 3, 25)))
    assert ids(again) == ids(undisturbed)


@pytest.mark.slow
def test_the_order_in_which_trials_end_changes_nothing(undisturbed: Ledger, tmp_path: Path) -> None:
    assert ids(run(map_of(), Ledger(str(tmp_path)), newest_first=True)) == ids(undisturbed)


@pytest.mark.slow
def test_a_finer_map_has_the_coarser_ones_trials(undisturbed: Ledger, tmp_path: Path) -> None:
    ledger = Ledger(str(shutil.copytree(undisturbed.root, tmp_path / "results")))
    before = ids(ledger)
    finer = map_of(rounds=9)
    assert plan_sweep(finer, ledger).num_pending == 2 * 2 * 4
    assert ids(run(finer, ledger)) > before


MAPPED = """
from orchestrator.sweeps.claim_rule import ClaimRule
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep
from search_spaces.space import LogIntegers, LogUniform

SIZES = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4}

@sweep
def mapped() -> Sweep:
    space = {"batch_size": LogIntegers((2, 5, 20)), "weight_decay": LogUniform(1e-3, 1e3)}
    search = MapSearch(
        {"adam": space, "adamw": space},
        ClaimRule(max_test_error=0.2, min_seeds=6, max_seeds=9),
        rounds=6, per_round=4, line_rounds=3, lines=({"batch_size": 2},),
    )
    axes = {"batch_size": (2, 20), "weight_decay": (1e-3, 100.0)}
    base = {**SIZES, "num_epochs": 4000, "learning_rate": 2e-4, "init_std": 0.05}
    return Sweep(
        "mapped", "a map", (Grid({"adam": {}, "adamw": {}}, axes, base),), figures=("phase_diagram",), search=search,
        accepts_certificates=True,
    )
"""


@pytest.mark.slow
def test_a_map_on_ray_that_is_killed_ends_with_the_same_rows(tmp_path: Path) -> None:
    """SIGKILL to the driver and all workers, twice, in the middle of trials, some of which end by a certificate."""
    plain = ("--out", "results", "--no-mlflow", "--no-figures")
    folders = tmp_path / "inline", tmp_path / "ray"
    for folder in folders:
        folder.mkdir()
        (folder / "my_sweeps.py").write_text(MAPPED)
    undisturbed, killed = folders
    checked(undisturbed, "mapped", *plain, "--executor", "inline")
    for num_trials in (20, 60):
        process = start(killed, "mapped", *plain, "--checkpoint-seconds", "0.2")
        wait_for(lambda least=num_trials: len(rows(killed / "results")) >= least, process)
        kill_tree(process)
    said = checked(killed, "mapped", *plain)
    assert rows(killed / "results") == rows(undisturbed / "results")
    assert traces(killed / "results") == traces(undisturbed / "results")
    stopped = [row for row in rows(killed / "results").values() if row["epochs_done"] < row["num_epochs"]]
    assert stopped
    assert f"{len(stopped)} trials stopped for a certificate; of " in said
    assert "0 to run" in checked(killed, "mapped", *plain)


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ("phase_diagramm", "unknown figure 'phase_diagramm'; did you mean 'phase_diagram'? (known: phase_diagram)"),
        ("error_vs_betas", "error_vs_betas is not a figure of maps, and mapped is a map (it can have: phase_diagram)"),
        ("scaling", "scaling shows the field that MapSearch(scaling=...) names, and the search of mapped does not "
         "(it can have: phase_diagram)"),
    ],
)  # fmt: skip
def test_a_figure_that_a_map_cannot_have_is_said_before_anything_is_trained(
    named: str, line: str, tmp_path: Path
) -> None:
    (tmp_path / "my_sweeps.py").write_text(MAPPED.replace('figures=("phase_diagram",)', f'figures=("{named}",)'))
    refused = launch(tmp_path, "mapped", "--executor", "inline", "--no-mlflow")
    assert refused.returncode == 2
    assert refused.stderr == f"error: {line}\n"
    assert not (tmp_path / "results").exists()


# --- what it reports ---


@pytest.mark.slow
def test_tables_and_figures_come_from_parquet_alone(undisturbed: Ledger, tmp_path: Path) -> None:
    sweep = Sweep(
        **{name: getattr(map_of(), name) for name in ("name", "title", "grids", "search")}, figures=("phase_diagram",)
    )
    trials = undisturbed.trials("two_layer_cnn").to_pandas()
    (_, verdicts), (_, found) = map_tables(trials, sweep)
    assert len(verdicts) == 4
    assert set(verdicts["verdict"]) <= {"both", "only_adam", "only_adamw", "neither", "undecided"}
    assert (verdicts["why"] == "").eq(verdicts["verdict"] != "undecided").all()
    assert set(found["optimizer"]) == {"adam", "adamw"}
    traces = undisturbed.traces("two_layer_cnn").to_pandas()

    def drawn(trials: pd.DataFrame, folder: str) -> list[bytes]:
        paths = draw("phase_diagram", FigureInput(trials, traces, sweep), tmp_path / folder)
        return [path.read_bytes() for path in paths]

    assert len(drawn(trials, "settled")) == 2
    assert drawn(trials.assign(outcome="failed"), "none") == []


@pytest.mark.slow
def test_a_second_export_keeps_what_a_user_has_added(undisturbed: Ledger, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    _, first = export_optuna(map_of(), undisturbed.root, storage)
    name = next(iter(first))
    study = optuna.load_study(study_name=name, storage=storage)
    study.tell(study.ask({field: axis.distribution() for field, axis in SPACE.items()}), 1.0)
    _, second = export_optuna(map_of(), undisturbed.root, storage)
    assert second == first | {name: first[name] + 1}


@pytest.mark.slow
def test_optuna_opens_a_finished_map(undisturbed: Ledger, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    for _ in range(2):  # the second export has nothing to add
        _, written = export_optuna(map_of(), undisturbed.root, storage)
    trials = undisturbed.trials("two_layer_cnn").to_pandas()
    assert sum(written.values()) == len(trials)
    for optimizer in ("adam", "adamw"):
        (name,) = (name for name in written if name.endswith(f"optimizer={optimizer}"))
        study = optuna.load_study(study_name=name, storage=storage)
        own = trials[trials["optimizer"] == optimizer]
        expected = zip(own["batch_size"], own["weight_decay"], works(own, RULE), strict=True)
        seen = [
            (one.params["batch_size"], one.params["weight_decay"], one.value == 1)
            for one in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        ]
        assert sorted(seen) == sorted((int(b), float(d), bool(w)) for b, d, w in expected)
        study.sampler = BoundarySampler(seed=0)  # and the search continues from there
        trial = study.ask({name: axis.distribution() for name, axis in SPACE.items()})
        assert 1e-4 <= trial.params["weight_decay"] <= 1e2


@pytest.mark.slow
@pytest.mark.parametrize("form", ["~/{}", "file://{}"])
def test_an_optuna_export_takes_the_forms_of_output_that_a_launch_takes(
    undisturbed: Ledger, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed.root, tmp_path / "results")
    monkeypatch.setenv("HOME", str(tmp_path))
    out = form.format("results" if form.startswith("~") else tmp_path / "results")
    url, written = export_optuna(map_of(), out)
    assert url == f"sqlite:///{tmp_path}/results/optuna.db"
    assert written
    assert (tmp_path / "results" / "optuna.db").is_file()


@pytest.mark.slow
def test_a_results_folder_of_any_name_has_its_studies(undisturbed: Ledger, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.root, tmp_path / "q?x=1")
    export_optuna(map_of(), str(tmp_path / "q?x=1"))
    assert (tmp_path / "q?x=1" / "optuna.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["q?x=1"]


@pytest.mark.slow
def test_a_storage_that_is_no_database_is_one_line(undisturbed: Ledger, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"^--storage: a storage is a database's URL, as .*, got 'journal\.log'$"):
        export_optuna(map_of(), undisturbed.root, "journal.log")


def test_a_grid_is_no_optuna_study(tmp_path: Path) -> None:
    (tmp_path / "my_sweeps.py").touch()
    refused = launch(tmp_path, "export-optuna", "grid_bsz")
    assert refused.returncode == 2
    assert refused.stderr == "error: sweep grid_bsz is not a map: it is a grid or a halving search\n"
    nothing = launch(tmp_path, "export-optuna", "map_wd")
    assert nothing.returncode == 2
    assert nothing.stderr == "error: 'results' has no finished trial of map_wd: run it first\n"


def test_a_map_runs_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "my_sweeps.py").touch()
    small = [f"{name}={value}" for name, value in {**SIZES, "batch_size": "2,20", "weight_decay": "1e-3,1e1"}.items()]
    sets = [part for text in (*small, "num_epochs=2") for part in ("--set", text)]
    planned = checked(tmp_path, "plan", "map_wd", *sets)
    assert "8 to 32 for each cell" in planned
    for wrong, line in (
        ("--seeds 0-3", "its seeds cannot be chosen"),
        ("--set batch_size=2", "two or more positive values"),
    ):
        refused = launch(tmp_path, "map_wd", *(sets if "seeds" in wrong else ()), *wrong.split())
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert line in refused.stderr


def test_values_of_an_axis_bound_the_boundaries_too() -> None:
    narrow = map_of().with_overrides(["batch_size=2,5", "weight_decay=1e-2,1"])
    assert isinstance(narrow.search, MapSearch)
    assert narrow.search.space["adam"]["batch_size"] == LogIntegers((2, 5))
    assert narrow.search.space["adam"]["weight_decay"] == SPACE["weight_decay"]
    assert narrow.search.lines == ({"batch_size": 2},)
    assert map_of().with_overrides(["batch_size=5,20"]).search.lines == ()  # type: ignore[union-attr]


def test_a_map_of_no_sense_is_one_line() -> None:
    with pytest.raises(SweepError, match="a line gives a value to a field of the space"):
        map_of(lines=({"num_filters": 3},))
    with pytest.raises(SweepError, match="same fields"):
        MapSearch({"adam": SPACE, "adamw": {"weight_decay": SPACE["weight_decay"]}})
