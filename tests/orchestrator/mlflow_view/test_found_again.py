"""A trial has one run, wherever its sweep's run is, and whatever the sweep is called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from orchestrator.mlflow_view.view import MlflowView
from tests.orchestrator.mlflow_view.test_view import add, children, parent_of, search, trial

TRIALS = tuple(trial(seed) for seed in range(2))
AWKWARD_NAMES = (
    "both ' and \"",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("kid's", "100%_a`b\\c", "x' OR tags.sweep = 'y")),
)
IDS = {result.trial_id for result in TRIALS}


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["sqlite", "client"])
def is_fast(request: pytest.FixtureRequest, uri: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the view writes into the file itself; a database of the user's is written by MLflow's client only."""
    if not request.param:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return bool(request.param)


def delete(uri: str, run_id: str) -> None:
    """As the UI does: without the children."""
    MlflowClient(uri).delete_run(run_id)


def delete_for_good(uri: str, run_id: str) -> None:
    """As `mlflow gc` does."""
    delete(uri, run_id)
    SqlAlchemyStore(uri, "unused")._hard_delete_run(run_id)


def put_under_a_second_run(uri: str, run_id: str) -> None:
    """As two drivers leave them that opened one server at the same moment."""
    client = MlflowClient(uri)
    old = client.get_run(run_id)
    tags = {"lambda_atlas.sweep": old.data.tags["lambda_atlas.sweep"]}
    second = client.create_run(old.info.experiment_id, old.info.start_time + 10**9, tags)
    for run in search(uri, f"tags.`mlflow.parentRunId` = '{run_id}'")[:1]:
        client.set_tag(run.info.run_id, "mlflow.parentRunId", second.info.run_id)


@pytest.mark.parametrize(
    "lose", [delete, delete_for_good, pytest.param(put_under_a_second_run, marks=pytest.mark.slow)]
)
def test_the_runs_of_a_lost_sweep_are_found_again(uri: str, is_fast: bool, lose: Callable[[str, str], None]) -> None:
    sweep, other = f"{lose.__name__}-{is_fast}", f"other-{lose.__name__}-{is_fast}"
    for name in (sweep, other):
        add(MlflowView(uri, name, ""), *TRIALS)
    before = {trial_id: run.info.run_id for trial_id, run in children(uri, sweep).items()}
    others = {trial_id: run.info.run_id for trial_id, run in children(uri, other).items()}
    lose(uri, parent_of(uri, sweep).info.run_id)
    view = MlflowView(uri, sweep, "")
    assert view.present() == IDS
    add(view, *TRIALS)
    found = search(uri, f"tags.`lambda_atlas.sweep` = '{sweep}'")
    parent_id = min(found, key=lambda run: int(run.info.start_time)).info.run_id
    runs = search(uri, f"tags.`mlflow.parentRunId` = '{parent_id}'")
    assert {run.data.tags["trial_id"]: run.info.run_id for run in runs} == before
    assert len(search(uri, f"tags.sweep = '{sweep}'")) == len(TRIALS)
    assert {trial_id: run.info.run_id for trial_id, run in children(uri, other).items()} == others


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_a_sweep_of_any_name_is_found_again(uri: str, is_fast: bool, name: str) -> None:
    sweep = f"{name}-{is_fast}"
    lookalike = sweep.replace("'", "_").replace("`", "_")
    views = [MlflowView(uri, each, "") for each in (sweep, lookalike)]
    add(views[0], *TRIALS)
    views[0].close(finished=True)
    assert MlflowView(uri, sweep, "").present() == IDS
    assert MlflowView(uri, lookalike, "").present() == (IDS if lookalike == sweep else set())
    runs = [run for run in search(uri, "") if run.data.tags.get("lambda_atlas.sweep") == sweep]
    assert len(runs) == 1
