"""Results that older code left are read and continued as if no code had changed: see `old.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.golden import old, results, texts
from tests.golden.launches import Said, launches
from tests.golden.old import IMAGES, SYNTHETIC
from tests.support.launching import check_went_on, half_done, plant_seconds

pytestmark = pytest.mark.slow
MADE_ON = results.load_json(old.MADE_ON)
TO_THE_BIT = results.circumstances().items() <= MADE_ON.items()
WITHIN = None if TO_THE_BIT else results.NEAR
TRIALS, TRACES = old.undisturbed()


@dataclass(frozen=True)
class TakenUp:
    """The old results after `old.TAKE_UP`, what these launches said, and the same results before."""

    folder: Path
    before: Path
    said: Mapping[str, Said]
    half_done: Mapping[str, set[str]]
    planted: Mapping[str, Mapping[str, int]]

    @property
    def out(self) -> Path:
        return self.folder / "results"


@pytest.fixture(scope="module")
def taken_up(tmp_path_factory: pytest.TempPathFactory) -> TakenUp:
    folder = old.unpacked(tmp_path_factory.mktemp("old") / "results of old")
    before = folder.with_name("before")
    shutil.copytree(folder, before)
    out = folder / "results"
    left = {workload: half_done(out, workload) for workload in (IMAGES, SYNTHETIC)}
    # Once for all workloads: a second planting would add the seconds again.
    planted = plant_seconds(out, SYNTHETIC)
    said = launches(folder, (*old.STATUS, *old.TAKE_UP), **old.where(folder))
    by_command = dict(zip((*old.STATUS, *old.TAKE_UP), said, strict=True))
    return TakenUp(folder, before, by_command, left, {SYNTHETIC: planted, IMAGES: dict.fromkeys(planted, -1)})


def of_sweep(name: str) -> dict[str, results.Row]:
    """The recorded rows of its trials: the number of epochs, or the images, tell the sweeps apart."""
    kinds: dict[str, Callable[[results.Row], bool]] = {
        "finished": lambda row: row["workload"] == SYNTHETIC and row["num_epochs"] == 30,
        "long": lambda row: row["workload"] == SYNTHETIC and row["num_epochs"] > 1000,
        "pictured": lambda row: row["workload"] == IMAGES,
        "mapped": lambda row: row["workload"] == SYNTHETIC and row["num_epochs"] == 40,
    }
    return {trial_id: row for trial_id, row in TRIALS.items() if kinds[name](row)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", old.STATUS)
def test_status_says_of_old_results_what_it_said(command: str, taken_up: TakenUp) -> None:
    assert taken_up.said[command].out == texts.load(old.STATUSES)[command]


@pytest.mark.parametrize("command", old.TAKE_UP)
def test_a_launch_that_goes_on_from_old_results_ends_well(command: str, taken_up: TakenUp) -> None:
    said = taken_up.said[command]
    assert said.code == 0, said.out + said.err


@pytest.mark.parametrize(("name", "workload"), [("long", SYNTHETIC), ("pictured", IMAGES)])
def test_a_half_done_trial_goes_on_from_its_old_state(name: str, workload: str, taken_up: TakenUp) -> None:
    killed = taken_up.half_done[workload] & of_sweep(name).keys()
    assert len(killed) == 1
    assert killed <= taken_up.planted[workload].keys()
    check_went_on(taken_up.out, taken_up.planted[workload], workload=workload)
    assert not killed & half_done(taken_up.out, workload), "its state is of no more use"


@pytest.mark.parametrize("name", ["finished", "long", "pictured"])
def test_trials_end_as_if_nothing_had_happened(name: str, taken_up: TakenUp) -> None:
    wanted = of_sweep(name)
    within = results.NEAR_OF_NETWORK if name == "pictured" and not TO_THE_BIT else WITHIN
    results.assert_rows_equal(results.rows(taken_up.out), wanted, within)
    traces = {trial_id: TRACES[trial_id] for trial_id in wanted}
    results.assert_traces_equal(results.traces(taken_up.out), traces, within)


def test_old_files_are_as_they_were(taken_up: TakenUp) -> None:
    """Rows and asks of another driver are read, and neither rewritten nor run again (`rows` refuses a second one)."""
    before, after = contents(taken_up.before / "results"), contents(taken_up.out)
    parts = {name: content for name, content in before.items() if name.endswith(".parquet")}
    assert len(parts) > 10
    assert parts.items() <= after.items()
    assert results.rows(taken_up.before / "results").keys() < results.rows(taken_up.out).keys()


def test_a_map_takes_up_its_old_rounds_and_asks_the_next_ones(taken_up: TakenUp) -> None:
    before, after = results.asks(taken_up.before / "results"), results.asks(taken_up.out)
    recorded = results.load_json(old.ASKS)
    assert before.keys() == after.keys() == recorded.keys()
    for search_id, rounds in before.items():
        assert results.exactly(rounds).items() <= results.exactly(after[search_id]).items()
    assert any(before[search_id].keys() < after[search_id].keys() for search_id in before), "nothing was left to ask"
    results.assert_asks_equal(after, recorded, WITHIN)
    found, wanted = results.rows(taken_up.out), of_sweep("mapped")
    if TO_THE_BIT:
        mapped = {trial_id for trial_id, row in found.items() if row["num_epochs"] == 40}
        assert mapped == wanted.keys()
    shared = {trial_id: row for trial_id, row in wanted.items() if trial_id in found}
    results.assert_rows_equal(found, shared, WITHIN)


def test_old_decoded_images_are_used(taken_up: TakenUp) -> None:
    """The image files hold only zeros: decoding them again would fail."""
    for path in (taken_up.folder / "data" / "tiny8").iterdir():
        assert not any(path.read_bytes())
    assert contents(taken_up.folder / "cache") == contents(taken_up.before / "cache")
    assert len(of_sweep("pictured").keys() & results.rows(taken_up.out).keys()) == 2


@pytest.mark.skipif(version("mlflow") != MADE_ON["mlflow"], reason="MLflow opens no database of another version's")
def test_an_old_mlflow_database_takes_the_new_runs_beside_the_old_ones(taken_up: TakenUp) -> None:
    before, after = old.child_runs(taken_up.before), old.child_runs(taken_up.folder)
    assert len(before) == 4
    assert set(before) < set(after)
    assert [trial_id for trial_id, _, _ in after] == sorted(of_sweep("finished"))
    assert {experiment for _, _, experiment in after} == {"lambda-atlas"}
    assert old.parent_runs(taken_up.folder) == old.parent_runs(taken_up.before)
    assert taken_up.said[old.TAKE_UP[-1]].out == "finished: 0 runs written to MLflow\n"
