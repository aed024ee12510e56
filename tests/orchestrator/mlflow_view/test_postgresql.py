"""Several sweeps at once into one MLflow on a real PostgreSQL and one ledger in an object store, as on a cluster."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.mlflow_view.connection import MlflowUnavailable
from orchestrator.mlflow_view.view import MlflowView
from orchestrator.sweeps.registry import find_sweep
from tests.orchestrator.mlflow_view.test_view import children, parent_of
from tests.support.launching import WORKLOAD, environment, launch, make_folder
from tests.support.servers import ObjectStore, PostgreSQL, free_port, mlflow_server, object_store, postgresql
from tests.support.warm_python import run_python

MORE_SWEEPS = """
@sweep
def again() -> Sweep:
    return Sweep("again", "the trials of small", (Grid(DECAYS, {"batch_size": (2, 7, 40)}, SMALL),), seeds=(0, 1))
"""
SWEEPS = ("small", "overlapping", "diverging", "again")
MEASURED = ("train_loss", "train_error", "test_error", "epochs_done")

OPEN = """
import sys
from orchestrator.mlflow_view.view import MlflowView
MlflowView(sys.argv[1], sys.argv[2], "").close(finished=True)
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with postgresql() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running:
        yield running


def launched_at_once(folder: Path, out: str, tracking_uri: str, store: ObjectStore) -> None:
    """Four launches at once; none of them may report a problem with MLflow."""
    made = make_folder(folder)
    with (made / "my_sweeps.py").open("a") as module:
        module.write(MORE_SWEEPS)
    where = {**store.environment, "MLFLOW_TRACKING_URI": tracking_uri}
    arguments = ("--executor", "inline", "--no-figures", "--out", out)
    with ThreadPoolExecutor(len(SWEEPS)) as pool:
        launches = list(pool.map(lambda name: launch(made, name, *arguments, **where), SWEEPS))
    for done in launches:
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"mlflow   mlflow ui --backend-store-uri {tracking_uri}" in done.stdout


def assert_view_is_the_ledger(folder: Path, out: str, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial has one run under each sweep that has the trial, with the numbers of Parquet."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_sweeps", raising=False)
    rows: dict[str, dict[str, Any]] = {row["trial_id"]: row for row in Ledger(out).trials(WORKLOAD).to_pylist()}
    planned = {name: {config.trial_id for config in find_sweep(name, "my_sweeps").configs()} for name in SWEEPS}
    assert set(rows) == set().union(*planned.values())
    for name, trial_ids in planned.items():
        assert parent_of(tracking_uri, name).info.status == "FINISHED"
        runs = children(tracking_uri, name)  # fails on two runs of one trial
        assert set(runs) == trial_ids
        for trial_id, run in runs.items():
            row = rows[trial_id]
            assert run.data.params["weight_decay"] == str(row["weight_decay"])
            assert run.data.tags["outcome"] == row["outcome"]
            finite = {name: row[name] for name in MEASURED if math.isfinite(row[name])}
            assert {name: run.data.metrics[name] for name in finite} == finite


@pytest.mark.slow
def test_four_sweeps_at_once_write_into_a_new_database(
    database: PostgreSQL, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking_uri, out = database.make_database("direct"), f"{store.make_bucket('direct')}/p"
    launched_at_once(tmp_path, out, tracking_uri, store)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    assert_view_is_the_ledger(tmp_path, out, tracking_uri, monkeypatch)


@pytest.mark.slow
def test_four_sweeps_at_once_write_through_a_server(
    database: PostgreSQL, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, out = database.make_database("served"), f"{store.make_bucket('served')}/p"
    with mlflow_server(backend, tmp_path) as url:
        launched_at_once(tmp_path / "user", out, url, store)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    assert_view_is_the_ledger(tmp_path / "user", out, backend, monkeypatch)


@pytest.mark.slow
def test_processes_that_open_an_empty_database_at_once_print_nothing(database: PostgreSQL, tmp_path: Path) -> None:
    uri = database.make_database("empty")
    names = [f"sweep{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        opened = pool.map(lambda name: run_python("-c", OPEN, uri, name, cwd=tmp_path, env=environment()), names)
    assert {(done.stdout, done.stderr, done.returncode) for done in opened} == {("", "", 0)}
    assert {parent_of(uri, name).info.status for name in names} == {"FINISHED"}


def test_a_database_that_is_down_is_one_line_within_seconds() -> None:
    begun = time.monotonic()
    with pytest.raises(MlflowUnavailable, match=r"127\.0\.0\.1") as caught:
        MlflowView(f"postgresql+psycopg2://atlas:secret@127.0.0.1:{free_port()}/none", "sweep", "")
    assert time.monotonic() - begun < 20
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
