"""Cuts the remaining trials into packs, one when a worker asks, so that a pack's size fits the remaining work."""

from __future__ import annotations

import math
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from orchestrator.executors.retries import Retries
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

LONGEST_PACK_SECONDS = 120.0
SHORTEST_PACK_SECONDS = 1.0
"""Starting a pack takes some tens of milliseconds: shorter packs are not worth cutting."""
SECONDS_PER_SLOT = 0.02
"""The driver needs some milliseconds for each pack: this keeps packs for many slots long enough for it to keep up."""
ROUNDS_LEFT = 2
"""A pack is at most 1 / ROUNDS_LEFT of a slot's share of the remaining work, so that slots finish together."""
SLOTS_PER_EXTRA_PACK = 8
"""With many slots, packs are claimed before they are needed: one for so many slots, at each request of the store."""

Claim = Callable[[Sequence[MemberOrder]], Sequence[MemberOrder]]
"""Takes members of packs that were cut; returns those that may be trained now, perhaps from other states.

The others are trained elsewhere: each is added again, or its result is passed to `PackQueue.ended`.
"""


@dataclass(frozen=True, slots=True)
class PackSettings:
    """The settings that all packs of a launch share."""

    states_root: str
    checkpoint_seconds: float
    device: str = "cpu"
    num_threads: int = 1


