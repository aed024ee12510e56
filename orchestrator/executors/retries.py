"""Decides which trials of a lost pack are tried again, in which packs and by which engine, and which have failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trainables.config import TrialConfig
from trainables.packs.orders import MemberOrder
from trainables.provenance import NO_ENGINE, provenance
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

_logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""A trial has failed if its worker died or raised this often in a row, alone in its pack and without a newer state.

From its last try on, the trial is trained by its workload's `last_engine`.
"""


@dataclass(frozen=True, slots=True)
class Retry:
    """The consequence of a loss: members to try again, grouped in packs, and results of those given up."""

    packs: Sequence[tuple[MemberOrder, ...]] = ()
    given_up: Sequence[TrialResult] = ()


class Retries:
    """Counts the losses of each trial, and decides what follows from each loss. Not thread-safe."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._losses: dict[str, int] = {}
        self._last_engines: dict[str, str] = {}

    def engine(self, config: TrialConfig) -> str | None:
        """The engine for a trial's next pack; None is the fastest."""
        return self._last_engines.get(config.trial_id)

    def after_loss(
        self, members: Sequence[MemberOrder], pack_id: str, error: str, state_paths: Mapping[str, str]
    ) -> Retry:
        """Split several members into two packs, so that a deadly one ends up alone; retry a lone one, or give it up."""
        again = [
            replace(m, attempt=m.attempt + 1, state_path=state_paths.get(m.config.trial_id, m.state_path))
            for m in members
        ]
        if len(again) > 1:
            middle = (len(again) + 1) // 2
            return Retry(packs=(tuple(again[:middle]), tuple(again[middle:])))
        for before, member in zip(members, again, strict=True):
            if self._counted(before, member) >= MAX_LOSSES:
                return Retry(given_up=[_given_up(member, pack_id, error)])
        return Retry(packs=[(member,) for member in again])

    def _counted(self, before: MemberOrder, member: MemberOrder) -> int:
        """How often the member was lost in a row, including now; chooses its last engine before its last try."""
        # A newer state is progress: a trial is not blamed for workers that were merely taken away.
        earlier = self._losses.get(member.config.trial_id, 0) if member.state_path == before.state_path else 0
        self._losses[member.config.trial_id] = losses = earlier + 1
        if losses == MAX_LOSSES - 1:
            self._choose_last_engine(member.config)
        return losses

    def _choose_last_engine(self, config: TrialConfig) -> None:
        engine = workload(config.workload).last_engine(self._device)
        if engine is None:
            return
        if not self._last_engines:
            _logger.warning(
                "trial %s ended its worker %d times: from now on it, and others that do so, are trained by engine %s",
                config.trial_id,
                MAX_LOSSES - 1,
                engine,
            )
        self._last_engines[config.trial_id] = engine


def _given_up(member: MemberOrder, pack_id: str, error: str) -> TrialResult:
    """The failed result of a trial that is not tried again after its pack `pack_id` was lost with `error`."""
    return TrialResult(
        config=member.config,
        outcome=Outcome.FAILED,
        epochs_done=0,
        trace=(),
        data_digest=None,
        init_digest=None,
        order_digest=None,
        train_seconds=0.0,
        finished_at=time.time(),
        provenance=provenance(NO_ENGINE),
        pack_id=pack_id,
        attempt=member.attempt - 1,
        error=f"its pack was lost {MAX_LOSSES} times, the last ones alone: {error}",
    )
