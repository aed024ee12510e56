"""Trains a pack of any workload: its members one after another, or several at once where a device has the memory."""

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
from trainables.machine.gpu import memory_ran_out
from trainables.result import Outcome

_threads = ThreadPoolExecutor(64, thread_name_prefix="member")


@dataclass(frozen=True, slots=True)
class _Fault:
    """An exception of a member as text, since an exception object keeps its frames and thus their tensors alive."""

    text: str
    is_out_of_memory: bool


class MemberRun(Protocol):
    """One trial in training. Its first `advance` opens the data, so that a fault in them fails this trial alone."""

    @property
    def config(self) -> TrialConfig:
        """The config of the trial."""
        ...

    @property
    def has_begun(self) -> bool:
        """Whether it has a state to save."""
        ...

    def advance(self, deadline: float) -> Report:
        """Train until the deadline (a time of `time.monotonic`; at least one slice) or the end."""
        ...

    def failed(self, error: str) -> Report:
        """The report of a trial that raised an exception, whose traceback is `error`."""
        ...

    def state_arrays(self) -> State:
        """Everything needed to resume exactly here."""
        ...

    def close(self) -> None:
        """Release its resources on the device; no method is called afterwards."""
        ...


class MemberPackRun:
    """Trains up to `concurrency(crowd)` members at once, each in its own thread.

    `crowd` is the largest number that have trained at once so far. If several members do not fit into memory together,
    each one that ran out waits and later resumes from its last saved state. From then on a waiting member starts only
    while fewer than half as many members train as when memory ran out.
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
        self._pauses = any(member.pauses for member in members)
        self._crowd = 0
        self._active: dict[str, tuple[Member, MemberRun]] = {}
        self._kept: dict[str, State] = {}
        self._side_by_side: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        """Whether every member has ended."""
        return not (self._active or self._waiting)

    def advance(self, seconds: float) -> list[Report]:
        """Train for about `seconds` of wall time; returns the reports of all members that trained."""
        deadline = time.monotonic() + seconds
        reports: list[Report] = []
        while not self.is_done:
            reports += self._advance_active(deadline)
            if reports and (self._pauses or time.monotonic() >= deadline):
                break
        return reports

    def states(self) -> dict[str, State]:
        """States of the members that are training, wait with a state, or have ended and are not forgotten yet."""
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
        """Open as many members as fit; if several fit, each trains its first slice alone.

        The first slice may record a CUDA graph, and nothing else may use the device meanwhile.
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
        """The member's report; no report if it ran out of shared memory and waits to resume beside fewer members."""
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
    except Exception as error:  # a failing member becomes a row with its traceback; the others continue
        is_out_of_memory = memory_ran_out(error)
        # Any other GPU error makes the process unusable: this run of the pack is lost, but its trials are retried.
        if type(error).__name__ == "AcceleratorError" and not is_out_of_memory:  # by name: torch may be absent
            raise
        return _Fault("".join(traceback.format_exception(error)), is_out_of_memory)


def _is_out_of_memory(outcome: Report | _Fault) -> bool:
    return isinstance(outcome, _Fault) and outcome.is_out_of_memory
