"""The MLflow view, on real SQLite databases and a real server."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.driver.mlflow_export import export_mlflow
from orchestrator.driver.options import RunOptions
from orchestrator.driver.run import run_sweep
from orchestrator.errors import UserError
from orchestrator.mlflow_view.background import BackgroundView
from orchestrator.mlflow_view.connection import MlflowUnavailable, default_tracking_uri
from orchestrator.mlflow_view.runs import child_run
from orchestrator.mlflow_view.view import EXPERIMENT, MlflowView
from orchestrator.sweeps.value import Grid, Sweep
from trainables.result import Outcome, Provenance, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint

FINISHED_AT = 1_760_000_000.25
EPOCHS = (0, 1, 10, 100)
METRICS = [field.name for field in fields(TwoLayerCNNTracePoint) if field.name != "epoch"]
PROVENANCE = Provenance(
    engine="fused-cpu",
    device="cpu",
    device_name="a processor",
    num_threads=1,
    hostname="here",
    code_digest="c0de",
    git_sha="f" * 40,
    git_dirty=False,
    package_version="0.1.0",
    python_version="3.11.2",
    numpy_version="2.0.0",
    numba_version=None,
    torch_version=None,
)


def trial(
    seed: int = 0,
    *,
    optimizer: str = "adam",
    outcome: Outcome = Outcome.LEARNED,
    epochs: Sequence[int] = EPOCHS,
    error: str | None = None,
    finished_at: float = FINISHED_AT,
) -> TrialResult:
    config = TwoLayerCNNConfig(optimizer=optimizer, weight_decay=1e-5, batch_size=2, num_epochs=100, seed=seed)
    trace = tuple(
        TwoLayerCNNTracePoint(epoch, *(epoch + number / 100 for number in range(len(METRICS)))) for epoch in epochs
    )
    return TrialResult(
        config=config,
        outcome=outcome,
        epochs_done=100,
        trace=trace,
        data_digest="d",
        init_digest="i",
        order_digest=None,
        train_seconds=12.5,
        finished_at=finished_at,
        provenance=PROVENANCE,
        error=error,
    )


def with_last_loss(result: TrialResult, loss: float) -> TrialResult:
    return replace(result, trace=(*result.trace[:-1], replace(result.trace[-1], train_loss=loss)))


def add(view: MlflowView | BackgroundView, *results: TrialResult) -> None:
    view.add([r.trial_row() for r in results], {r.trial_id: r.trace_rows() for r in results})


def parent_of(uri: str, sweep: str) -> Run:
    (parent,) = search(uri, f"tags.`lambda_atlas.sweep` = '{sweep}'")
    return parent


def children(uri: str, sweep: str) -> dict[str, Run]:
    found = search(uri, f"tags.`mlflow.parentRunId` = '{parent_of(uri, sweep).info.run_id}'")
    by_trial = {run.data.tags["trial_id"]: run for run in found}
    assert len(by_trial) == len(found)
    return by_trial


def search(uri: str, condition: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], condition))


def history(uri: str, run: Run) -> dict[str, list[tuple[int, int, float]]]:
    client = MlflowClient(uri)
    return {
        name: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port where nobody listens; MLflow asks as often as it does otherwise, but waits for less."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0.1")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, nobody else takes it
        yield sock.getsockname()[1]


def test_default_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri("runs/a") == f"sqlite:///{tmp_path}/runs/a/mlflow.db"
    assert default_tracking_uri(f"file://{tmp_path}/b") == f"sqlite:///{tmp_path}/b/mlflow.db"
    assert default_tracking_uri("s3://bucket/c/") == f"sqlite:///{tmp_path}/mlflow-views/bucket/c/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert default_tracking_uri("runs/a") == "http://mlflow:5000"


def test_a_sweep_is_a_parent_with_a_child_for_each_trial(uri: str) -> None:
    before = mlflow.get_tracking_uri()
    view = MlflowView(uri, "structure", "Error against B")
    adam, adamw = trial(), trial(optimizer="adamw")
    add(view, adam, adamw)
    assert parent_of(uri, "structure").info.status == "RUNNING"
    view.close(finished=True, summary={"trials": 2})

    parent = parent_of(uri, "structure")
    assert (parent.info.run_name, parent.info.status) == ("structure", "FINISHED")
    assert parent.data.tags["mlflow.note.content"] == "Error against B"
    assert parent.data.metrics == {"trials": 2.0}
    runs = children(uri, "structure")
    assert set(runs) == {adam.trial_id, adamw.trial_id} == view.present()
    run = runs[adam.trial_id]
    assert run.info.run_name == "adam B=2 λ=1e-05 seed=0"
    assert (run.info.status, run.info.end_time) == ("FINISHED", round(FINISHED_AT * 1000))
    assert run.info.end_time - run.info.start_time == 12_500
    assert run.data.params == {k: str(v) for k, v in adam.config.model_dump(mode="json").items() if v is not None}
    assert run.data.params["weight_decay"] == "1e-05"
    expected_tags = {"outcome": "learned", "engine": "fused-cpu", "device": "cpu", "git_sha": "f" * 40}
    expected_tags |= {"mlflow.source.git.commit": "f" * 40, "trajectory_id": adam.config.trajectory_id}
    assert expected_tags.items() <= run.data.tags.items()
    assert not {"error", "order_digest", "torch_version"} & set(run.data.tags)
    assert (mlflow.get_tracking_uri(), mlflow.active_run()) == (before, None)


def test_metrics_are_the_trace_by_epoch_and_end_in_the_final_value(uri: str) -> None:
    view = MlflowView(uri, "metrics", "")
    result = trial()
    add(view, result)
    run = children(uri, "metrics")[result.trial_id]
    final = {name: result.trial_row()[name] for name in METRICS}
    assert run.data.metrics == {**final, "epochs_done": 100.0, "train_seconds": 12.5}
    losses = history(uri, run)["train_loss"]
    assert [(step, value) for step, _, value in losses] == [(p.epoch, p.train_loss) for p in result.trace]


def test_a_row_without_its_trace_still_has_final_metrics(uri: str) -> None:
    view = MlflowView(uri, "no_trace", "")
    result = trial()
    view.add([result.trial_row()], {})
    run = children(uri, "no_trace")[result.trial_id]
    assert run.data.metrics["test_error"] == result.trace[-1].test_error
    assert [step for step, _, _ in history(uri, run)["test_error"]] == [100]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.DIVERGED, "FINISHED"), (Outcome.FAILED, "FAILED"), (Outcome.PRUNED, "KILLED")],
)
def test_status_follows_the_outcome(uri: str, outcome: Outcome, status: str) -> None:
    sweep = f"status_{outcome}"
    view = MlflowView(uri, sweep, "")
    result = trial(outcome=outcome, epochs=())
    add(view, result)
    assert children(uri, sweep)[result.trial_id].info.status == status
    assert MlflowView(uri, sweep, "").present() == ({result.trial_id} if status == "FINISHED" else set())


def test_a_failed_trial_shows_the_end_of_its_traceback(uri: str) -> None:
    view = MlflowView(uri, "failed", "")
    result = trial(outcome=Outcome.FAILED, epochs=(), error="Traceback\n" + "x" * 9000 + "\nMemoryError: too much")
    add(view, result)
    shown = children(uri, "failed")[result.trial_id].data.tags["error"]
    assert shown.endswith("x\nMemoryError: too much")
    assert len(shown) == 5000


def test_adding_again_changes_nothing(uri: str) -> None:
    results = [trial(seed) for seed in range(3)] + [trial(3, outcome=Outcome.FAILED, epochs=())]
    view = MlflowView(uri, "again", "")
    add(view, *results, *results)
    first = {trial_id: run.info.run_id for trial_id, run in children(uri, "again").items()}
    assert set(first) == {result.trial_id for result in results}
    add(view, *results)
    another = MlflowView(uri, "again", "")
    assert another.present() == {result.trial_id for result in results[:3]}
    add(another, *results)
    assert {trial_id: run.info.run_id for trial_id, run in children(uri, "again").items()} == first


def test_sweeps_share_an_experiment_but_not_their_runs(uri: str) -> None:
    one, other = MlflowView(uri, "one", ""), MlflowView(uri, "other", "")
    add(one, trial(0), trial(1))
    add(other, trial(0))
    assert set(children(uri, "one")) == {trial(0).trial_id, trial(1).trial_id}
    assert set(children(uri, "other")) == {trial(0).trial_id}


def test_a_failed_trial_is_replaced_once_it_is_settled_and_never_the_other_way(uri: str) -> None:
    view = MlflowView(uri, "replaced", "")
    failed, settled = trial(outcome=Outcome.FAILED, epochs=(), error="boom"), trial(finished_at=FINISHED_AT + 60)
    failed_later = replace(failed, finished_at=FINISHED_AT + 120)
    for result in (failed, failed_later, settled, failed_later):
        add(view, result)
    (run,) = children(uri, "replaced").values()
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "learned")
    assert "error" not in run.data.tags


@pytest.mark.parametrize("through_client", [False, True])
def test_a_half_written_run_is_written_anew(uri: str, monkeypatch: pytest.MonkeyPatch, through_client: bool) -> None:
    if through_client:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sweep = f"half_written_{through_client}"
    MlflowView(uri, sweep, "")
    parent, result = parent_of(uri, sweep), trial()
    tags = {"mlflow.parentRunId": parent.info.run_id, "trial_id": result.trial_id}
    half = MlflowClient(uri).create_run(parent.info.experiment_id, tags=tags)
    view = MlflowView(uri, sweep, "")
    assert view.present() == set()
    add(view, result)
    (run,) = children(uri, sweep).values()
    assert run.info.run_id != half.info.run_id
    assert (run.info.status, run.data.metrics["epochs_done"]) == ("FINISHED", 100.0)


def test_two_runs_of_one_trial_become_one(uri: str) -> None:
    """Two processes that write one sweep at the same moment leave two runs of a trial."""
    view, rival = MlflowView(uri, "rivals", ""), MlflowView(uri, "rivals", "")
    add(view, trial(0, outcome=Outcome.FAILED, epochs=()), trial(1))
    add(rival, trial(0), trial(1))
    parent_id = parent_of(uri, "rivals").info.run_id
    assert len(search(uri, f"tags.`mlflow.parentRunId` = '{parent_id}'")) == 4
    MlflowView(uri, "rivals", "")
    assert [run.info.status for run in children(uri, "rivals").values()] == ["FINISHED", "FINISHED"]


def plain(uri: str, run: Run, parent: Run) -> dict[str, Any]:
    """Everything of a run but the ids that MLflow generates."""
    info = {name: value for name, value in dict(run.info).items() if name not in ("run_id", "run_uuid")}
    info["artifact_uri"] = info["artifact_uri"].replace(run.info.run_id, "ID")
    tags = dict(run.data.tags)
    assert (tags.pop("mlflow.parentRunId"), tags.pop("sweep")) == (parent.info.run_id, parent.info.run_name)
    points = {
        name: [(step, at, "nan" if math.isnan(value) else value) for step, at, value in values]
        for name, values in history(uri, run).items()
    }
    final = {name: "nan" if math.isnan(value) else value for name, value in run.data.metrics.items()}
    return {"info": info, "tags": tags, "params": run.data.params, "points": points, "final": final}


def awkward_trials() -> list[TrialResult]:
    return [
        trial(0),
        trial(1, optimizer="signsgd"),
        with_last_loss(trial(2, outcome=Outcome.DIVERGED), math.nan),
        with_last_loss(trial(3, outcome=Outcome.DIVERGED), math.inf),
        with_last_loss(trial(4, outcome=Outcome.DIVERGED), -math.inf),
        trial(5, outcome=Outcome.FAILED, epochs=(), error="boom"),
        trial(6, epochs=range(100)),  # more points than MLflow takes in one batch
    ]


def test_the_fast_writer_and_mlflows_client_write_the_same(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = awkward_trials()
    add(MlflowView(uri, "fast", ""), *results)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # a database of the user's: only MLflow's client writes there
    add(MlflowView(uri, "by_client", ""), *results)
    written = [
        {trial_id: plain(uri, run, parent_of(uri, sweep)) for trial_id, run in children(uri, sweep).items()}
        for sweep in ("fast", "by_client")
    ]
    assert written[0] == written[1]
    assert set(written[0]) == {result.trial_id for result in results}
    assert [written[0][result.trial_id]["final"]["train_loss"] for result in results[2:5]] == [
        "nan",
        sys.float_info.max,
        -sys.float_info.max,
    ]


def test_a_database_of_another_schema_is_written_by_mlflows_client(uri: str, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(uri.removeprefix("sqlite:///"), database)
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE runs ADD COLUMN new_in_a_later_mlflow VARCHAR(10)")
    view = MlflowView(f"sqlite:///{database}", "schema", "")
    add(view, trial())
    assert set(children(f"sqlite:///{database}", "schema")) == {trial().trial_id}


def test_artifacts_replace_those_of_the_same_name(uri: str, tmp_path: Path) -> None:
    view = MlflowView(uri, "artifacts", "")
    figure, table = tmp_path / "error.png", tmp_path / "error.txt"
    table.write_text("B error")
    for content in (b"old", b"new"):
        figure.write_bytes(content)
        view.add_artifacts([figure, table])
    parent, client = parent_of(uri, "artifacts"), MlflowClient(uri)
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["error.png", "error.txt"]
    assert Path(client.download_artifacts(parent.info.run_id, "error.png")).read_bytes() == b"new"
    folder = Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
    assert parent.info.artifact_uri == f"{folder}/{parent.info.run_id}/artifacts"


def test_a_moved_output_folder_keeps_its_artifacts(uri: str, tmp_path: Path) -> None:
    figure = tmp_path / "error.png"
    figure.write_bytes(b"figure")
    MlflowView(uri, "moved", "").add_artifacts([figure])
    moved = tmp_path / "moved"
    shutil.copytree(Path(uri.removeprefix("sqlite:///")).parent, moved)
    new_uri = default_tracking_uri(str(moved))
    MlflowView(new_uri, "moved", "")
    artifacts = Path(parent_of(new_uri, "moved").info.artifact_uri)
    assert artifacts.is_relative_to(moved)
    assert (artifacts / "error.png").read_bytes() == b"figure"


def test_what_was_deleted_in_mlflow_is_rebuilt(uri: str, tmp_path: Path) -> None:
    """The run in the UI, the experiment in the UI, and the whole file, all under one process's open connections."""
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    own = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(own)

    def rebuilt() -> None:
        view = MlflowView(own, "rebuilt", "")
        add(view, trial())
        assert set(children(own, "rebuilt")) == {trial().trial_id}

    rebuilt()
    client.delete_run(parent_of(own, "rebuilt").info.run_id)
    rebuilt()
    client.delete_experiment(parent_of(own, "rebuilt").info.experiment_id)
    add(MlflowView(own, "rebuilt_too", ""), trial())
    assert set(children(own, "rebuilt_too")) == {trial().trial_id}
    (tmp_path / "mlflow.db").unlink()
    rebuilt()


