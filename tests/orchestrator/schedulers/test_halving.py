"""The search for each optimizer's best: proposals, halving, and a search that continues unchanged after any kill."""

from __future__ import annotations

import math
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.filesize import decimal

from orchestrator.driver.loop import Training
from orchestrator.errors import LedgerError, SweepError
from orchestrator.executors.inline import InlineExecutor
from orchestrator.figures.drawing import draw
from orchestrator.ledger.ledger import Ledger
from orchestrator.report.presentations import selection_of
from orchestrator.report.show import show
from orchestrator.schedulers.halving_cell import survivors
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.halving_search import HalvingSearch, rung_epochs
from orchestrator.sweeps.registry import find_sweep
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.samplers.registry import Observation
from search_spaces.samplers.tpe import propose
from search_spaces.space import LogUniform
from tests.orchestrator.figures.test_figures import figure_of, given
from tests.support.launching import (
    WORKLOAD,
    check_went_on,
    checked,
    environment,
    kill_tree,
    launch,
    plant_seconds,
    rows,
    start,
    traces,
    wait_for,
)
from trainables.contract import Member
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.packs.worker import PackWorker
from trainables.registry import workload
from trainables.result import Outcome

SPACE = {"learning_rate": LogUniform(1e-5, 1e-1), "weight_decay": LogUniform(1e-6, 1.0)}

SEARCHES = """
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep
from search_spaces.space import LogUniform

SPACE = {"learning_rate": LogUniform(1e-4, 1e-2), "weight_decay": LogUniform(1e-6, 1e-1)}
SEARCH = HalvingSearch({"adam": SPACE, "adamw": SPACE}, rounds=3, per_round=6, reduction=3)
SIZES = {"num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4}

@sweep
def searched() -> Sweep:
    base = {**SIZES, "batch_size": 5, "num_epochs": NUM_EPOCHS}
    return Sweep("searched", "two cells", (Grid({"adam": {}, "adamw": {}}, {}, base),), seeds=(0, 1), search=SEARCH)

@sweep
def in_full() -> Sweep:
    base = {**SIZES, "batch_size": 5, "num_epochs": NUM_EPOCHS}
    return Sweep("in_full", "what was pruned", (Grid({"adam": POINT}, {}, base),), seeds=(1000,))
"""
PLAIN = ("--no-figures", "--no-mlflow")
INLINE = ("--executor", "inline", *PLAIN)


