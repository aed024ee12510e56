"""The ledger against a model, in random sequences of writes, deaths at each file operation, compactions and flips.

The long run has 25 sequences; LEDGER_EXAMPLES=200 in the environment gives it as many, for a change of the ledger.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.errors import LedgerError
from orchestrator.ledger import compaction, part_files
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.standing import Attempt, Ending
from tests.orchestrator.ledger.mortal_disk import DiedError, MortalFolder, Trouble, trouble_in
from tests.orchestrator.ledger.test_ledger import WORKLOAD, result
from trainables.result import SATISFYING, Outcome, TrialResult

NUM_EPOCHS = 3
SEEDS = range(5)
SEARCH = "a-search"

Row = tuple[str, int, float, str, str, float]
"""Trial, attempt, finished_at, driver, outcome, and a number that no other result has."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row that was recorded, and the epochs of its trace."""

    trial_id: str
    outcome: str
    epochs: tuple[int, ...]
    value: float
    number: int
    finished_at: float
    driver_id: str

    @property
    def attempt(self) -> Attempt:
        ending = Ending.OPEN
        if self.is_settled:
            ending = Ending.STOPPED if self.is_stopped else Ending.ENDED
        return Attempt(ending, self.number, self.finished_at, self.driver_id)

    @property
    def is_stopped(self) -> bool:
        return self.outcome == Outcome.STUCK and max(self.epochs) < NUM_EPOCHS

    @property
    def is_settled(self) -> bool:
        return self.outcome in SATISFYING

    @property
    def points(self) -> list[tuple[str, int, float]]:
        return [(self.trial_id, epoch, self.value) for epoch in self.epochs]

    @property
    def row(self) -> Row:
        return self.trial_id, self.number, self.finished_at, self.driver_id, self.outcome, self.value


def recorded(result: TrialResult, driver_id: str) -> Recorded:
    epochs = tuple(point.epoch for point in result.trace)
    value = result.trace[0].train_loss
    return Recorded(result.trial_id, result.outcome, epochs, value, result.attempt, result.finished_at, driver_id)


def counting(found: Iterable[Recorded], *, accepts: bool) -> dict[str, Recorded]:
    """The attempt of each trial that counts for a reader that accepts certificates, or does not."""
    by_trial: dict[str, list[Recorded]] = {}
    for one in found:
        if accepts or not one.is_stopped:
            by_trial.setdefault(one.trial_id, []).append(one)
    return {
        trial_id: reduce(lambda best, one: one if one.attempt.stands_before(best.attempt) else best, rivals)
        for trial_id, rivals in by_trial.items()
    }


results = st.builds(
    lambda seed, ending, attempt: (seed, *ending, attempt),
    st.sampled_from(SEEDS),
    st.sampled_from(
        [
            (Outcome.LEARNED, (0, NUM_EPOCHS)),
            (Outcome.STUCK, (0, NUM_EPOCHS)),
            (Outcome.STUCK, (0, 2)),
            (Outcome.UNFINISHED, (0, 1)),
            (Outcome.UNFINISHED, (0, 1, 2)),
            (Outcome.FAILED, (0,)),
        ]
    ),
    st.integers(1, 3),
)
troubles = st.none() | st.builds(Trouble, at=st.integers(0, 25), cut=st.integers(0, 9000), is_death=st.booleans())
writers = st.integers(0, 1)