def told_of(uri: str, sweep: str) -> dict[str, dict[str, Any]]:
    """What a view says of each trial: all but times and the ids that MLflow generates."""
    return {
        trial_id: {
            "run": (run.info.run_name, run.info.status),
            "params": run.data.params,
            "tags": {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"},
            "points": {name: [(step, v) for step, _, v in points] for name, points in history(uri, run).items()},
        }
        for trial_id, run in children(uri, sweep).items()
    }


def test_a_view_that_is_rebuilt_is_the_one_that_was_deleted(uri: str, tmp_path: Path) -> None:
    sizes = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4, "num_epochs": 30}
    grid = Grid({"adam": {"weight_decay": 1.0}, "signsgd": {"weight_decay": 1e-3}}, {"batch_size": (2, 20)}, sizes)
    sweep = Sweep("told_twice", "what is told live and from the ledger", (grid,), seeds=(0, 1))
    live, rebuilt = tmp_path / "live", tmp_path / "rebuilt"
    for out in (live, rebuilt):
        out.mkdir()
        shutil.copy(uri.removeprefix("sqlite:///"), out / "mlflow.db")
    run_sweep(sweep, RunOptions(out=str(live), executor="inline", figures=False))
    for table in ("trials", "traces"):
        shutil.copytree(live / table, rebuilt / table)
    assert export_mlflow(sweep, str(rebuilt)) == 8
    told = told_of(f"sqlite:///{live}/mlflow.db", "told_twice")
    assert told == told_of(f"sqlite:///{rebuilt}/mlflow.db", "told_twice")
    assert len(told) == 8
    for run in told.values():
        assert {"driver_id", "attempt", "outcome", "code_digest"} <= set(run["tags"])
        assert len(run["points"]["train_loss"]) > 1


