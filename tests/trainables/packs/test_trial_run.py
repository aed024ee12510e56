"""The loop of one trial, with a workload of a few lines and a clock that only training advances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from trainables.certificates import Certificate, is_audited
from trainables.config import TrialConfig, make_config
from trainables.contract import Member, Report, State
from trainables.outcome import outcome
from trainables.packs import trial_run
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.trial_run import Digests, Proof, Trainer, TrialRun, points_from_rows
from trainables.result import SATISFYING, Outcome, TracePoint, TrialResult

STEPS_PER_EPOCH = 4
SECONDS_TO_BEGIN, SECONDS_PER_STEP = 10.0, 1.0


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = time = monotonic


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trial_run, "time", clock)
    return clock


# --- a workload as a user may write one ---


class LineConfig(TrialConfig):
    numeric_version = 1
    workload: Literal["line"] = "line"


@dataclass(frozen=True, slots=True)
class LinePoint(TracePoint):
    steps: int
    late_error: float | None = None


class LineTrainer(Trainer):
    """One weight that decays; a unit of work is a step."""

    point_type = LinePoint

    def __init__(self, member: Member, clock: Clock, engine: str = "plain") -> None:
        self.config, self.engine, self._clock = member.config, engine, clock
        self.sizes: list[int] = []
        self.breaks_at: int | None = None

    @property
    def epoch(self) -> int:
        return self._step // STEPS_PER_EPOCH

    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        self._clock.now += SECONDS_TO_BEGIN
        self._trace = trace
        self._weight = 1.0 if state is None else float(state["weight"])
        self._step = 0 if state is None else int(state["step"])

    def train_slice(self, size: int) -> TracePoint | None:
        self.sizes.append(size)
        steps = min(size, STEPS_PER_EPOCH - self._step % STEPS_PER_EPOCH) if self._trace else 0
        for _ in range(steps):
            if self._step == self.breaks_at:
                raise RuntimeError("torn")
            self._weight *= 1 - self.config.learning_rate
            self._step += 1
            self._clock.now += SECONDS_PER_STEP
        if self._step % STEPS_PER_EPOCH:
            return None
        is_last = self.epoch == self.config.num_epochs
        return LinePoint(self.epoch, self._weight, 1.0, 1.0, abs(self._weight), self._step, 0.5 if is_last else None)

    def arrays(self) -> State:
        return {"weight": np.array(self._weight), "step": np.array(self._step)}

    def digests(self) -> Digests:
        return Digests("images", "zeros", "in order")

    def outcome(self, trace: Sequence[TracePoint]) -> Outcome:
        return outcome(trace, 2)


class GrowingTrainer(LineTrainer):
    slices_grow = True


class ProvingTrainer(LineTrainer):
    """Knows from epoch 2 on that the trial ends stuck."""

    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        super().begin(state, trace)
        self._prove()

    def train_slice(self, size: int) -> TracePoint | None:
        point = super().train_slice(size)
        self._prove()
        return point

    def _prove(self) -> None:
        if self.epoch >= 2:
            self.proof = Proof(Certificate.WEIGHT_BOX, 2)


def config(**values: object) -> TrialConfig:
    base = {"optimizer": "adam", "weight_decay": 0.1, "learning_rate": 0.1, "batch_size": 1, "num_epochs": 5}
    return make_config(LineConfig, {**base, "seed": 0, **values})


def seed_where(audited: bool) -> int:
    return next(seed for seed in range(1000) if is_audited(config(seed=seed).trial_id) is audited)


def finish(run: TrialRun, seconds: Callable[[], float]) -> list[Report]:
    reports = [run.advance(seconds())]
    while reports[-1].result is None:
        reports.append(run.advance(seconds()))
    return reports


def result_of(run: TrialRun) -> TrialResult:
    (report,) = finish(run, lambda: math.inf)
    assert report.result is not None
    return report.result


@pytest.fixture
def member() -> Member:
    return Member(config(), 5)


def resumed(member: Member, run: TrialRun) -> Member:
    return Member(member.config, member.until_epoch, run.state_arrays(), may_stop=member.may_stop)


def test_a_workload_of_a_few_lines_fills_a_row(member: Member, clock: Clock) -> None:
    result = result_of(TrialRun(member, LineTrainer(member, clock)))
    assert result.outcome is Outcome.UNDERFIT
    assert result.epochs_done == 5
    assert [point.epoch for point in result.trace] == [0, 1, 2, 3, 4, 5]
    assert (result.data_digest, result.init_digest, result.order_digest) == ("images", "zeros", "in order")
    assert result.provenance.engine == "plain"
    assert (result.certificate, result.certificate_epoch, result.error) == (None, None, None)
    assert result.train_seconds == SECONDS_TO_BEGIN + 5 * STEPS_PER_EPOCH * SECONDS_PER_STEP


def test_a_pack_trains_it(member: Member, clock: Clock) -> None:
    run = MemberPackRun([member], lambda member: TrialRun(member, LineTrainer(member, clock)))
    (report,) = run.advance(math.inf)
    assert report.result is not None
    assert report.result.outcome in SATISFYING
    assert run.states()[member.config.trial_id]["step"] == 20


@pytest.mark.parametrize("seconds", [0.0, 1.5, 7.0])
@pytest.mark.parametrize("trainer", [LineTrainer, GrowingTrainer])
def test_each_point_is_reported_once_however_it_is_cut(
    trainer: type[LineTrainer], seconds: float, member: Member, clock: Clock
) -> None:
    reports = finish(TrialRun(member, trainer(member, clock)), lambda: clock.now + seconds)
    whole = result_of(TrialRun(member, trainer(member, clock)))
    result = reports[-1].result
    assert result is not None
    assert [point for report in reports for point in report.points] == list(result.trace)
    assert result.trace == whole.trace
    assert result.train_seconds == whole.train_seconds


@pytest.mark.parametrize("num_slices", [1, 2, 6, 12])
def test_a_trial_goes_on_where_its_state_was_saved(num_slices: int, member: Member, clock: Clock) -> None:
    """Points of the first half are not reported again; its seconds count."""
    whole = result_of(TrialRun(member, LineTrainer(member, clock)))
    first = TrialRun(member, LineTrainer(member, clock))
    early = [first.advance(clock.now) for _ in range(num_slices)]
    again = resumed(member, first)
    later = finish(TrialRun(again, LineTrainer(again, clock)), lambda: math.inf)
    result = later[-1].result
    assert result is not None
    assert result.trace == whole.trace
    assert [point for report in early + later for point in report.points] == list(whole.trace)
    assert result.train_seconds == whole.train_seconds + SECONDS_TO_BEGIN  # it began twice


def test_what_the_run_saves_are_arrays_of_these_names(member: Member, clock: Clock) -> None:
    run = TrialRun(member, LineTrainer(member, clock))
    result_of(run)
    state = run.state_arrays()
    assert set(state) == {"weight", "step", "epoch", "trace", "train_seconds", "engine"}
    assert state["trace"].shape == (6, 7)
    assert np.isnan(state["trace"][:5, 6]).all()
    assert state["train_seconds"] == 30.0
    assert str(state["engine"]) == "plain"


def test_points_are_made_of_rows_again(member: Member, clock: Clock) -> None:
    run = TrialRun(member, LineTrainer(member, clock))
    trace = result_of(run).trace
    points = points_from_rows(LinePoint, run.state_arrays()["trace"])
    assert tuple(points) == trace
    assert [type(value) for value in (points[1].epoch, points[1].train_loss)] == [int, float]
    (lost,) = points_from_rows(LinePoint, np.array([[1, math.nan, 0, 0, math.nan, 4, math.nan]]))
    assert math.isnan(lost.train_loss), "a loss that is no number is none: only what was not known yet is None"


def test_another_engines_state_is_not_continued(member: Member, clock: Clock) -> None:
    first = TrialRun(member, LineTrainer(member, clock))
    result_of(first)
    again = resumed(member, first)
    trainer = LineTrainer(again, clock, engine="other")
    assert TrialRun(again, trainer).advance(clock.now).epochs_done == 0
    assert trainer.sizes == [1]


def test_a_state_that_the_trainer_refuses_is_not_continued(member: Member, clock: Clock) -> None:
    first = TrialRun(member, LineTrainer(member, clock))
    result_of(first)
    again = resumed(member, first)
    trainer = LineTrainer(again, clock)
    trainer.continues = lambda state: "epsilon" in state  # type: ignore[method-assign]
    run = TrialRun(again, trainer)
    assert run.advance(clock.now).epochs_done == 0
    assert run.state_arrays()["train_seconds"] == SECONDS_TO_BEGIN


def test_stopped_early_is_unfinished(clock: Clock) -> None:
    member = Member(config(), 3)
    result = result_of(TrialRun(member, LineTrainer(member, clock)))
    assert (result.outcome, result.epochs_done, len(result.trace)) == (Outcome.UNFINISHED, 3, 4)


def test_a_trial_whose_weights_are_no_numbers_ends_there(clock: Clock) -> None:
    member = Member(config(learning_rate=1e100), 5)
    result = result_of(TrialRun(member, LineTrainer(member, clock)))
    assert (result.outcome, result.epochs_done) == (Outcome.DIVERGED, 1)
    assert (result.certificate, result.certificate_epoch) == (Certificate.NON_FINITE, 1)


# --- trials that fail ---


def test_a_failed_row_keeps_what_was_trained(member: Member, clock: Clock) -> None:
    trainer = LineTrainer(member, clock)
    trainer.breaks_at = 9
    run = TrialRun(member, trainer)
    run.advance(clock.now)
    run.advance(clock.now + 3)
    with pytest.raises(RuntimeError, match="torn"):
        run.advance(math.inf)
    report = run.failed("Traceback: torn")
    assert (report.epochs_done, report.points) == (2, ())
    assert report.result is not None
    assert (report.result.outcome, report.result.error) == (Outcome.FAILED, "Traceback: torn")
    assert [point.epoch for point in report.result.trace] == [0, 1, 2]
    assert report.result.data_digest == "images"
    assert report.result.train_seconds == SECONDS_TO_BEGIN + 3 * SECONDS_PER_STEP, "of the slices that were reported"


@pytest.mark.parametrize("lost", ["weight", "step", "epoch", "trace", "train_seconds", "engine"])
def test_a_trial_of_a_state_that_is_torn_starts_anew_and_mixes_no_halves(
    lost: str, member: Member, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    whole = result_of(TrialRun(member, LineTrainer(member, clock)))
    first = TrialRun(member, LineTrainer(member, clock))
    first.advance(clock.now + 9)
    state = {name: array for name, array in first.state_arrays().items() if name != lost}
    again = Member(member.config, 5, state)
    reports = finish(TrialRun(again, LineTrainer(again, clock)), lambda: math.inf)
    assert tuple(point for report in reports for point in report.points) == whole.trace
    result = reports[-1].result
    assert result is not None
    assert result.trace == whole.trace
    begins = 2 if lost in ("weight", "step") else 1  # its trainer had begun with the torn state
    assert result.train_seconds == whole.train_seconds + (begins - 1) * SECONDS_TO_BEGIN
    assert [record.getMessage() for record in caplog.records] == [
        f"trial {member.config.trial_id} starts anew, its saved state is not used: KeyError: {lost!r}"
    ]


# --- slices ---


def test_a_slice_is_one_unit_unless_the_trainer_lets_it_grow(member: Member, clock: Clock) -> None:
    trainer = LineTrainer(member, clock)
    result_of(TrialRun(member, trainer))
    assert trainer.sizes == [1] * 21


def test_slices_double_while_they_are_short_and_halve_near_the_deadline(clock: Clock) -> None:
    member = Member(config(num_epochs=100), 100)
    trainer = GrowingTrainer(member, clock)
    TrialRun(member, trainer).advance(70.0)
    # 60 s are left once it has begun. An epoch of 4 s is short until 40 s are left, a step of 1 s until 10 s are.
    assert trainer.sizes[:8] == [1, 2, 4, 8, 16, 32, 64, 32]
    assert trainer.sizes[-11:] == [2, *[1] * 10]
    assert clock.now == 70.0


# --- trials that are stopped ---


@pytest.mark.parametrize(("may_stop", "audited", "is_stopped"), [(1, 0, 1), (0, 0, 0), (1, 1, 0)])
def test_a_proven_trial_is_stopped_where_it_may_be(may_stop: int, audited: int, is_stopped: int, clock: Clock) -> None:
    member = Member(config(seed=seed_where(bool(audited))), 5, may_stop=bool(may_stop))
    result = result_of(TrialRun(member, ProvingTrainer(member, clock)))
    assert (result.certificate, result.certificate_epoch) == (Certificate.WEIGHT_BOX, 2)
    assert result.was_stopped == is_stopped
    assert result.epochs_done == result.trace[-1].epoch == (2 if is_stopped else 5)


def test_a_trial_that_went_further_is_stopped_as_of_its_proof(clock: Clock) -> None:
    seed = seed_where(False)
    member = Member(config(seed=seed), 4)
    further = TrialRun(member, ProvingTrainer(member, clock))
    assert result_of(further).outcome is Outcome.UNFINISHED
    again = Member(config(seed=seed), 5, further.state_arrays(), may_stop=True)
    trainer = ProvingTrainer(again, clock)
    result = result_of(TrialRun(again, trainer))
    assert (result.outcome, result.epochs_done) == (Outcome.STUCK, 2)
    assert [point.epoch for point in result.trace] == [0, 1, 2]
    assert trainer.sizes == []
