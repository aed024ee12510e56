"""A pack in training, whatever its members are: one after another, or several at once where a device has room."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from trainables.config import TrialConfig
from trainables.contract import Member, Report, State
from trainables.gpu import memory_ran_out
from trainables.result import Outcome

_threads = ThreadPoolExecutor(64, thread_name_prefix="member")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What a member raised, as text: an exception keeps its frames, and with them their tensors on the device."""

    text: str
    is_out_of_memory: bool


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

    def close(self) -> None:
        """Give back what it holds of the device; nothing is called after it."""
        ...


class MemberPackRun:
    """Trains up to `concurrency(crowd)` members at once, each in a thread; none can disturb another.

    `crowd` is the most that have trained at once so far. When several do not fit into memory together, each that ran
    out waits and goes on from its last saved state; from then on a waiting one begins only while fewer than half as
    many train.
    """

    def __init__(
        self,
        members: Sequence[Member],
        open_member: Callable[[Member], MemberRun],
        concurrency: Callable[[int], int] = lambda crowd: 1,
    ) -> None:
        self._waiting = list(reversed(members))
        self._open_member, self._concurrency = open_member, concurrency
        self._most = len(members)
        self._crowd = 0
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
        reports = self._begin_members()
        runs = [run for _, run in self._active.values()]
        if len(runs) < 2:
            moved = [_moved(run, deadline) for run in runs]
        else:
            moved = list(_threads.map(lambda run: _moved(run, deadline), runs))
        if len(runs) > 1 and any(_is_out_of_memory(outcome) for outcome in moved):
            self._most = len(runs) // 2
        else:
            self._crowd = max(self._crowd, len(runs))
        for run, outcome in zip(runs, moved, strict=True):
            if not _is_out_of_memory(outcome):
                self._side_by_side |= Counter({run.config.trial_id: len(runs)})
        for run, outcome in zip(runs, moved, strict=True):
            reports += self._settled(run, outcome, len(runs) > 1)
        return reports

    def _begin_members(self) -> list[Report]:
        """Open as many as there is room for; where there is room for several, each takes its first step alone.

        A first step records it for the device, where nothing else may be under way meanwhile.
        """
        reports: list[Report] = []
        room = max(1, min(self._concurrency(self._crowd), self._most))
        while self._waiting and len(self._active) < room:
            member = self._waiting.pop()
            run = self._open_member(member)
            self._active[member.config.trial_id] = member, run
            if room > 1:
                is_beside_others = len(self._active) > 1
                outcome = _moved(run, time.monotonic())
                reports += self._settled(run, outcome, shared_memory=is_beside_others)
                if is_beside_others and _is_out_of_memory(outcome):
                    room = self._most = len(self._active)
        return reports

    def _settled(self, run: MemberRun, outcome: Report | _Fault, shared_memory: bool) -> list[Report]:
        """The member's report; none if it ran out of memory that it shared, and is to go on with fewer beside it."""
        trial_id = run.config.trial_id
        if shared_memory and _is_out_of_memory(outcome):
            self._waiting.append(self._active.pop(trial_id)[0])
            run.close()
            return []
        report = outcome if isinstance(outcome, Report) else run.failed(outcome.text)
        if report.result is not None:
            del self._active[trial_id]
            if report.result.outcome is not Outcome.FAILED:
                self._kept[trial_id] = run.state_arrays()
            where = replace(report.result.provenance, side_by_side=self._side_by_side.pop(trial_id, 1))
            report = replace(report, result=replace(report.result, provenance=where))
            run.close()
        return [report]


def _moved(run: MemberRun, deadline: float) -> Report | _Fault:
    try:
        return run.advance(deadline)
    except Exception as error:  # a failing member is a row with its traceback; its neighbours go on
        is_out_of_memory = memory_ran_out(error)
        # Another fault of a GPU stays with the process: the pack is lost, none of its trials.
        if type(error).__name__ == "AcceleratorError" and not is_out_of_memory:  # by name: torch may be absent
            raise
        return _Fault("".join(traceback.format_exception(error)), is_out_of_memory)


def _is_out_of_memory(outcome: Report | _Fault) -> bool:
    return isinstance(outcome, _Fault) and outcome.is_out_of_memory
