"""When a trial whose packs are lost again and again has failed, and the result that says so."""

from __future__ import annotations

import time

from trainables.packs.orders import MemberOrder
from trainables.provenance import provenance
from trainables.result import Outcome, TrialResult

MAX_LOSSES = 3
"""A trial whose worker died or raised this often in a row, alone in its pack and without a newer state, has failed.

From its last try on it is trained by its workload's `last_engine`.
"""


def given_up(member: MemberOrder, pack_id: str, error: str) -> TrialResult:
    """The result of a trial that is not tried again, its pack `pack_id` having been lost with `error`."""
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
        provenance=provenance("none"),
        pack_id=pack_id,
        attempt=member.attempt - 1,
        error=f"its pack was lost {MAX_LOSSES} times, the last ones alone: {error}",
    )
