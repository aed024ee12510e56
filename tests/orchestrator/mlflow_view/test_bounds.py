"""How long the view is waited for, and how much of it is in memory at once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver import mlflow_export
from orchestrator.driver.mlflow_export import recorded
from orchestrator.ledger.ledger import Ledger
from orchestrator.mlflow_view import background
from orchestrator.mlflow_view.background import BackgroundView
from orchestrator.mlflow_view.view import MlflowView, Row
from tests.benchmarks.mlflow_export import sweep_of, write
from tests.orchestrator.mlflow_view.test_view import add, children, nothing, trial
from tests.support.launching import WORKLOAD

Batch = tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]


def batch_of(seed: int) -> Batch:
    result = trial(seed)
    return [result.trial_row()], {result.trial_id: result.trace_rows()}


def await_written(view: BackgroundView) -> None:
    deadline = time.monotonic() + 60
    while view.num_written == 0:
        assert time.monotonic() < deadline, view.problem
        time.sleep(0.01)


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_never_answers_is_given_up(hanging_server: str) -> None:
    view = BackgroundView(hanging_server, "sweep", "", nothing)
    begun = time.monotonic()
    view.finish([], finished=True, idle_seconds=0.3)
    assert time.monotonic() - begun < 5
    assert view.problem == f"MLflow did nothing for 0 s ({hanging_server})"


@pytest.mark.slow
def test_an_mlflow_that_is_far_behind_is_given_up_and_left_alone(uri: str) -> None:
    def endless(trial_ids: Collection[str]) -> Iterator[Batch]:
        return (batch_of(seed) for seed in count())

    with BackgroundView(uri, "behind", "", endless) as view:
        view.catch_up(["any"])
        await_written(view)
        view.finish([], finished=True, longest_seconds=3)
    assert view.problem == f"MLflow is not done after 3 s ({uri})"
    written = view.num_written
    view._thread.join(20)
    assert not view._thread.is_alive()
    assert len(children(uri, "behind")) <= written + 1


@pytest.mark.slow
def test_what_waits_for_mlflow_is_read_from_the_ledger_beyond_a_bound(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_MOST_WAITING", 2)
    asked: list[set[str]] = []

    def load(trial_ids: Collection[str]) -> Iterator[Batch]:
        asked.append(set(trial_ids))
        return (batch_of(seed) for seed in range(5) if trial(seed).trial_id in trial_ids)

    with BackgroundView(uri, "backlog", "", load) as view:
        for seed in range(5):  # all before the view is open
            add(view, trial(seed))
        view.finish([], finished=True)
    assert view.problem is None
    assert asked == [{trial(seed).trial_id for seed in (2, 3, 4)}]
    assert set(children(uri, "backlog")) == {trial(seed).trial_id for seed in range(5)}


class SlowRows(list[Row]):
    """Rows that the view writes while `add` counts them."""

    def __init__(self, rows: Sequence[Row], view: BackgroundView) -> None:
        super().__init__(rows)
        self._view, self._num_counted = view, 0

    def __len__(self) -> int:
        self._num_counted += 1
        if self._num_counted == 2:  # the first is for the bound
            await_written(self._view)
            time.sleep(0.1)
        return super().__len__()


@pytest.mark.slow
def test_what_is_written_while_more_is_added_waits_no_longer(uri: str) -> None:
    first, second = batch_of(0), batch_of(1)
    with BackgroundView(uri, "counted", "", nothing) as view:
        view.add(*first)
        view.add(SlowRows(second[0], view), second[1])
        view.finish([], finished=True)
    assert (view.problem, view.num_written) == (None, 2)
    assert view._num_added == view._num_taken == 2


def test_rows_and_traces_come_a_few_trials_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_export, "_SLICE_TRIALS", 50)
    monkeypatch.setattr(mlflow_export, "_BATCH_TRIALS", 20)
    write(130, 4, str(tmp_path))
    ledger = Ledger(str(tmp_path))
    ids = {config.trial_id for config in sweep_of(130).configs()}
    batches = list(recorded(ledger, WORKLOAD, ids))
    assert max(len(rows) for rows, _ in batches) == 20
    by_id = {row["trial_id"]: row for rows, _ in batches for row in rows}
    assert by_id == {row["trial_id"]: row for row in ledger.trials(WORKLOAD).to_pylist()}
    points = [point for _, traces in batches for rows in traces.values() for point in rows]
    points.sort(key=lambda point: (point["trial_id"], point["epoch"]))
    assert points == ledger.traces(WORKLOAD).select(list(points[0])).to_pylist()
    assert len(points) == 4 * 130


EXPORT = """
import sys
from orchestrator.driver.mlflow_export import export_mlflow
from tests.benchmarks.mlflow_export import sweep_of
export_mlflow(sweep_of(int(sys.argv[1])), sys.argv[2])
"""


MEASURE = """
import sys
import tracemalloc
from orchestrator.driver import mlflow_export
from orchestrator.mlflow_view.view import MlflowView
from tests.benchmarks.mlflow_export import sweep_of

num_trials, out = int(sys.argv[1]), sys.argv[2]
mlflow_export._SLICE_TRIALS = 500
MlflowView(f"sqlite:///{out}/mlflow.db", "opened", "")  # imports MLflow, which takes more than all trials
sweep = sweep_of(num_trials)
tracemalloc.start()
assert mlflow_export.export_mlflow(sweep, out) == num_trials
print(tracemalloc.get_traced_memory()[1])
"""


def peak_bytes(num_trials: int, database: Path, out: Path) -> int:
    """The most memory of Python's and numpy's that an export has at once, without imports."""
    write(num_trials, 4, str(out))
    shutil.copy(database, out)
    found = subprocess.run([sys.executable, "-c", MEASURE, str(num_trials), str(out)], capture_output=True, check=True)
    return int(found.stdout)


@pytest.mark.slow
def test_the_memory_of_an_export_hardly_grows_with_the_trials(made_database: Path, tmp_path: Path) -> None:
    few, many = (peak_bytes(n, made_database, tmp_path / str(n)) for n in (500, 2500))
    assert (many - few) / 2000 < 1500, "an id and what MLflow has of it; a config alone takes 2000 bytes"


def num_finished(uri: str) -> int:
    """Finished runs in a database that another process may be creating."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, suppress(sqlite3.OperationalError):
        (number,) = database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()
        return int(number)
    return 0


@pytest.mark.slow
def test_an_export_that_is_killed_again_and_again_ends_with_one_run_of_each_trial(own_uri: str) -> None:
    out, num_trials = str(Path(own_uri.removeprefix("sqlite:///")).parent), 2000
    write(num_trials, 4, out)
    present: list[int] = []
    while len(present) < 3 or present[-1] < num_trials:
        process = subprocess.Popen([sys.executable, "-c", EXPORT, str(num_trials), out])
        if len(present) < 3:
            before, begun = (present or [0])[-1], time.monotonic()
            while num_finished(own_uri) < before + 100:  # a view would take longer to look than the export takes
                assert process.poll() is None
                assert time.monotonic() < begun + 120
            os.kill(process.pid, signal.SIGKILL)
        process.wait(200)
        present.append(len(MlflowView(own_uri, "exported", "").present()))
    assert 0 < present[0] < present[1] < present[2]
    view = MlflowView(own_uri, "exported", "")
    found = list(view._by_client.children(view._parent))
    assert len({run.trial_id for run in found}) == len(found) == num_trials