class PackQueue:
    """Holds the trials that are not finished: executors pull packs, and members of lost packs return. Thread-safe.

    Members may be added until `close`. With `claim`, only members that it returns are handed out.
    """

    def __init__(self, settings: PackSettings, claim: Claim | None = None) -> None:
        self._settings, self._claim = settings, claim
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_open = True
        self._waiting: deque[MemberOrder] = deque()
        self._cost_waiting = 0.0
        self._ready: deque[tuple[MemberOrder, ...]] = deque()
        self._elsewhere: dict[str, MemberOrder] = {}
        self._in_flight: dict[str, PackOrder] = {}
        self._ended: dict[str, float] = {}
        self._retries = Retries(settings.device)
        self._run_id = uuid.uuid4().hex[:8]
        self._num_packs = 0

    def add(self, members: Sequence[MemberOrder]) -> None:
        """Add members; the costliest are cut into packs first."""
        with self._changed:
            if members:  # called for every recorded batch, and sorting a million trials takes seconds
                self._waiting = deque(_longest_first([*self._waiting, *members]))
                self._cost_waiting += sum(_cost(member) for member in members)
                self._come_back(member.config.trial_id for member in members)
            self._changed.notify_all()

    def close(self) -> None:
        """Declare that no more members will be added."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Return when a member waits or the queue is closed, at the latest after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ready or not self._is_open, seconds)

    @property
    def is_finished(self) -> bool:
        """True if the queue is closed, and no member waits, is in flight or is trained elsewhere."""
        with self._lock:
            return not (self._is_open or self._waiting or self._ready or self._in_flight or self._elsewhere)

    @property
    def is_idle(self) -> bool:
        """True if no member waits or is in flight: the scheduler must first read results to ask more."""
        with self._lock:
            return not (self._waiting or self._ready or self._in_flight)

    def next_pack(self, slots: int) -> PackOrder | None:
        """Cut the next pack for one of `slots` workers; None if no member waits now."""
        if self._claim is not None:
            self._claim_packs(self._claim, slots)
        with self._lock:
            members = self._ready.popleft() if self._ready else self._cut(slots) if self._claim is None else ()
            return self._started(members) if members else None

    def _claim_packs(self, claim: Claim, slots: int) -> None:
        """Have at least one pack ready, if members wait that can be claimed.

        Requests to the store are made without the lock, which recorder and workers need meanwhile. Members count as
        trained elsewhere until they are claimed: their results may come in before `claim` returns.
        """
        while True:
            with self._lock:
                if self._ready:
                    return
                packs = [self._cut(slots) for _ in range(1 + slots // SLOTS_PER_EXTRA_PACK)]
                asked = [member for pack in packs for member in pack]
                self._elsewhere.update((member.config.trial_id, member) for member in asked)
            if not asked:
                return
            claimed = {member.config.trial_id: member for member in claim(asked)}
            with self._lock:
                self._come_back(claimed)
                left = (tuple(claimed[i] for m in pack if (i := m.config.trial_id) in claimed) for pack in packs)
                self._ready.extend(pack for pack in left if pack)

    def _come_back(self, trial_ids: Iterable[str]) -> None:
        """Take note that these members are not trained elsewhere any more."""
        for trial_id in trial_ids:
            self._elsewhere.pop(trial_id, None)

    def _started(self, members: tuple[MemberOrder, ...]) -> PackOrder:
        self._num_packs += 1
        order = PackOrder(
            pack_id=f"{self._run_id}-{self._num_packs}",
            members=members,
            states_root=self._settings.states_root,
            checkpoint_seconds=self._settings.checkpoint_seconds,
            device=self._settings.device,
            num_threads=self._settings.num_threads,
            engine=self._engine(members[0]),
        )
        self._in_flight[order.pack_id] = order
        return order

    def ended(self, result: TrialResult) -> bool:
        """Take note of a trial's result, from here or elsewhere; whether it is the first one that reaches this far."""
        may_go_on = result.outcome in (Outcome.UNFINISHED, Outcome.PRUNED)  # another launch may have pruned it
        reached = result.epochs_done if may_go_on else math.inf
        with self._lock:
            is_first = reached > self._ended.get(result.trial_id, -1)
            self._ended[result.trial_id] = max(reached, self._ended.get(result.trial_id, -1))
            if (member := self._elsewhere.get(result.trial_id)) is not None and self._has_ended(member):
                del self._elsewhere[result.trial_id]
            return is_first

    def completed(self, pack_id: str) -> list[TrialResult]:
        """Take note that a pack's worker has finished; members without a result count as lost."""
        return self.lost(pack_id, "the pack ended without its result", {})

    def lost(self, pack_id: str, error: str, state_paths: Mapping[str, str]) -> list[TrialResult]:
        """Take note that a pack's worker died: queue its unfinished members again, as `Retries` decides.

        Returns the results of members that are given up, which the caller passes to `ended` like a worker's results.
        """
        with self._lock:
            order = self._in_flight.pop(pack_id, None)
            left = [m for m in order.members if not self._has_ended(m)] if order else []
            retry = self._retries.after_loss(left, pack_id, error, state_paths)
            self._ready.extendleft(reversed(retry.packs))
            return list(retry.given_up)

    def _has_ended(self, member: MemberOrder) -> bool:
        return self._ended.get(member.config.trial_id, -1) >= member.last_epoch

    def _cut(self, slots: int) -> tuple[MemberOrder, ...]:
        share_of_cost = self._cost_waiting / max(1, slots)
        shortest = max(SHORTEST_PACK_SECONDS, min(SECONDS_PER_SLOT * slots, share_of_cost))
        budget = min(max(share_of_cost / ROUNDS_LEFT, shortest), LONGEST_PACK_SECONDS)
        share = math.ceil(len(self._waiting) / max(1, slots))
        members: list[MemberOrder] = []
        cost = 0.0
        while self._waiting:
            candidate = self._waiting[0]
            grown = cost + _cost(candidate)
            side_by_side = workload(candidate.config.workload).side_by_side(self._settings.device)
            is_long_enough = grown > budget and len(members) >= min(side_by_side, share)
            if members and (is_long_enough or not self._may_share(candidate, members[0])):
                break
            members.append(self._waiting.popleft())
            cost = grown
        self._cost_waiting -= cost
        return tuple(members)

    def _may_share(self, one: MemberOrder, other: MemberOrder) -> bool:
        return _key(one) == _key(other) and self._engine(one) == self._engine(other)

    def _engine(self, member: MemberOrder) -> str | None:
        return self._retries.engine(member.config)


def _longest_first(members: Sequence[MemberOrder]) -> list[MemberOrder]:
    """By pack key, the costliest key first; within a key by falling cost, then by seed: neighbours share data."""

    def rank(member: MemberOrder) -> tuple[float, int]:
        return -_cost(member), member.config.seed

    by_key = sorted(members, key=lambda m: str(_key(m)))
    groups = [sorted(group, key=rank) for _, group in groupby(by_key, key=lambda m: str(_key(m)))]
    return [member for group in sorted(groups, key=lambda g: rank(g[0])) for member in group]


def _key(member: MemberOrder) -> object:
    return workload(member.config.workload).pack_key(member.config)


def _cost(member: MemberOrder) -> float:
    config = member.config
    return workload(config.workload).cost(config) * member.last_epoch / config.num_epochs