def folder_of(folder: Path, num_epochs: int = 27, point: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = SEARCHES.replace("NUM_EPOCHS", str(num_epochs)).replace("POINT", point)
    (folder / "my_sweeps.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which `searched` has finished, and its output; to be copied, not changed."""
    folder = folder_of(tmp_path_factory.mktemp("finished"))
    return folder, checked(folder, "searched", *INLINE)


def copy_of(finished: tuple[Path, str], folder: Path, point: str = "{}") -> Path:
    shutil.copytree(finished[0], folder)
    return folder_of(folder, point=point)


def bowl(params: dict[str, float]) -> float:
    """An error with its lowest value, 0, at a learning rate of 1e-3 and a weight decay of 1e-2."""
    return min(
        1.0, 0.05 * sum((math.log10(params[k]) + at) ** 2 for k, at in (("learning_rate", 3), ("weight_decay", 2)))
    )


def history(num_rounds: int, per_round: int = 9) -> list[Observation]:
    seen: list[Observation] = []
    for number in range(num_rounds):
        asked = propose(SPACE, seen, per_round, seed=number)
        seen += [Observation(point, bowl(point), 27, is_complete=True) for point in asked]
    return seen


# --- proposals and halving ---


def test_proposals_are_a_function_of_their_arguments() -> None:
    seen = history(2)
    assert propose(SPACE, seen, 5, seed=3) == propose(SPACE, list(seen), 5, seed=3)
    assert propose(SPACE, seen, 5, seed=3) != propose(SPACE, seen, 5, seed=4)
    without_best = sorted(seen, key=lambda one: one.error)[3:]
    assert propose(SPACE, seen, 5, seed=3) != propose(SPACE, without_best, 5, seed=3)


def test_proposals_lie_in_the_space_and_are_rounded() -> None:
    for point in propose(SPACE, (), 50, seed=0):
        assert point.keys() == SPACE.keys()
        for name, axis in SPACE.items():
            assert axis.low <= point[name] <= axis.high
            assert point[name] == float(f"{point[name]:.5e}")


def test_later_rounds_come_closer_to_the_optimum() -> None:
    errors = [seen.error for seen in history(8)]
    assert sum(errors[-9:]) < 0.5 * sum(errors[:9])


def test_an_error_that_is_no_number_keeps_proposals_away() -> None:
    seen = [Observation(p, math.inf, 3, is_complete=False) for p in propose(SPACE, (), 9, seed=0)] + history(3)
    assert len(propose(SPACE, seen, 4, seed=1)) == 4


@pytest.mark.parametrize(
    ("num_epochs", "reduction", "num_rungs", "expected"),
    [(27, 3, 3, (3, 9, 27)), (100, 3, 3, (11, 33, 100)), (2, 3, 3, (1, 2)), (1, 3, 3, (1,)), (64, 4, 1, (64,))],
)
def test_rungs(num_epochs: int, reduction: int, num_rungs: int, expected: tuple[int, ...]) -> None:
    assert rung_epochs(num_epochs, reduction, num_rungs) == expected


def test_the_best_third_survives_rounded_up_and_ties_go_to_the_first() -> None:
    assert survivors([0.3, 0.1, 0.2, 0.9, 0.5, 0.4], 3) == [1, 2]
    assert survivors([0.3, 0.1, 0.2, 0.9], 3) == [1, 2]
    assert survivors([0.5, 0.5, 0.5], 3) == [0]
    assert survivors([math.inf, 0.9, math.nan], 3) == [1]
    assert survivors([math.inf, math.nan, math.inf], 2) == [0, 1]


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"per_round": 0}, {"reduction": 1}, {"num_rungs": 0}])
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SweepError, match="a search needs"):
        HalvingSearch({"adam": SPACE}, **wrong)


def test_a_field_with_a_value_is_not_searched() -> None:
    search = HalvingSearch({"adam": SPACE})
    assert search.axes({"optimizer": "adam", "weight_decay": 0.1}).keys() == {"learning_rate"}
    with pytest.raises(SweepError, match="nothing to search: the cells already give "):
        search.axes({"optimizer": "adam", "weight_decay": 0.1, "learning_rate": 0.1})
    with pytest.raises(SweepError, match="no search space for optimizer 'adamw'"):
        search.axes({"optimizer": "adamw"})


def test_the_seed_that_chooses_is_none_of_those_that_judge(tmp_path: Path) -> None:
    grids = (Grid({"adam": {}}, {}, {"batch_size": 5}),)
    search = HalvingSearch({"adam": SPACE}, seed=3)
    with pytest.raises(SweepError, match=r"s searches with seed 3 .*: leave 3 out of the seeds, got 2, 3"):
        Sweep("s", "s", grids, seeds=(2, 3), search=search)
    assert Sweep("s", "s", grids, seeds=(2,), search=search).with_overrides(seeds="4").seeds == (4,)


def test_a_search_needs_an_error_of_every_rung() -> None:
    grids = (Grid({"adam": {}}, {}, {"batch_size": 5}),)
    with pytest.raises(SweepError, match="searches by precise_test_error, which is known only after the last"):
        Sweep("s", "s", grids, search=HalvingSearch({"adam": SPACE}), error="precise_test_error")
    assert Sweep("s", "s", grids, error="precise_test_error").error == "precise_test_error"


def test_a_seed_that_is_given_twice_is_trained_and_counted_once() -> None:
    sweep = find_sweep("tune_wd").with_overrides(["seed=0,0", "optimizer=adam", "batch_size=20,20"])
    assert sweep.num_trials == 4 * 9 + 1


# --- runs ---


