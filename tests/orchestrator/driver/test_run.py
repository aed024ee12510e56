"""Sweeps end to end with the inline executor: nothing runs twice, nothing is lost, whatever is killed or down."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

from tests.support.launching import (
    SWEEPS,
    WORKLOAD,
    check_went_on,
    checked,
    launch,
    make_folder,
    parts,
    plant_seconds,
    rows,
    start,
    traces,
    wait_for,
)
from trainables.result import Outcome

INLINE = ("--executor", "inline", "--no-figures", "--no-mlflow")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with `small`, run once without disturbance."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"))
    checked(folder, "small", *INLINE)
    return folder / "results"


@pytest.fixture(scope="module")
def undisturbed_longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with `longer`, likewise."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed_longer"))
    checked(folder, "longer", *INLINE)
    return folder / "results"


def number_run(output: str) -> int:
    match = re.search(r"(\d+) to run", output)
    assert match, output
    return int(match.group(1))


def test_running_again_runs_nothing_and_writes_nothing(undisturbed: Path) -> None:
    before = parts(undisturbed)
    assert number_run(checked(undisturbed.parent, "small", *INLINE)) == 0
    assert parts(undisturbed) == before


@pytest.mark.slow
def test_more_seeds_run_only_the_new_ones_and_sweeps_share_trials(tmp_path: Path, undisturbed: Path) -> None:
    folder = make_folder(tmp_path)
    assert number_run(checked(folder, "small", *INLINE)) == 12
    assert number_run(checked(folder, "small", *INLINE, "--seeds", "0-2")) == 6
    assert number_run(checked(folder, "overlapping", *INLINE)) == 4
    seen = rows(folder / "results")
    assert len(seen) == 12 + 6 + 4
    assert {k: v for k, v in rows(undisturbed).items() if k in seen} == {
        k: seen[k] for k in rows(undisturbed) if k in seen
    }


@pytest.mark.slow
def test_max_trials_runs_that_many(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert number_run(checked(folder, "small", *INLINE, "--max-trials", "5")) == 5
    assert len(rows(folder / "results")) == 5
    assert number_run(checked(folder, "small", *INLINE)) == 7


@pytest.mark.parametrize(
    ("results", "num_cells", "num_seeds"),
    [("undisturbed", 6, 2), pytest.param("undisturbed_longer", 3, 3, marks=pytest.mark.slow)],
)
def test_pairs_share_data_initial_weights_and_batches(
    results: str, num_cells: int, num_seeds: int, request: pytest.FixtureRequest
) -> None:
    by_cell: dict[tuple[int, int], set[tuple[str, str, str]]] = {}
    for row in rows(request.getfixturevalue(results)).values():
        digests = (row["data_digest"], row["init_digest"], row["order_digest"])
        by_cell.setdefault((row["batch_size"], row["seed"]), set()).add(digests)
    assert len(by_cell) == num_cells
    assert all(len(digests) == 1 for digests in by_cell.values())
    assert len(set.union(*by_cell.values())) == len({seed for _, seed in by_cell}) == num_seeds


@pytest.mark.slow
def test_a_killed_driver_loses_nothing_and_the_rest_goes_on_from_its_states(
    tmp_path: Path, undisturbed_longer: Path
) -> None:
    folder = make_folder(tmp_path)
    out = folder / "results"
    every_save = ("longer", *INLINE, "--checkpoint-seconds", "0.1")
    plantings = []
    for _ in range(2):
        earlier = set(out.glob("states/*.npz"))
        process = start(folder, *every_save)
        wait_for(lambda known=earlier: set(out.glob("states/*.npz")) - known, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        plantings.append(plant_seconds(out))
    assert len(rows(out)) < 6
    # Another selection packs the rest differently; seed 1 resumes alone, then all.
    checked(folder, *every_save, "--seeds", "1")
    num_left = 6 - len(rows(out))
    assert number_run(checked(folder, *every_save)) == num_left
    check_went_on(out, *plantings)
    assert rows(out) == rows(undisturbed_longer)
    assert traces(out) == traces(undisturbed_longer)
    assert not list(out.glob("states/*"))


@pytest.mark.slow
def test_two_drivers_at_once_lose_and_overwrite_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    both = [start(folder, name, *INLINE) for name in ("small", "overlapping")]
    for process in both:
        stdout, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stdout + stderr
    seen = rows(folder / "results")
    assert len(seen) == 12 + 8 - 2
    alone = make_folder(tmp_path / "alone")
    checked(alone, "small", *INLINE)
    checked(alone, "overlapping", *INLINE)
    assert rows(alone / "results") == seen
    assert traces(alone / "results") == traces(folder / "results")


def test_one_driver_at_a_time_for_a_sweep(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    first = start(folder, "longer", *INLINE)
    wait_for(lambda: list(folder.glob("results/.leases/longer.lock")), first)
    second = launch(folder, "longer", *INLINE)
    if first.poll() is None:
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        assert "being run" in second.stderr
    first.kill()
    first.communicate()
    assert number_run(checked(folder, "longer", *INLINE, "--max-trials", "1")) == 1


@pytest.mark.slow
def test_diverging_trials_are_outcomes_and_settle(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    checked(folder, "diverging", *INLINE)
    outcomes = {(row["learning_rate"], row["outcome"]) for row in rows(folder / "results").values()}
    assert (1e18, Outcome.DIVERGED) in outcomes
    assert all(outcome != Outcome.DIVERGED for rate, outcome in outcomes if rate == 1e-3)
    assert number_run(checked(folder, "diverging", *INLINE)) == 0


def test_a_truncated_or_foreign_ledger_file_is_named_and_left_alone(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    checked(folder, "small", *INLINE)
    part = next((folder / "results" / "trials").rglob("*.parquet"))
    for damage in (part.read_bytes()[:1000], b"not parquet"):
        part.write_bytes(damage)
        before = parts(folder / "results")
        refused = launch(folder, "small", *INLINE, "--seeds", "0-5")
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert part.name in refused.stderr
        assert parts(folder / "results") == before


def test_an_unwritable_output_folder_is_one_line(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "file").touch()
    refused = launch(folder, "small", *INLINE, "--out", "file/results")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "file/results" in refused.stderr


@pytest.mark.slow
def test_a_changed_workload_version_says_how_many_rows_it_leaves_behind(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    checked(folder, "small", *INLINE)
    newer = "from trainables.two_layer_cnn.config import TwoLayerCNNConfig\nTwoLayerCNNConfig.numeric_version = 99\n"
    (folder / "my_sweeps.py").write_text(newer + SWEEPS)
    assert re.search(r"\b12 rows\b", checked(folder, "plan", "small"))
    output = checked(folder, "small", *INLINE, "--max-trials", "1")
    assert re.search(r"\b12 rows\b", output)
    assert number_run(output) == 1
    make_folder(folder)
    assert number_run(checked(folder, "small", *INLINE)) == 0


@pytest.mark.slow
def test_mlflow_down_is_said_once_and_filled_in_later(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed_port = free.getsockname()[1]
    arguments = ("small", "--executor", "inline", "--no-figures", "--max-trials", "3")
    output = checked(folder, *arguments, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{closed_port}")
    assert output.count("export-mlflow") == 1
    assert len(rows(folder / "results")) == 3
    assert "3 runs written" in checked(folder, "export-mlflow", "small")
    assert "0 runs written" in checked(folder, "export-mlflow", "small")

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'results' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'lambda-atlas'")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 4
    assert {run.data.tags["trial_id"] for run in children} == set(rows(folder / "results"))
    assert WORKLOAD in {run.data.params["workload"] for run in children}


@pytest.mark.slow
def test_the_mlflow_view_of_a_normal_run_is_complete_and_survives_deletion(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    arguments = ("small", "--executor", "inline", "--max-trials", "2")
    checked(folder, *arguments)
    database = folder / "results" / "mlflow.db"
    database.unlink()
    assert "2 runs written" in checked(folder, "export-mlflow", "small")
    assert database.exists()