CREATE = """
import sys, time
from pathlib import Path
import mlflow
from orchestrator.mlflow_view.view import MlflowView
uri, name, ready = sys.argv[1], sys.argv[2], [Path(path) for path in sys.argv[3:]]
Path(ready[int(name)]).touch()
while not all(path.exists() for path in ready):
    time.sleep(0.01)
MlflowView(uri, f"sweep{name}", "").close(finished=True)
"""


@pytest.mark.slow
def test_two_processes_create_one_database_and_print_nothing(tmp_path: Path) -> None:
    own = default_tracking_uri(str(tmp_path / "out"))
    ready = [str(tmp_path / f"ready{number}") for number in range(2)]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, own, str(number), *ready], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for number in range(2)
    ]
    printed = [driver.communicate()[0].decode() for driver in drivers]
    assert ([driver.returncode for driver in drivers], printed) == ([0, 0], ["", ""])
    assert {parent_of(own, f"sweep{number}").info.status for number in range(2)} == {"FINISHED"}


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like one" * 100)
    with pytest.raises(MlflowUnavailable, match=r"MLflow: file is not a database \(sqlite:///.*mlflow\.db\)") as raised:
        MlflowView(default_tracking_uri(str(tmp_path)), "sweep", "")
    assert isinstance(raised.value, UserError)
    assert "\n" not in str(raised.value)