def test_a_search_halves_its_rounds_and_trains_the_best_with_fresh_seeds(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    planned = checked(folder_of(tmp_path / "new"), "plan", "searched")
    folder, output = copy_of(finished, tmp_path / "copy"), finished[1]
    assert re.search(r"weight_decay in \[1e-06, 0.1\]", planned)
    assert "40: 0 done, 40 to run" in planned
    found = list(rows(folder / "results").values())
    tried = [row for row in found if row["seed"] == 1000]
    finals = [row for row in found if row["seed"] in (0, 1)]
    for optimizer in ("adam", "adamw"):
        own = [row for row in tried if row["optimizer"] == optimizer]
        assert len(own) == 18
        stops = sorted(row["epochs_done"] for row in own)
        # each round of six: four stop at 3 epochs, one at 9, one is trained to the end
        assert stops == [3] * 12 + [9] * 3 + [27] * 3
        assert {row["outcome"] for row in own if row["epochs_done"] < 27} == {"pruned"}
        complete = [row for row in own if row["epochs_done"] == 27]
        best = min(complete, key=lambda row: row["test_error"] if row["outcome"] != "stuck" else math.inf)
        trained = [row for row in finals if row["optimizer"] == optimizer]
        assert [row["seed"] for row in sorted(trained, key=lambda row: row["seed"])] == [0, 1]
        for row in trained:
            assert row["epochs_done"] == 27
            errors = {row["test_error"] for row in complete if row["learning_rate"] == trained[0]["learning_rate"]}
            assert errors == {best["test_error"]}
    assert "40/40 trials" in output
    assert "search: 40 trials, 30 of them pruned; tried with seed 1000" in output
    again = checked(folder, "searched", *INLINE)
    assert "40 trials, 40 done, 0 to run" in again
    assert rows(folder / "results") == {row["trial_id"]: row for row in found}


def test_a_launch_tells_what_pruned_trials_keep_on_disk(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    states = folder / "results" / "states"

    def told(*arguments: str) -> list[str]:
        lines = checked(folder, *arguments, *INLINE).splitlines()
        return [line for line in lines if line.startswith("states ")]

    size = decimal(sum(path.stat().st_size for path in states.iterdir()))
    assert f"states   30 pruned or unfinished trials keep {size} in {finished[0]}/results/states: " in finished[1]
    (line,) = told("searched")
    assert line == (
        f"states   30 pruned or unfinished trials keep {size} in {states}: without those files such a trial would "
        "start from its beginning"
    )
    for path in list(states.iterdir())[1:]:
        path.unlink()
    assert told("searched")[0].startswith("states   1 pruned")
    shutil.rmtree(states)
    assert told("searched") == []


def test_mlflow_gets_what_it_lacks_of_pruned_trials_too(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    checked(folder, "searched", *INLINE, "--mlflow")
    with closing(sqlite3.connect(folder / "results" / "mlflow.db")) as database:
        runs = database.execute("SELECT value FROM tags WHERE key = 'trial_id'").fetchall()
    outcomes = {trial_id: row["outcome"] for trial_id, row in rows(folder / "results").items()}
    assert "pruned" in outcomes.values()
    assert sorted(runs) == sorted((trial_id,) for trial_id in outcomes)


def test_a_promoted_trial_equals_one_that_never_stopped(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = finished[0]
    complete = [r for r in rows(folder / "results").values() if r["epochs_done"] == 27 and r["seed"] == 1000]
    one = next(row for row in complete if row["optimizer"] == "adam")
    point = repr({name: one[name] for name in ("learning_rate", "weight_decay")})
    straight = folder_of(tmp_path / "straight", point=point)
    checked(straight, "in_full", *INLINE)
    (alone,) = rows(straight / "results").values()
    assert alone == one
    assert traces(straight / "results") == [t for t in traces(folder / "results") if t["trial_id"] == one["trial_id"]]


@pytest.mark.slow
def test_a_pruned_trial_that_is_asked_for_in_full_goes_on_from_its_state(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = copy_of(finished, tmp_path / "searched")
    pruned = next(
        row
        for row in rows(folder / "results").values()
        if row["outcome"] == Outcome.PRUNED and row["optimizer"] == "adam" and row["epochs_done"] == 9
    )
    assert list((folder / "results" / "states").glob(f"{pruned['trial_id']}.*"))
    point = repr({name: pruned[name] for name in ("learning_rate", "weight_decay")})
    folder_of(folder, point=point)
    planted = plant_seconds(folder / "results")
    assert "1 trials, 0 done, 1 to run" in checked(folder, "in_full", *INLINE)
    check_went_on(folder / "results", planted)
    full = rows(folder / "results")[pruned["trial_id"]]
    assert full["epochs_done"] == 27
    straight = folder_of(tmp_path / "straight", point=point)
    checked(straight, "in_full", *INLINE)
    assert rows(straight / "results") == {pruned["trial_id"]: full}
    assert not list((folder / "results" / "states").glob(f"{pruned['trial_id']}.*"))
    assert "40 trials, 40 done, 0 to run" in checked(folder, "searched", *INLINE), "the search stands as it was"


@pytest.mark.slow
def test_the_same_search_elsewhere_asks_the_same(finished: tuple[Path, str], tmp_path: Path) -> None:
    other = folder_of(tmp_path / "inline")
    checked(other, "searched", *INLINE, PYTHONHASHSEED="1")  # its own interpreter
    assert rows(other / "results") == rows(finished[0] / "results")


@pytest.mark.slow
def test_a_search_on_ray_that_is_killed_ends_with_the_same_trials(tmp_path: Path) -> None:
    undisturbed, killed = folder_of(tmp_path / "inline", 3000), folder_of(tmp_path / "ray", 3000)
    checked(undisturbed, "searched", *INLINE)
    plantings = []
    for num_parts in (2, 6):
        process = start(killed, "searched", *PLAIN, "--checkpoint-seconds", "0.2")
        wait_for(partial(_has_parts, killed / "results", num_parts), process)
        kill_tree(process)
        plantings.append(plant_seconds(killed / "results"))
    checked(killed, "searched", *PLAIN, PYTHONHASHSEED="1")  # its own interpreter
    check_went_on(killed / "results", *plantings)
    assert rows(killed / "results") == rows(undisturbed / "results")
    assert traces(killed / "results") == traces(undisturbed / "results")


def _has_parts(out: Path, num: int) -> bool:
    return len(list(out.glob("trials/*/*.parquet"))) >= num


def test_a_changed_search_does_not_take_up_anothers_asks(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    base: dict[str, Any] = {"batch_size": 5, "num_epochs": 9, "num_train": 40, "num_test": 50, "dimension": 60}
    base |= {"noise_sparsity": 10, "num_filters": 4}
    grids = (Grid({"adam": {}}, {}, base),)
    searches = [HalvingSearch({"adam": SPACE}, seed=seed) for seed in (1001, 1002)]
    plans = [plan_sweep(Sweep("s", "s", grids, search=search), ledger) for search in searches]
    first, _ = plans[0].scheduler.advance()
    second, _ = plans[1].scheduler.advance()
    assert len(first) == len(second) == 18, "two rounds are asked at once"
    assert not {task.config.trial_id for task in first} & {task.config.trial_id for task in second}
    resumed = plan_sweep(Sweep("s", "s", grids, search=searches[0]), ledger)
    assert [task.config for task in resumed.scheduler.advance()[0]] == [task.config for task in first]


def test_trials_that_a_killed_launch_left_without_a_verdict_get_it_from_the_next_and_go_on(tmp_path: Path) -> None:
    base: dict[str, Any] = {"batch_size": 5, "num_epochs": 9, "num_train": 40, "num_test": 50, "dimension": 60}
    grid = Grid({"adam": {}}, {}, {**base, "noise_sparsity": 10, "num_filters": 4})
    search = HalvingSearch({"adam": SPACE}, rounds=1, per_round=3)
    sweep = Sweep("s", "s", (grid,), seeds=(0,), search=search)
    ledger = Ledger(str(tmp_path))
    tasks, _ = plan_sweep(sweep, ledger).scheduler.advance()
    states = str(tmp_path / "states")
    orders = tuple(MemberOrder(task.config, until_epoch=task.until_epoch) for task in tasks)
    order = PackOrder(pack_id="killed", members=orders, states_root=states, checkpoint_seconds=30.0)
    reports = PackWorker(order).step(math.inf)
    ledger.append([report.result for report in reports if report.result is not None])  # the launch was killed here
    planted = plant_seconds(tmp_path)
    assert planted == {task.config.trial_id: 1 for task in tasks}
    training = Training(plan_sweep(sweep, ledger), ledger, InlineExecutor(), None, states, 30.0)
    outcomes, interrupted = training.run(Console(quiet=True))
    assert not interrupted
    assert outcomes[Outcome.PRUNED] == 2
    assert outcomes.total() == 4
    check_went_on(tmp_path, planted)  # from epoch 1, where the launch found it, to 3, and on to 9
    assert plan_sweep(sweep, ledger).is_complete


@pytest.mark.slow
def test_what_is_searched_is_chosen_once_it_is_found_and_tells_no_lines_apart(tmp_path: Path) -> None:
    base: dict[str, Any] = {"num_epochs": 3, "num_train": 40, "num_test": 50, "dimension": 60, "num_filters": 4}
    grid = Grid({"adam": {}, "adamw": {}}, {"batch_size": (5, 40), "noise_sparsity": (5, 10)}, base)
    search = HalvingSearch({"adam": SPACE, "adamw": SPACE}, rounds=1, per_round=2, num_rungs=1)
    sweep = Sweep("s", "s", (grid,), seeds=(0, 1), search=search, figures=("error_vs_batch_size",))
    ledger = Ledger(str(tmp_path))
    plan = plan_sweep(sweep, ledger)
    assert selection_of(sweep, plan.scheduler).chosen == (), "the trials that are shown are all that were tried"
    Training(plan, ledger, InlineExecutor(), None, str(tmp_path / "states"), 30.0).run(Console(quiet=True))
    assert selection_of(sweep, plan.scheduler).chosen == ("learning_rate", "weight_decay")
    png, _ = show(plan, ledger, Console(quiet=True), with_figures=True)
    ids = {config.trial_id for config in selection_of(sweep, plan.scheduler).configs}
    trials, traces = (read(WORKLOAD, trial_ids=ids).to_pandas() for read in (ledger.trials, ledger.traces))
    figure = figure_of("error_vs_batch_size", trials, traces, selection_of(sweep, plan.scheduler).chosen)
    labels = [container.get_label() for container in figure.axes[0].containers]
    assert labels == [f"{name}, $s$ = {s}" for name in ("Adam", "AdamW") for s in (5, 10)]
    own, _ = draw("error_vs_batch_size", given(trials, traces, selection_of(sweep, plan.scheduler).chosen), tmp_path)
    assert png.read_bytes() == own.read_bytes()


def test_a_searched_field_that_other_cells_give_values_tells_trials_apart(finished: tuple[Path, str]) -> None:
    ledger = Ledger(str(finished[0] / "results"))
    base: dict[str, Any] = {"batch_size": 5, "num_epochs": 27, "num_train": 40, "num_test": 100, "dimension": 60}
    grid = Grid({"adam": {}, "adamw": {}}, {}, {**base, "noise_sparsity": 10, "num_filters": 4})
    space = {"learning_rate": LogUniform(1e-4, 1e-2), "weight_decay": LogUniform(1e-6, 1e-1)}
    search = HalvingSearch({"adam": space, "adamw": space}, rounds=3, per_round=6, reduction=3)
    sweep = Sweep("searched", "two cells", (grid,), seeds=(0, 1), search=search)
    assert selection_of(sweep, plan_sweep(sweep, ledger).scheduler).chosen == ("learning_rate", "weight_decay")
    wider = sweep.with_overrides(["weight_decay+=1e-3"])
    assert selection_of(wider, plan_sweep(wider, ledger).scheduler).chosen == ("learning_rate",)


def test_a_line_on_an_edge_tells_its_cell_from_all_others(tmp_path: Path) -> None:
    sizes = {"batch_size": 5, "num_epochs": 1, "num_test": 20, "dimension": 16, "noise_sparsity": 4, "num_filters": 2}
    grid = Grid({"adam": {}}, {"num_train": tuple(range(10, 40))}, sizes)
    search = HalvingSearch({"adam": SPACE}, rounds=1, per_round=1)
    ledger = Ledger(str(tmp_path))
    scheduler = plan_sweep(Sweep("s", "s", (grid,), seeds=(0,), search=search), ledger).scheduler
    tasks, _ = scheduler.advance()
    results = []
    for task in tasks:
        (report,) = workload(WORKLOAD).open([Member(task.config, task.until_epoch)]).advance(math.inf)
        assert report.result is not None
        results.append(report.result)
    scheduler.advance(results)
    edges = [line for line in scheduler.edges() if line.startswith("near the end of its axis: ")]
    assert edges
    for line in edges:
        found = re.search(r"(\w+)=(\S+) of optimizer=adam, batch_size=5, num_train=(\d+); the best may lie", line)
        assert found, line
        field, value, num_train = found.groups()
        (config,) = (task.config for task in tasks if task.config.model_dump()["num_train"] == int(num_train))
        assert f"{getattr(config, field):g}" == value


def test_a_damaged_file_of_asks_is_named(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "copy")
    part = next((folder / "results" / "asks").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:40])
    done = launch(folder, "plan", "searched")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(part) in line
    with pytest.raises(LedgerError, match="truncated"):
        Ledger(str(folder / "results")).asks.rounds(part.parent.name.removeprefix("search="))


def test_a_search_has_no_max_trials(tmp_path: Path) -> None:
    done = launch(folder_of(tmp_path), "searched", "--max-trials", "3", *INLINE)
    assert done.returncode == 2
    assert "--max-trials is for grids" in done.stderr


WAITING = """
import io, sys
from dataclasses import replace
from pathlib import Path
from rich.console import Console
from orchestrator.errors import LedgerError
from orchestrator.executors.registry import ExecutorSettings, connected
from orchestrator.schedulers.plan import ledger_of, plan_sweep
from orchestrator.sweeps.registry import find_sweep
from orchestrator.driver.loop import Training

class UntilRecorded:
    \"\"\"A plan's work that goes on, as a search does, when its results are recorded.\"\"\"
    is_finished = False

    def __init__(self, work):
        self._scheduler = work

    def __getattr__(self, name):
        return getattr(self._scheduler, name)

    def advance(self, results=()):
        self.is_finished = bool(results)
        return ([], []) if results else self._scheduler.advance()

if __name__ == "__main__":
    sweep = find_sweep("grid_bsz").with_overrides(["num_epochs=20", "batch_size=200"], "0")
    ledger = ledger_of(sweep, "results")
    ledger.check_writable()
    plan = plan_sweep(sweep, ledger)
    waiting = replace(plan, scheduler=UntilRecorded(plan.scheduler))
    settings = ExecutorSettings(states_root=str(Path("results/states").resolve()), device="cpu")
    with connected(sys.argv[1], settings) as executor:
        training = Training(waiting, ledger, executor, None, "results/states", 30.0)
        Path("results/trials/workload=two_layer_cnn").write_text("a file where a folder belongs")
        try:
            training.run(Console(file=io.StringIO()))
        except LedgerError as error:
            print("raised", error)
"""


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_search_ends_when_the_results_that_it_waits_for_cannot_be_written(executor: str, tmp_path: Path) -> None:
    """Nothing is in flight then, so no later result could report the failure."""
    (tmp_path / "waiting.py").write_text(WAITING)
    done = subprocess.run(
        [sys.executable, "waiting.py", executor],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raised "), done.stdout + done.stderr
