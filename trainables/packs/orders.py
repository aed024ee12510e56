"""The order for a pack that a worker is to run: which trials it trains, up to which epochs, and on which device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainables.config import TrialConfig
from trainables.contract import Report
from trainables.registry import place_of


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """One trial of a pack, to be trained to `until_epoch` (None: its last epoch).

    Training resumes from the state in the file `state_path` (None: from the initial weights). `may_stop`: see `Member`.
    """

    config: TrialConfig
    attempt: int = 1
    state_path: str | None = None
    until_epoch: int | None = None
    may_stop: bool = False

    @property
    def last_epoch(self) -> int:
        """The epoch at which the worker stops training the trial."""
        return self.until_epoch or self.config.num_epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOrder:
    """Members to be trained by one worker on `device`; on the CPU with `num_threads` threads.

    Their states are saved under `states_root` every `checkpoint_seconds`. `engine`: see `Workload.open`. `workload` is
    the place of their workload, `module:class`: the worker may be a new process that has imported no user's module.
    """

    pack_id: str
    members: tuple[MemberOrder, ...]
    states_root: str
    checkpoint_seconds: float
    device: str = "cpu"
    num_threads: int = 1
    engine: str | None = None
    workload: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "workload", place_of(self.members[0].config))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker hears when it reports: its members that the driver has `recorded`, and whether it is to stop.

    `knows_worker` is false if the exchange was started anew since the worker began: it shall call `begin` again.
    """

    recorded: Sequence[str]
    stops: bool
    knows_worker: bool = True


@dataclass(frozen=True, slots=True)
class News:
    """What the driver gets: reports, the packs that were heard of since the last time, and who trains new ones."""

    reports: Sequence[Report]
    heard: Collection[str]
    workers: Mapping[str, Any]
