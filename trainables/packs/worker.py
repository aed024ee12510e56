"""Runs a pack on a worker: trains it, reports, and saves states at intervals."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from trainables.contract import Member, Report, State
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.packs.state_store import StateStore
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

_logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""Wall time between two reports of a pack."""
TUNE_STEP_SECONDS = 30.0
"""Wall time between two results of a pack for Tune: each costs the driver over a millisecond and tells it nothing."""


class PackWorker:
    """Runs one pack order in this process."""

    def __init__(self, order: PackOrder) -> None:
        self._order = order
        self._store = StateStore(order.states_root)
        self._attempts = {member.config.trial_id: member.attempt for member in order.members}
        members = [Member(m.config, m.last_epoch, self._state(m), may_stop=m.may_stop) for m in order.members]
        opened = workload(order.workload)
        self._run = opened.open(members, order.device, order.engine, num_threads=order.num_threads)
        self._saved_at = time.monotonic()

    @property
    def is_done(self) -> bool:
        """Whether every member has ended."""
        return self._run.is_done

    def step(self, seconds: float = REPORT_SECONDS) -> list[Report]:
        """Train for about `seconds`, and save the states once `checkpoint_seconds` have passed since the last save."""
        reports = [self._completed(report) for report in self._run.advance(seconds)]
        self._keep_unfinished(reports)
        if time.monotonic() - self._saved_at >= self._order.checkpoint_seconds:
            self.save()
        return reports

    def save(self) -> None:
        """Save the states of the pack's members, unless all have ended."""
        if not self.is_done:
            self._save(self._order.pack_id, self._run.states())
            self._saved_at = time.monotonic()

    def forget(self, trial_ids: Collection[str]) -> None:
        """Drop the states of members whose results are safely recorded."""
        self._run.forget(trial_ids)

    def _keep_unfinished(self, reports: Sequence[Report]) -> None:
        """Save each trial that stopped before its last epoch in its own file: it may resume in another pack."""
        for report in reports:
            if report.result is not None and report.result.outcome is Outcome.UNFINISHED:
                self._save(report.trial_id, {report.trial_id: self._run.states()[report.trial_id]})

    def _save(self, name: str, states: Mapping[str, State]) -> None:
        try:
            self._store.save(name, states)
        except OSError as error:  # a saved state only saves time after a kill, so training continues without it
            _logger.warning("states of %s were not saved: %s", name, error)

    def _state(self, member: MemberOrder) -> State | None:
        if member.state_path is None:
            return None
        return self._store.load(member.state_path, member.config.trial_id)

    def _completed(self, report: Report) -> Report:
        if report.result is None:
            return report
        result: TrialResult = replace(
            report.result, pack_id=self._order.pack_id, attempt=self._attempts[report.trial_id]
        )
        return replace(report, result=result)
