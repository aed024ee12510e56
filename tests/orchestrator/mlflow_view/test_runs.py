"""Which of a trial's runs MLflow keeps: the ledger's rule, by either way into the database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.mlflow_view.view import MlflowView
from tests.orchestrator.mlflow_view.test_view import add, children, trial
from trainables.result import Outcome, TrialResult

FULL = trial(outcome=Outcome.STUCK, finished_at=1_760_000_500.0)
STOPPED = replace(FULL, epochs_done=10, trace=FULL.trace[:3], finished_at=1_760_000_000.0)
FAILED = trial(outcome=Outcome.FAILED, error="ValueError: no")


def epochs_done(uri: str, sweep: str) -> float:
    (run,) = children(uri, sweep).values()
    return float(run.data.metrics["epochs_done"])


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_trial_that_was_stopped_gives_way_to_one_that_ran_to_its_end(
    uri: str, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_fast:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # a database of the user's: only MLflow's client writes there
    sweep = f"fast-{is_fast}"

    def added(*results: TrialResult) -> float:
        add(MlflowView(uri, sweep, ""), *results)
        return epochs_done(uri, sweep)

    assert added(FAILED, STOPPED) == 10
    assert MlflowView(uri, sweep, "").present() == set()  # it may still be replaced
    assert added(replace(STOPPED, epochs_done=20, finished_at=1_760_000_900.0)) == 10
    assert added(FULL) == 100
    assert MlflowView(uri, sweep, "").present() == {FULL.trial_id}
    assert added(STOPPED, FAILED) == 100


def test_the_order_within_one_batch_does_not_matter(uri: str) -> None:
    for number, results in enumerate(((STOPPED, FULL), (FULL, STOPPED))):
        view = MlflowView(uri, f"batch-{number}", "")
        rows = [result.trial_row() for result in results]
        assert view.add(rows, {}) == 1
        assert view.add(rows, {}) == 0
        assert epochs_done(uri, f"batch-{number}") == 100


def test_of_a_stopped_and_a_full_run_left_by_two_drivers_the_full_one_stays(uri: str) -> None:
    first, second = (MlflowView(uri, "two", "") for _ in range(2))
    add(first, FULL)
    add(second, STOPPED)
    MlflowView(uri, "two", "")
    assert epochs_done(uri, "two") == 100


def test_of_two_failed_attempts_the_last_one_stays_whichever_comes_first(uri: str) -> None:
    again = replace(FAILED, attempt=2, finished_at=FAILED.finished_at - 60, error="MemoryError: again")
    for number, results in enumerate(((FAILED, again), (again, FAILED))):
        for result in results:
            add(MlflowView(uri, f"attempts-{number}", ""), result)
        (run,) = children(uri, f"attempts-{number}").values()
        assert run.data.tags["error"] == "MemoryError: again"