@pytest.mark.timeout(120)
def test_a_server_that_is_down_is_reported_without_its_password(closed_port: int) -> None:
    with pytest.raises(MlflowUnavailable, match="Connection refused") as raised:
        MlflowView(f"http://user:secret@127.0.0.1:{closed_port}", "sweep", "")
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.timeout(120)
def test_the_background_view_goes_on_without_a_server(closed_port: int) -> None:
    address = f"http://127.0.0.1:{closed_port}"
    with BackgroundView(address, "sweep", "", lambda ids: pytest.fail("nobody is there to ask")) as view:
        add(view, trial(0))
        view.finish([], finished=True)
        add(view, trial(1))
        view.catch_up([trial(1).trial_id])
    assert view.problem == f"MLflow: [Errno 111] Connection refused ({address})"


def nothing(trial_ids: Collection[str]) -> list[Any]:
    return []


def test_the_background_view_writes_all_before_it_finishes(uri: str, tmp_path: Path) -> None:
    figure = tmp_path / "error.png"
    figure.write_bytes(b"figure")
    add(MlflowView(uri, "background", ""), trial(0))
    asked: list[set[str]] = []

    def load(trial_ids: Collection[str]) -> list[tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]]:
        asked.append(set(trial_ids))
        return [([trial(1).trial_row()], {trial(1).trial_id: trial(1).trace_rows()})]

    with BackgroundView(uri, "background", "", load) as view:
        view.catch_up([trial(0).trial_id, trial(1).trial_id])
        for seed in range(2, 5):
            add(view, trial(seed))
        view.finish([figure], finished=True, summary={"trials": 5})
    assert view.problem is None
    assert asked == [{trial(1).trial_id}]
    assert set(children(uri, "background")) == {trial(seed).trial_id for seed in range(5)}
    parent = parent_of(uri, "background")
    assert (parent.info.status, parent.data.metrics) == ("FINISHED", {"trials": 5.0})
    assert [file.path for file in MlflowClient(uri).list_artifacts(parent.info.run_id)] == ["error.png"]


