"""Trains one trial: the loop that all workloads share, and `Trainer`, the part that each workload implements."""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, fields, replace
from typing import Any, NamedTuple, Protocol, TypeVar, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from trainables.certificates import Certificate, may_end
from trainables.contract import Member, Report, State
from trainables.errors import first_line
from trainables.outcome import is_finite
from trainables.packs.saved_states import check_progress, check_restored
from trainables.provenance import provenance
from trainables.result import Outcome, Provenance, TracePoint, TrialResult

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_MISFITS = (KeyError, ValueError, TypeError, IndexError)
"""What `begin` raises for a state that is not this trial's; what else it raises has other reasons, as a full memory."""

_SHORT = 0.1
"""A slice is short if it takes less than this share of the remaining time."""


class Digests(NamedTuple):
    """Hashes that are equal if two trials see the same data, initial weights and batches."""

    data: str
    init: str
    order: str


class Proof(NamedTuple):
    """A certificate of how the trial ends, and the epoch at which it was found."""

    certificate: Certificate
    epoch: int


class Trainer(Protocol):
    """What a workload implements of a trial: a model that trains in slices and has an exact state between any two.

    A workload subclasses it and overrides the defaults as needed. The constructor must not fail. Whatever can fail
    (missing data, a state that does not fit) belongs in `begin`, where a failure becomes this trial's row.
    """

    engine: str
    """The requested engine; a state is resumed only by the engine that saved it."""
    point_type: type[TracePoint]
    """The type of the points that `train_slice` returns and that a saved trace is restored to."""
    slices_grow: bool = False
    """Whether a slice may have several units of work, because one unit is too short to read the clock after each."""
    proof: Proof | None = None

    @property
    @abstractmethod
    def epoch(self) -> int:
        """Number of epochs trained; read only after `begin`."""
        ...

    @abstractmethod
    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        """Make the model and resume from `state` (None: start from the initial weights).

        `trace` has the points so far. The run appends to it each point that `train_slice` returns.
        """
        ...

    @abstractmethod
    def train_slice(self, size: int) -> TracePoint | None:
        """Train or measure for up to `size` units of work, but not past a trace point; returns a point it completed.

        The first point is of the initial weights. The workload chooses what a unit is (a step, an epoch).
        """
        ...

    @abstractmethod
    def arrays(self) -> State:
        """Copies of all that `begin` needs to resume exactly here, except for what the run itself saves."""
        ...

    @abstractmethod
    def digests(self) -> Digests:
        """Hashes of the data, initial weights and batch order; called only after `begin`."""
        ...

    @abstractmethod
    def outcome(self, trace: Sequence[TracePoint]) -> Outcome:
        """The outcome of a trial that ran to its last epoch or diverged."""
        ...

    def continues(self, state: State) -> bool:
        """Whether it can resume from a state that its engine saved; if not, the trial starts anew."""
        return True

    def provenance(self) -> Provenance:
        """Where and with what it trains."""
        return provenance(self.engine)

    def run(self, function: Callable[[], _T]) -> _T:
        """Call the function in the thread or with the settings that training needs."""
        return function()

    def close(self) -> None:
        """Release its resources on the device; no method is called afterwards."""
        return


