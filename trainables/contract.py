"""The seam between what trains and what plans: `Workload` opens packs of `Member`s, `PackRun` advances them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from trainables.config import Optimizer, TrialConfig
from trainables.errors import ConfigError
from trainables.result import TracePoint, TrialResult

State = Mapping[str, npt.NDArray[Any]]
"""Everything a member needs to go on exactly where it stood, as plain arrays."""


@dataclass(frozen=True, slots=True)
class Member:
    """One config of a pack, to be trained until `until_epoch` from `state` (None: from the start).

    `may_stop`: a stop certificate ends it early, unless it is one of the audits.
    """

    config: TrialConfig
    until_epoch: int
    state: State | None = None
    may_stop: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """News of one member: its epoch, the trace points since the last report, and the result once it ended."""

    trial_id: str
    epochs_done: int
    points: tuple[TracePoint, ...]
    result: TrialResult | None = None


class PackRun(Protocol):
    """A pack in training; one member never disturbs another."""

    @property
    def is_done(self) -> bool:
        """Whether every member has ended."""
        ...

    def advance(self, seconds: float) -> list[Report]:
        """Train for about `seconds` of wall time; at least one report, or the pack is done."""
        ...

    def states(self) -> dict[str, State]:
        """State by trial_id of each member that has begun; a member resumed from it gives bitwise the same numbers."""
        ...

    def forget(self, trial_ids: Collection[str]) -> None:
        """Drop the states of ended members whose results are safely recorded."""
        ...


class Workload(Protocol):
    """One kind of trial; registered by one line in `registry.py`, a user's own by `@register_workload`.

    Planning calls import no torch. What has a value here is inherited by a class that names `Workload` as its base.
    """

    config_type: type[TrialConfig]
    devices: Sequence[str]
    """Kinds of devices that it trains on, the fastest first: `cuda`, `cpu`."""
    trace_point_type: type[TracePoint]
    num_classes: int | None
    """Classes of its data, the same in every trial; None: the config has a field `num_classes`."""
    shared_test_data: str | None = None
    """What the trials of every seed are tested on, `images` say; None: a seed samples test data of its own."""
    reads_data_sets: bool = False
    """Whether trials read the folder of data sets (`--data`)."""

    @abstractmethod
    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The config that `values` describe, what they leave open filled in; `ConfigError` names every fault."""
        ...

    @abstractmethod
    def pack_key(self, config: TrialConfig) -> Hashable:
        """Configs with equal keys may share a pack."""
        ...

    @abstractmethod
    def cost(self, config: TrialConfig) -> float:
        """Rough seconds of one trial on one core; relative values balance packs and forecast time."""
        ...

    @abstractmethod
    def memory(self, config: TrialConfig) -> int:
        """Bytes that one member holds while it trains."""
        ...

    @abstractmethod
    def side_by_side(self, device: str) -> int:
        """Members that train at once on one device of that kind: a pack has that many where there are enough."""
        ...

    @abstractmethod
    def last_engine(self, device: str) -> str | None:
        """Engine for the last retry of a trial whose workers kept dying, in case the fast engine kills them.

        None if there is no alternative.
        """
        ...

    def check_certificates(self, optimizer: Optimizer) -> None:
        """Raise `ConfigError` if nothing could ever certify a trial of that optimizer, and a sweep asks for it."""
        raise ConfigError(f"nothing is known to certify a trial of {type(self).__name__}")

    @abstractmethod
    def open(
        self, members: Sequence[Member], device: str = "cpu", engine: str | None = None, num_threads: int = 1
    ) -> PackRun:
        """Start or resume a pack; `engine` None chooses the fastest that runs here.

        Raises `ConfigError` for a device or engine that is not there.
        """
        ...
