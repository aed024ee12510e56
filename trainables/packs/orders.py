"""A pack on its way to a worker: which trials it trains, how far, and where."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainables.config import TrialConfig
from trainables.registry import place_of


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """One trial of a pack: trained to `until_epoch` (None: its last), from the state in file `state_path` if any.

    `may_stop`: see `Member`.
    """

    config: TrialConfig
    attempt: int = 1
    state_path: str | None = None
    until_epoch: int | None = None
    may_stop: bool = False

    @property
    def last_epoch(self) -> int:
        """The epoch after which this order is fulfilled."""
        return self.until_epoch or self.config.num_epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOrder:
    """Members to be trained by one worker on its `device`, with `num_threads` where that is the CPU.

    Their states are saved under `states_root` every `checkpoint_seconds`. `engine`: see `Workload.open`. `workload` is
    where theirs lies, `module:class`: the worker may be a fresh process, which knows no user's module.
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