class LedgerMachine(RuleBasedStateMachine):
    """Two drivers write into one folder; a dead one is followed by another with a new id. `known` is the model."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(compaction, "ROWS_PER_PART", 6)
        self.patch.setattr(part_files, "ROWS_PER_GROUP", 2)
        self.known: set[Recorded] = set()
        self.asked: dict[int, dict[str, list[dict[str, float]]]] = {}
        self.num_results = self.num_drivers = 0
        self.drivers = [self.new_driver(), self.new_driver()]
        self.reader = Ledger(str(self.folder))

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            shutil.rmtree(self.folder)

    def new_driver(self) -> Ledger:
        self.num_drivers += 1
        ledger = Ledger(str(self.folder), f"driver-{self.num_drivers}")
        ledger._storage.files = MortalFolder()
        return ledger

    def write(self, writer: int, trouble: Trouble | None, act: Callable[[Ledger], Any]) -> bool:
        """Whether the driver's act returned; a dead driver is replaced."""
        with trouble_in(self.folder, trouble):
            try:
                act(self.drivers[writer])
            except DiedError:
                self.drivers[writer] = self.new_driver()
                return False
            except LedgerError as error:
                if trouble is None:
                    raise
                check_line(error)
                return False
        return True

    @rule(writer=writers, batch=st.lists(results, min_size=1, max_size=4, unique_by=lambda r: r[0]), trouble=troubles)
    def append(self, writer: int, batch: Sequence[Any], trouble: Trouble | None) -> None:
        driver_id = self.drivers[writer].driver_id
        made = [self.result(*values) for values in batch]
        whole = {recorded(one, driver_id) for one in made}
        done = self.write(writer, trouble, lambda ledger: ledger.append(made))
        self.took(whole, done=done)
        if not done and self.drivers[writer].driver_id == driver_id:  # a disk was full; the same results come again
            self.took(whole, done=self.write(writer, None, lambda ledger: ledger.append(made)))

    @rule(writer=writers, trouble=troubles)
    def compact(self, writer: int, trouble: Trouble | None) -> None:
        self.write(writer, trouble, Ledger.compact)

    @rule(writer=writers, seeds=st.sets(st.sampled_from(SEEDS), min_size=1), trouble=troubles)
    def mark_pruned(self, writer: int, seeds: set[int], trouble: Trouble | None) -> None:
        driver_id = self.drivers[writer].driver_id
        counts = counting(self.known, accepts=True)
        trial_ids = {trial_id(seed) for seed in seeds}
        before = {one for tid, one in counts.items() if tid in trial_ids and one.outcome == Outcome.UNFINISHED}
        marked: list[str] = []
        done = self.write(writer, trouble, lambda ledger: marked.extend(ledger.mark_pruned(WORKLOAD, trial_ids)))
        times = {
            (row["trial_id"], row["train_loss"]): row["finished_at"]
            for row in self.rows()
            if row["driver_id"] == driver_id and row["outcome"] == Outcome.PRUNED
        }
        whole = {
            replace(
                one,
                outcome=str(Outcome.PRUNED),
                finished_at=times.get((one.trial_id, one.value), -1.0),
                driver_id=driver_id,
            )
            for one in before
        }
        self.took(whole, done=done)
        assert not done or sorted(marked) == sorted(one.trial_id for one in before)

    @rule(writer=writers, number=st.integers(0, 2), trouble=troubles)
    def ask(self, writer: int, number: int, trouble: Trouble | None) -> None:
        driver_id = self.drivers[writer].driver_id
        if driver_id in self.asked.get(number, {}):
            return
        points = [{"weight_decay": float(self.num_results), "batch_size": float(k)} for k in range(2)]
        done = self.write(writer, trouble, lambda ledger: ledger.asks.put(SEARCH, number, points))
        path = self.folder / "asks" / f"search={SEARCH}" / f"round-{number:04d}-{driver_id}.parquet"
        assert path.exists() or not done
        if path.exists():
            self.asked.setdefault(number, {})[driver_id] = points

    @precondition(lambda self: self.known)
    @rule(part=st.integers(0, 99), place=st.integers(0, 10**6), bit=st.integers(0, 7), compacts=st.none() | writers)
    def flip_a_bit(self, part: int, place: int, bit: int, compacts: int | None) -> None:
        """The part is named, what is read is true, and without the part all others are read."""
        parts = sorted(self.folder.glob("t*/*/part-*.parquet"))
        path = parts[part % len(parts)]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[place % len(content)] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            self.check(named=str(path))
            if compacts is not None:
                with suppress(LedgerError):
                    self.drivers[compacts].compact()
            if path.exists():
                path.unlink()
                self.check_without(path)
        finally:
            path.write_bytes(content)

    @invariant()
    def readers_agree_with_the_model(self) -> None:
        if hasattr(self, "known"):
            self.check()
            for number, by_driver in self.asked.items():
                assert self.reader.asks.rounds(SEARCH)[number] == by_driver[min(by_driver)]

    def check(self, named: str | None = None) -> None:
        """Readers read what the model has; with `named` they may instead raise an error that names this part."""
        counts, strictly = (counting(self.known, accepts=accepts) for accepts in (True, False))
        certified = {one.trial_id for one in self.known if one.is_stopped}
        strict = Ledger(str(self.folder), accept_certificates=False)
        expected: list[tuple[Callable[[], Any], Any]] = [
            (lambda: trials(self.reader), sorted(one.row for one in counts.values())),
            (lambda: trials(self.reader, SOME), sorted(one.row for one in counts.values() if one.trial_id in SOME)),
            (lambda: traces(self.reader), sorted(point for one in counts.values() for point in one.points)),
            (lambda: self.reader.settled(WORKLOAD), {one.trial_id for one in counts.values() if one.is_settled}),
            (
                lambda: self.reader.attempts(WORKLOAD),
                {one.trial_id: one.number for one in counts.values() if not one.is_settled},
            ),
            (lambda: strict.settled(WORKLOAD), {one.trial_id for one in strictly.values() if one.is_settled}),
            (  # a compaction may keep a stopped row in place of the unfinished one before it
                lambda: [row for row in trials(strict) if row[0] not in certified],
                sorted(one.row for one in strictly.values() if one.trial_id not in certified),
            ),
        ]
        for number, (read, rows) in enumerate(expected):
            try:
                found = read()
            except LedgerError as error:
                if named is None:
                    raise
                check_line(error, named)
            else:
                assert found == rows, number

    def check_without(self, part: Path) -> None:
        """Readers read every row of the other parts."""
        rows = {row["trial_id"] for row in self.rows()}
        reader = Ledger(str(self.folder))
        assert {row[0] for row in trials(reader)} == rows
        if part.parts[-3] == "traces":
            assert trials(reader) == sorted(one.row for one in counting(self.known, accepts=True).values())

    def result(self, seed: int, outcome: Outcome, epochs: tuple[int, ...], attempt: int) -> TrialResult:
        """A result with a number of its own; times are neither in order nor all different."""
        self.num_results += 1
        value, at = float(self.num_results), float(self.num_results * 7 % 5 + self.num_results // 50)
        made = result(seed, outcome, attempt=attempt, epochs=epochs, value=value, num_epochs=NUM_EPOCHS)
        taken = {one.finished_at for one in self.known if one.trial_id == made.trial_id and one.number == attempt}
        while at in taken:
            at += 0.125
        return replace(made, finished_at=at)

    def took(self, batch: set[Recorded], *, done: bool) -> None:
        """The batch is recorded whole or, unless it is said to be done, not at all."""
        rows = {(row["trial_id"], row["train_loss"], row["outcome"], row["driver_id"]) for row in self.rows()}
        present = {one for one in batch if (one.trial_id, one.value, one.outcome, one.driver_id) in rows}
        assert present == batch or (not present and not done), "a part of a batch"
        self.known |= present

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all parts, whether they count or not."""
        return [
            row
            for part in self.folder.glob("trials/*/part-*.parquet")
            for row in pq.ParquetFile(part).read().to_pylist()
        ]


def check_line(error: LedgerError, named: str = "") -> None:
    assert named in str(error)
    assert "\n" not in str(error)


def trial_id(seed: int) -> str:
    return result(seed, num_epochs=NUM_EPOCHS).trial_id


SOME = {trial_id(seed) for seed in list(SEEDS)[:2]}


def trials(reader: Ledger, trial_ids: Iterable[str] | None = None) -> list[Row]:
    names = ["trial_id", "attempt", "finished_at", "driver_id", "outcome", "train_loss"]
    wanted = None if trial_ids is None else set(trial_ids)
    found = reader.trials(WORKLOAD, columns=names, trial_ids=wanted).to_pylist()
    return sorted(tuple(row[name] for name in names) for row in found)  # type: ignore[misc]


def traces(reader: Ledger) -> list[tuple[str, int, float]]:
    return sorted((row["trial_id"], row["epoch"], row["train_loss"]) for row in reader.traces(WORKLOAD).to_pylist())


@pytest.mark.parametrize(
    ("num_examples", "num_steps"),
    [(12, 8), pytest.param(int(os.environ.get("LEDGER_EXAMPLES", 25)), 25, marks=pytest.mark.slow)],
    ids=["quick", "long"],
)
def test_whatever_happens_the_ledger_reads_as_its_model(num_examples: int, num_steps: int) -> None:
    chosen = settings(
        max_examples=num_examples,
        stateful_step_count=num_steps,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(LedgerMachine, settings=chosen)