def test_a_background_view_that_is_left_early_ends_as_killed(uri: str) -> None:
    with BackgroundView(uri, "left", "", nothing) as view:
        add(view, trial())
    assert set(children(uri, "left")) == {trial().trial_id}
    assert parent_of(uri, "left").info.status == "KILLED"


def test_a_row_that_breaks_the_view_becomes_its_problem(uri: str) -> None:
    with BackgroundView(uri, "broken", "", nothing) as view:
        view.add([{"workload": "two_layer_cnn"}], {})
        add(view, trial())
    assert view.problem == "MLflow view: KeyError: 'trial_id'"
    assert children(uri, "broken") == {}


def test_a_trial_of_fields_that_are_none_has_no_params_for_them() -> None:
    result = trial(optimizer="signsgd")
    run = child_run(result.trial_row(), result.trace_rows())
    assert "beta1" in TwoLayerCNNConfig.model_fields
    assert "beta1" not in run.params
    assert "None" not in {*run.params.values(), *run.tags.values()}


@pytest.fixture
def server(uri: str, tmp_path: Path) -> Iterator[str]:
    """`mlflow server` on the database of the other tests."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", str(tmp_path / "served")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.slow
def test_mlflow_ui_shows_the_children_and_a_server_is_written_like_a_file(uri: str, server: str) -> None:
    results = awkward_trials()
    add(MlflowView(uri, "shown", ""), *results)
    parent = parent_of(uri, "shown")
    found = post(
        server,
        "runs/search",
        {
            "experiment_ids": [parent.info.experiment_id],
            "filter": f"tags.mlflow.parentRunId = '{parent.info.run_id}'",
        },
    )
    shown = {run["info"]["run_name"] for run in found["runs"]}
    assert shown == {child_run(r.trial_row(), ()).name for r in results}

    served = MlflowView(server, "served", "")
    add(served, *results)
    served.close(finished=True)
    assert {t: plain(uri, run, parent_of(uri, "served")) for t, run in children(uri, "served").items()} == {
        t: plain(uri, run, parent) for t, run in children(uri, "shown").items()
    }
    assert MlflowView(server, "served", "").present() == served.present() != set()
