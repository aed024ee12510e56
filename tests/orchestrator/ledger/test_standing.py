"""Which trials were stopped, and which row of a trial counts: all forms of these rules agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pytest

from orchestrator.ledger.schema import trial_row, trial_schema, trial_table
from orchestrator.ledger.standing import Attempt, Ending, standing, stopped, stopped_row, stopped_trials
from orchestrator.mlflow_view.runs import STOPPED_TAG, child_run
from tests.orchestrator.mlflow_view.test_view import trial
from trainables.certificates import Certificate
from trainables.result import SATISFYING, Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint

SCHEMA = trial_schema(TwoLayerCNNConfig, TwoLayerCNNTracePoint)
NUM_EPOCHS = 100


def every_ending() -> Iterator[TrialResult]:
    """Every outcome, before and at the last epoch, with and without a certificate."""
    cases = itertools.product(Outcome, (0, 10, NUM_EPOCHS), (None, *Certificate))
    for seed, (outcome, epochs_done, certificate) in enumerate(cases):
        at = None if certificate is None else epochs_done
        yield replace(
            trial(seed, outcome=outcome), epochs_done=epochs_done, certificate=certificate, certificate_epoch=at
        )


def test_every_form_says_the_same_of_what_was_stopped() -> None:
    results = list(every_ending())
    rows = trial_table(results, SCHEMA, "driver")
    expected = [result.outcome is Outcome.STUCK and result.epochs_done < NUM_EPOCHS for result in results]
    assert 0 < sum(expected) < len(results)
    assert [result.was_stopped for result in results] == expected
    assert stopped(rows).to_pylist() == expected
    assert stopped_trials(rows.to_pandas()).tolist() == expected
    assert [stopped_row(row) for row in rows.to_pylist()] == expected
    assert [stopped_row(trial_row(result, "driver")) for result in results] == expected
    assert [STOPPED_TAG in child_run(row, ()).tags for row in rows.to_pylist()] == expected


def every_attempt() -> Iterator[tuple[TrialResult, str]]:
    """Attempts at one trial that differ in all deciding fields, and in each of them alone."""
    endings = ((Outcome.FAILED, NUM_EPOCHS), (Outcome.STUCK, 10), (Outcome.STUCK, NUM_EPOCHS))
    for (outcome, epochs_done), number, at, driver in itertools.product(endings, (1, 2), (1e9, 2e9), ("a", "b")):
        result = trial(0, outcome=outcome, finished_at=at)
        yield replace(result, epochs_done=epochs_done, attempt=number), driver


def attempt_of(result: TrialResult, driver: str) -> Attempt:
    settled = Ending.STOPPED if result.was_stopped else Ending.ENDED
    ending = settled if result.outcome in SATISFYING else Ending.OPEN
    return Attempt(ending, result.attempt, result.finished_at, driver)


@pytest.mark.parametrize("first", list(every_attempt()), ids=lambda one: str(attempt_of(*one)))
def test_of_two_attempts_the_ledger_and_mlflow_keep_the_same(first: tuple[TrialResult, str]) -> None:
    for second in every_attempt():
        rows = [trial_row(result, driver) for result, driver in (first, second)]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        (winner,) = standing(table)
        second_wins = attempt_of(*second).stands_before(attempt_of(*first))
        assert second_wins == bool(winner)
        runs = [child_run(row, ()).attempt for row in rows]
        assert runs[0] is not None
        assert runs[1] is not None
        assert second_wins == runs[1].stands_before(runs[0])
        assert first != second or not second_wins
