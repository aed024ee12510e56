"""Decides which row of a trial counts, and which rows settle it: the ledger's rules on duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.ledger.schema import ATTEMPT_KEY
from trainables.result import SATISFYING, Outcome

if TYPE_CHECKING:
    import pandas as pd

RANK_COLUMNS = (*ATTEMPT_KEY, "outcome", "epochs_done", "num_epochs")
"""Columns that decide which row of a trial counts."""

SETTLING_COLUMNS = ("trial_id", "outcome", "epochs_done", "num_epochs")
"""Columns that decide whether a row settles its trial, for readers that accept certificates or for all."""


def satisfying(rows: pa.Table) -> pa.BooleanArray:
    """Mask of the rows whose outcome settles their trial."""
    # A pattern, not a list of values: making an Arrow array or scalar imports pandas, half a second of every plan.
    return pc.match_substring_regex(rows["outcome"], pattern=f"^({'|'.join(sorted(SATISFYING))})$")


# `TrialResult.was_stopped` for each kind of rows: the ledger's, a figure's or a table's, and a single one.


def stopped(rows: pa.Table) -> pa.BooleanArray:
    """Mask of the trials that were stopped for their certificate: stuck before the last epoch."""
    is_stuck = pc.match_substring_regex(rows["outcome"], pattern=f"^{Outcome.STUCK}$")
    return pc.and_(is_stuck, pc.less(rows["epochs_done"], rows["num_epochs"]))


def stopped_trials(trials: pd.DataFrame) -> pd.Series[bool]:
    """`stopped` of a data frame."""
    return (trials["outcome"] == Outcome.STUCK) & (trials["epochs_done"] < trials["num_epochs"])


def stopped_row(row: Mapping[str, Any]) -> bool:
    """`stopped` of one row."""
    return bool(row["outcome"] == Outcome.STUCK and row["epochs_done"] < row["num_epochs"])


class Ending(IntEnum):
    """How far an attempt got; of a trial's attempts, the one that got furthest counts."""

    OPEN = 0
    """Failed, pruned or unfinished: the trial is not settled."""
    STOPPED = 1
    """Stopped for its certificate."""
    ENDED = 2
    """Trained to its last epoch, or diverged."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The fields that decide which of a trial's attempts counts; `finished_at` in any unit."""

    ending: Ending
    number: int
    finished_at: float
    driver_id: str

    def stands_before(self, other: Attempt) -> bool:
        """Whether this attempt counts instead of `other`, at the same trial; `standing` is the same rule for a table.

        The attempt that got further wins: to its end, then to a certificate. Among equals of these two kinds the
        earliest `finished_at` wins (so a row once read stays valid), then the smaller `driver_id`. Among
        attempts that settle nothing the highest number wins, then the latest `finished_at`, then the greater
        `driver_id`.
        """
        if self.ending is not other.ending:
            return self.ending > other.ending
        if self.ending is Ending.OPEN:
            return self._last_tried > other._last_tried
        return self._first_settled < other._first_settled

    @property
    def _first_settled(self) -> tuple[float, str, int]:
        return self.finished_at, self.driver_id, self.number

    @property
    def _last_tried(self) -> tuple[int, float, str]:
        return self.number, self.finished_at, self.driver_id


def standing(rows: pa.Table) -> npt.NDArray[np.int64]:
    """Ascending positions of the one row of each trial that counts; needs `RANK_COLUMNS`.

    The rule is `Attempt.stands_before`, applied to all rows at once. It orders all attempts, so all readers and
    compactions agree on the winner, in whatever order they see the rows.
    """
    codes = rows["trial_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    contested = np.bincount(codes)[codes] > 1 if len(codes) else np.zeros(0, dtype=bool)
    positions = np.flatnonzero(contested)
    rivals = rows.select(list(RANK_COLUMNS)).take(positions).append_column("position", pa.array(positions))
    settled, early = satisfying(rivals), stopped(rivals)
    first_settled = ("finished_at", "driver_id", "attempt")
    last_tried = ("attempt", "finished_at", "driver_id")
    ranked = np.concatenate(
        [
            *(
                rivals.filter(rank).sort_by([(name, "ascending") for name in first_settled])["position"].to_numpy()
                for rank in (pc.and_not(settled, early), early)
            ),
            rivals.filter(pc.invert(settled))
            .sort_by([(name, "descending") for name in last_tried])["position"]
            .to_numpy(),
        ]
    )
    _, first = np.unique(codes[ranked], return_index=True)
    return np.sort(np.concatenate([np.flatnonzero(~contested), ranked[first]]))


def worth_keeping(rows: pa.Table, driver_id: str) -> pa.Table:
    """The rows of one driver that its compaction keeps, given all drivers' rows: at most one for each trial.

    A row is dropped if it loses against another driver's attempt that was trained to its end. All drivers agree on the
    winner, so the winner itself is never dropped, even if all drivers compact at once. A stopped winner displaces no
    row of another driver, since not every reader accepts it. It does displace this driver's own unfinished row, which
    settles nothing and whose saved state is deleted.
    """
    winners = rows.take(standing(rows))
    this_driver = pa.scalar(driver_id)
    ended = pc.and_not(satisfying(winners), stopped(winners))
    others = pc.and_(ended, pc.not_equal(winners["driver_id"], this_driver))
    own = rows.filter(pc.equal(rows["driver_id"], this_driver))
    own = own.take(standing(own))
    return without(own, winners.filter(others))


def without(rows: pa.Table, others: pa.Table) -> pa.Table:
    """The rows whose trial has no row among `others`."""
    return rows.filter(pc.invert(pc.is_in(rows["trial_id"], value_set=others["trial_id"].combine_chunks())))


def of_attempts(rows: pa.Table, attempts: pa.Table) -> pa.Table:
    """The rows, of either table, that belong to `attempts`: one attempt for each trial."""
    if rows.num_rows < attempts.num_rows:  # one of many groups: do not build a look-up of all trials for each
        ids = pc.unique(rows["trial_id"])
        attempts = attempts.filter(pc.is_in(attempts["trial_id"], value_set=ids))
    at = pc.index_in(rows["trial_id"], value_set=attempts["trial_id"].combine_chunks())
    belongs = pc.is_valid(at)
    for name in ATTEMPT_KEY[1:]:
        belongs = pc.and_(belongs, pc.equal(rows[name], attempts[name].combine_chunks().take(at)))
    return rows.filter(belongs)


def sorted_once(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows sorted by `names`, without duplicates, which an interrupted compaction leaves behind."""
    rows = rows.sort_by([(name, "ascending") for name in names])
    if rows.num_rows < 2:
        return rows
    is_new = np.zeros(rows.num_rows, dtype=bool)
    is_new[0] = True
    for name in names:
        column = rows[name].combine_chunks()
        is_new[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return rows if is_new.all() else rows.filter(pa.array(is_new))
