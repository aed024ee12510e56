"""Lets launches share a ledger: each trains what no other trains, and takes the results of what another trained.

A trial that another launch claims is waited for. Once its row is there, it counts as if it had been trained here. If
the other gives it up, or dies, this launch trains it, from its latest saved state. A trial that *failed* there while
this launch waited counts as failed here too: this launch would not try its own failed trial again either.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.driver.inbox_thread import InboxThread
from orchestrator.ledger.claims import Claim
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.recorded import Recorded, recorded
from trainables.packs.orders import MemberOrder
from trainables.packs.state_store import StateStore
from trainables.result import SATISFYING, Outcome

POLL_SECONDS = (0.5, 1.5)
"""Time between two looks for trials that others claim; random, so that two launches that withdrew do not meet again."""

_logger = logging.getLogger(__name__)


class Sharing(InboxThread[list[Recorded]]):
    """Context manager: `claim` is called by the queue; a thread waits for the trials that are trained elsewhere.

    `on_recorded` is called in that thread with results of other launches, `on_free` with orders to be queued again;
    `is_idle` says whether this launch has nothing to train.
    """

    def __init__(
        self,
        ledger: Ledger,
        workload: str,
        states: StateStore,
        on_recorded: Callable[[Sequence[Recorded]], None],
        on_free: Callable[[Sequence[MemberOrder]], None],
        is_idle: Callable[[], bool],
    ) -> None:
        super().__init__("sharing")
        self._ledger, self._workload, self._states = ledger, workload, states
        self._on_recorded, self._on_free, self._is_idle = on_recorded, on_free, is_idle
        self._has_said = False
        self._lock = threading.Lock()
        self._awaited: dict[str, MemberOrder] = {}
        self._seen_elsewhere: set[str] = set()

    def check(self) -> None:
        """Raise what stopped the thread, or that this launch lost its claims; takes no request."""
        super().check()
        if self._ledger.claims.is_lost:
            self._ledger.claims.check()

    def claim(self, members: Sequence[MemberOrder]) -> list[MemberOrder]:
        """Claim trials; returns those to train now, as their latest rows and states have them.

        The ledger is asked after the claim: another launch may have recorded a trial since this one planned it.
        """
        try:
            return self._claimed(members)
        except Exception as problem:  # Tune turns an exception raised here into text; `check` raises it
            self._problem = problem
            raise

    def _claimed(self, members: Sequence[MemberOrder]) -> list[MemberOrder]:
        orders = {member.config.trial_id: member for member in members}
        mine = self._ledger.claims.claim(orders)
        self._await([orders[trial_id] for trial_id in orders.keys() - mine])
        rows = self._rows(mine)
        answered = {trial_id for trial_id, row in rows.items() if _answers(row, orders[trial_id])}
        if answered:
            self._ledger.claims.release(answered)
            self._inbox.put(self._recorded([orders[trial_id] for trial_id in answered], rows))
        return self._renewed([member for trial_id, member in orders.items() if trial_id in mine - answered], rows)

    def _await(self, members: Sequence[MemberOrder]) -> None:
        with self._lock:
            self._awaited.update((member.config.trial_id, member) for member in members)
            self._seen_elsewhere.update(member.config.trial_id for member in members)

    def _renewed(self, members: list[MemberOrder], rows: Mapping[str, Mapping[str, Any]]) -> list[MemberOrder]:
        """The orders with the attempts and states that other launches have left since they were made."""
        with self._lock:
            are_old = {m.config.trial_id for m in members if m.config.trial_id in self._seen_elsewhere}
        are_old |= {m.config.trial_id for m in members if _is_news(rows.get(m.config.trial_id), m)}
        if not are_old:
            return members
        paths = self._states.find()

        def renewed(member: MemberOrder) -> MemberOrder:
            trial_id = member.config.trial_id
            if trial_id not in are_old:
                return member
            row = rows.get(trial_id)
            tried = 0 if row is None else row["attempt"]
            has_failed = row is not None and row["outcome"] == Outcome.FAILED
            return replace(
                member,
                attempt=max(member.attempt, tried + 1),
                state_path=None if has_failed else paths.get(trial_id),
            )

        return [renewed(member) for member in members]

    def _rows(self, trial_ids: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """The ledger's rows of trials by trial_id; none if no other launch has recorded any since this one started."""
        if not trial_ids or not self._ledger.has_news(self._workload):
            return {}
        rows = self._ledger.trials(self._workload, trial_ids=trial_ids).to_pylist()
        return {row["trial_id"]: row for row in rows}

    def _recorded(self, members: Sequence[MemberOrder], rows: Mapping[str, Mapping[str, Any]]) -> list[Recorded]:
        found = [(member.config, rows[member.config.trial_id]) for member in members]
        return recorded(self._ledger, self._workload, found)

    def _work(self) -> None:
        while True:
            try:
                found = self._inbox.get(timeout=random.uniform(*POLL_SECONDS))
            except queue.Empty:
                self._look()
                continue
            if found is None:
                return
            self._on_recorded(found)

    def _look(self) -> None:
        """Pass on the trials that others have recorded, and queue those that nobody claims any more."""
        with self._lock:
            awaited = dict(self._awaited)
        if not awaited:
            return
        claims = self._ledger.claims.others()  # first: a trial that is then not claimed has its row already, if any
        rows = self._rows(awaited)
        answered = {trial_id for trial_id, row in rows.items() if _answers(row, awaited[trial_id])}
        free = awaited.keys() - claims.keys() - answered
        with self._lock:
            for trial_id in answered | free:
                del self._awaited[trial_id]
        if answered:
            self._on_recorded(self._recorded([awaited[trial_id] for trial_id in answered], rows))
        if free:
            self._on_free([awaited[trial_id] for trial_id in free])
        self._say_waiting([claim for trial_id, claim in claims.items() if trial_id in awaited.keys() - answered])

    def _say_waiting(self, claims: Sequence[Claim]) -> None:
        """Say once why this launch has nothing to do."""
        if claims and not self._has_said and self._is_idle():
            self._has_said = True
            trials = "1 trial" if len(claims) == 1 else f"{len(claims)} trials"
            _logger.warning(
                "waiting for %s that %s trains into %s as well", trials, claims[0].holder, self._ledger.root
            )


def _is_news(row: Mapping[str, Any] | None, member: MemberOrder) -> bool:
    """Whether the row was recorded after the order was made."""
    return row is not None and row["attempt"] >= member.attempt


def _answers(row: Mapping[str, Any], member: MemberOrder) -> bool:
    """Whether the row is what the order would give."""
    if row["outcome"] in SATISFYING:
        return True
    if not _is_news(row, member):
        return False
    is_far_enough = member.until_epoch is not None and row["epochs_done"] >= member.until_epoch
    return bool(row["outcome"] == Outcome.FAILED or is_far_enough)
