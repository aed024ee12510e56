"""A pack in training, whatever its members are: one after another, or several at once where a device has room."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from trainables.config import TrialConfig
from trainables.result import Outcome
from trainables.workload import Member, Report, State


class MemberRun(Protocol):
    """One trial in training; opened lazily, so that a fault in its data is its own."""

    @property
    def config(self) -> TrialConfig:
        """What is trained."""
        ...

    @property
    def has_begun(self) -> bool:
        """Whether there is a state to save."""
        ...

    def advance(self, deadline: float) -> Report:
        """Train until the deadline (of `time.monotonic`; at least one slice) or the end."""
        ...

    def failed(self, error: str) -> Report:
        """The report of a trial that raised `error`."""
        ...

    def state_arrays(self) -> State:
        """Everything needed to go on exactly here."""
        ...


class MemberPackRun:
    """Trains up to `concurrency(number in training)` members at once, each in a thread; none can disturb another.

    When several do not fit into memory together, each that ran out waits and goes on from its last saved state; from
    then on a waiting one begins only while fewer than half as many train.
    """

    def __init__(
        self,
        members: Sequence[Member],
        open_member: Callable[[Member], MemberRun],
        concurrency: Callable[[int], int] = lambda num_active: 1,
    ) -> None:
        self._waiting = list(reversed(members))
        self._open_member, self._concurrency = open_member, concurrency
        self._most = len(members)
        self._active: dict[str, tuple[Member, MemberRun]] = {}
        self._kept: dict[str, State] = {}
        self._side_by_side: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        """Whether every member has ended."""
        return not (self._active or self._waiting)

    def advance(self, seconds: float) -> list[Report]:
        """Train for about `seconds` of wall time; the reports of all members that moved."""
        deadline = time.monotonic() + seconds
        reports: list[Report] = []
        while not self.is_done:
            reports += self._advance_active(deadline)
            if reports and time.monotonic() >= deadline:
                break
        return reports

    def states(self) -> dict[str, State]:
        """States of the members in training or put back, and of those that ended and are not forgotten yet."""
        states = self._kept | {m.config.trial_id: m.state for m in self._waiting if m.state is not None}
        for trial_id, (member, run) in self._active.items():
            if run.has_begun:
                states[trial_id] = state = run.state_arrays()
                self._active[trial_id] = replace(member, state=state), run
        return states

    def forget(self, trial_ids: Collection[str]) -> None:
        """Drop the states of ended members whose results are safely recorded."""
        for trial_id in trial_ids:
            self._kept.pop(trial_id, None)

    def _advance_active(self, deadline: float) -> list[Report]:
        room = max(1, min(self._concurrency(len(self._active)), self._most))
        while self._waiting and len(self._active) < room:
            member = self._waiting.pop()
            self._active[member.config.trial_id] = member, self._open_member(member)
        runs = [run for _, run in self._active.values()]
        if len(runs) == 1:
            moved = [_moved(runs[0], deadline)]
        else:
            with ThreadPoolExecutor(len(runs)) as threads:
                moved = list(threads.map(lambda run: _moved(run, deadline), runs))
        if len(runs) > 1 and any(_is_out_of_memory(outcome) for outcome in moved):
            self._most = len(runs) // 2
        for run, outcome in zip(runs, moved, strict=True):
            if not _is_out_of_memory(outcome):
                self._side_by_side |= Counter({run.config.trial_id: len(runs)})
        return [report for pair in zip(runs, moved, strict=True) for report in self._settled(*pair, len(runs) > 1)]

    def _settled(self, run: MemberRun, outcome: Report | Exception, shared_memory: bool) -> list[Report]:
        """The member's report; none if it ran out of memory that it shared, and is to go on with fewer beside it."""
        trial_id = run.config.trial_id
        if shared_memory and _is_out_of_memory(outcome):
            self._waiting.append(self._active.pop(trial_id)[0])
            return []
        report = outcome if isinstance(outcome, Report) else run.failed("".join(traceback.format_exception(outcome)))
        if report.result is not None:
            del self._active[trial_id]
            if report.result.outcome is not Outcome.FAILED:
                self._kept[trial_id] = run.state_arrays()
            where = replace(report.result.provenance, side_by_side=self._side_by_side.pop(trial_id, 1))
            report = replace(report, result=replace(report.result, provenance=where))
        return [report]


def _moved(run: MemberRun, deadline: float) -> Report | Exception:
    try:
        return run.advance(deadline)
    except Exception as error:  # a failing member is a row with its traceback; its neighbours go on
        return error


def _is_out_of_memory(error: Report | Exception) -> bool:
    """By name: this module is used without torch too."""
    return type(error).__name__ == "OutOfMemoryError"