class TrialRun:
    """One trial of a pack in training: trains slices until a deadline; keeps the trace, the exact state, the result."""

    def __init__(self, member: Member, trainer: Trainer) -> None:
        self.config = member.config
        self.has_begun = False
        self._trainer = trainer
        self._until_epoch = min(member.until_epoch, member.config.num_epochs)
        self._pauses = member.pauses
        self._may_stop = may_end(member.config.trial_id, is_accepted=member.may_stop)
        self._given_state = member.state
        self._train_seconds = 0.0
        self._trace: list[TracePoint] = []
        self._num_reported = 0

    def advance(self, deadline: float) -> Report:
        """Train and measure until the deadline (at least one slice) or the end."""
        return self._trainer.run(lambda: self._advance(deadline))

    def failed(self, error: str) -> Report:
        """The report of a trial that raised an exception, whose traceback is `error`."""
        return Report(self.config.trial_id, self._epochs_done, (), self._make_result(Outcome.FAILED, error))

    def state_arrays(self) -> State:
        """Everything needed to resume exactly here."""
        return {
            **self._trainer.arrays(),
            "epoch": np.array(self._trainer.epoch),
            "trace": np.array([astuple(point) for point in self._trace], np.float64),
            "train_seconds": np.array(self._train_seconds),
            "engine": np.array(self._trainer.engine),
        }

    def close(self) -> None:
        """Release the trainer's resources on the device."""
        self._trainer.close()

    # --- training ---

    def _advance(self, deadline: float) -> Report:
        started = time.perf_counter()
        if not self.has_begun:
            self._begin()
        self._train_until(deadline)
        self._train_seconds += time.perf_counter() - started
        points, self._num_reported = tuple(self._trace[self._num_reported :]), len(self._trace)
        return Report(self.config.trial_id, self._epochs_done, points, self._result() if self._has_ended else None)

    def _begin(self) -> None:
        """Resume from the given state; start anew if there is none, or none that can be this trial's."""
        state, self._given_state = self._given_state, None
        if state is not None:
            try:
                self.has_begun = self._resume(state)
            except _MISFITS as fault:
                why = f"{type(fault).__name__}: {first_line(fault)}"
                _logger.warning("trial %s starts anew, its saved state is not used: %s", self.config.trial_id, why)
        if not self.has_begun:
            self._trace, self._num_reported, self._train_seconds = [], 0, 0.0
            self._trainer.begin(None, self._trace)
            self.has_begun = True

    def _resume(self, state: State) -> bool:
        """Resume from a state, but not from another engine's, which rounds differently; whether it did."""
        if str(state["engine"]) != self._trainer.engine or not self._trainer.continues(state):
            return False
        point_type = self._trainer.point_type
        check_progress(state, self.config.num_epochs, len(fields(point_type)))
        self._trace = points_from_rows(point_type, state["trace"])
        self._num_reported = len(self._trace)
        self._train_seconds = float(state["train_seconds"])
        self._trainer.begin(state, self._trace)
        check_restored(state, self.state_arrays())
        return True

    def _train_until(self, deadline: float) -> None:
        size = 1
        while not self._has_ended:
            started = time.monotonic()
            point = self._trainer.train_slice(size)
            if point is not None:
                self._trace.append(point)
            now = time.monotonic()
            if now >= deadline or (point is not None and self._pauses):
                break
            # Slices grow while they are short beside the remaining time, so the clock is read often only near the end.
            if self._trainer.slices_grow:
                size = size * 2 if now - started < _SHORT * (deadline - now) else max(1, size // 2)

    @property
    def _epochs_done(self) -> int:
        return self._trainer.epoch if self.has_begun else 0

    @property
    def _has_ended(self) -> bool:
        return bool(self._trace) and (self._epochs_done >= self._until_epoch or self._ran_to_end or self._is_stopped)

    @property
    def _ran_to_end(self) -> bool:
        """Whether further training would change nothing: the last epoch is done, or loss or weights are not finite."""
        return self._epochs_done >= self.config.num_epochs or not is_finite(self._trace[-1])

    @property
    def _is_stopped(self) -> bool:
        return self._may_stop and self._trainer.proof is not None

    # --- the result ---

    def _result(self) -> TrialResult:
        if self._ran_to_end:
            return self._make_result(self._trainer.outcome(self._trace))
        if self._is_stopped:
            return self._stopped_result()
        return self._make_result(Outcome.UNFINISHED)

    def _stopped_result(self) -> TrialResult:
        """The result as of the certificate's epoch, even if the state it resumed from was at a later epoch."""
        assert self._trainer.proof is not None
        epoch = self._trainer.proof.epoch
        trace = tuple(point for point in self._trace if point.epoch <= epoch)
        return replace(self._make_result(Outcome.STUCK), epochs_done=epoch, trace=trace)

    def _make_result(self, ending: Outcome, error: str | None = None) -> TrialResult:
        digests = self._trainer.digests() if self.has_begun else (None, None, None)
        proof = self._trainer.proof  # a proof of a stuck end stays even if the trial diverged: it was wrong
        if proof is None and ending is Outcome.DIVERGED and not is_finite(self._trace[-1]):
            proof = Proof(Certificate.NON_FINITE, self._epochs_done)
        return TrialResult(
            config=self.config,
            outcome=ending,
            epochs_done=self._epochs_done,
            trace=tuple(self._trace),
            data_digest=digests[0],
            init_digest=digests[1],
            order_digest=digests[2],
            train_seconds=self._train_seconds,
            finished_at=time.time(),
            provenance=self._trainer.provenance(),
            error=error,
            certificate=None if proof is None else proof.certificate,
            certificate_epoch=None if proof is None else proof.epoch,
        )


def points_from_rows(point_type: type[TracePoint], rows: Iterable[npt.NDArray[np.float64]]) -> list[TracePoint]:
    """Trace points from the rows of a saved trace, the inverse of `astuple`; nan in an optional field is None again."""
    types = get_type_hints(point_type)
    field_types = [types[field.name] for field in fields(point_type)]
    return [point_type(*map(_from_number, field_types, row.tolist())) for row in rows]


def _from_number(field_type: Any, number: float) -> Any:
    if field_type is int:
        return int(number)
    return None if math.isnan(number) and type(None) in get_args(field_type) else number
