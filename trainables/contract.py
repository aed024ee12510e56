"""The interface between planning and training: a `Workload` opens packs of `Member`s, and a `PackRun` trains them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

import numpy.typing as npt

from trainables.config import Optimizer, TrialConfig
from trainables.errors import ConfigError
from trainables.names import check_torch_rule
from trainables.result import TracePoint, TrialResult

State = Mapping[str, npt.NDArray[Any]]
"""Everything a member needs to resume exactly where it stopped, as plain arrays."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a pack is one config that a workload trains, from a saved state or from the initial weights.

    Args:
        config: What to train.
        until_epoch: The epoch to stop at. If the config has later epochs, the trial ends as `unfinished`, and a later
            member can resume from its state.
        state: A state from a pack's `states()`, to resume from exactly. None starts from the initial weights.
        may_stop: Whether a certificate may end the trial before its last epoch. It never ends an audited trial.
        pauses: Whether `advance` returns at each trace point, so that the state then is of that point.

    Example:
        >>> from trainables import Member, config_from_values, workload
        >>> adam = {"optimizer": "adam", "weight_decay": 1e-5}
        >>> values = {"workload": "two_layer_cnn", **adam, "batch_size": 20, "seed": 0}
        >>> config = config_from_values({**values, "num_epochs": 8})
        >>> half = workload("two_layer_cnn").open([Member(config, until_epoch=4)])
        >>> print(half.advance(seconds=60)[-1].result.outcome)
        unfinished
        >>> rest = workload("two_layer_cnn").open([Member(config, until_epoch=8, state=half.states()[config.trial_id])])
        >>> rest.advance(seconds=60)[-1].epochs_done
        8
    """

    config: TrialConfig
    until_epoch: int
    state: State | None = None
    _: KW_ONLY
    may_stop: bool = False
    pauses: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Progress of one member: its epoch, the trace points since its last report, and its result once it has ended."""

    trial_id: str
    epochs_done: int
    points: tuple[TracePoint, ...]
    result: TrialResult | None = None


class PackRun(Protocol):
    """A pack in training. Members do not affect each other's numbers, and a failing member does not stop the others."""

    @property
    def is_done(self) -> bool:
        """Whether every member has ended."""
        ...

    def advance(self, seconds: float) -> list[Report]:
        """Train for about `seconds` of wall time; returns at least one report unless the pack is done."""
        ...

    def states(self) -> dict[str, State]:
        """States of all members that have begun, by trial_id; a member resumed from its state is bitwise the same."""
        ...

    def forget(self, trial_ids: Collection[str]) -> None:
        """Drop the states of ended members whose results are safely recorded."""
        ...


class Workload(Protocol):
    """A workload is one kind of trial: it checks configs, estimates their cost, and trains packs of them.

    One line in `registry.py` registers it, or `@register_workload` in a user's own module. Planning calls every method
    except `open`, so only `open` may import torch. A class that subclasses `Workload` inherits the defaults given here.

    Args:
        config_type: The config's type; its fields are columns of the results.
        devices: Kinds of devices that it trains on, the fastest first: `cuda`, `cpu`.
        trace_point_type: The type of a measurement; its fields are columns of the results too.
        num_classes: Number of classes if every trial has the same; None if the config has a field `num_classes`.
        shared_test_data: What the test data are, in one word (`images`), if the trials of all seeds share them. None
            if each seed samples its own.
        reads_data_sets: Whether trials read the folder of data sets (`--data`).

    Example:
        >>> from trainables import Workload, config_from_values, workload
        >>> cnn: Workload = workload("two_layer_cnn")
        >>> cnn.devices
        ('cpu',)
        >>> adam = {"optimizer": "adam", "weight_decay": 1e-5}
        >>> values = {"workload": "two_layer_cnn", **adam, "batch_size": 20, "seed": 0}
        >>> short, long = (config_from_values({**values, "num_epochs": epochs}) for epochs in (10, 1000))
        >>> cnn.cost(short) < cnn.cost(long)
        True
    """

    config_type: type[TrialConfig]
    devices: Sequence[str]
    trace_point_type: type[TracePoint]
    num_classes: int | None
    shared_test_data: str | None = None
    reads_data_sets: bool = False

    @abstractmethod
    def config(self, values: Mapping[str, Any]) -> TrialConfig:
        """The config that `values` describe, with defaults for missing fields; `ConfigError` names every fault."""
        ...

    @abstractmethod
    def pack_key(self, config: TrialConfig) -> Hashable:
        """Configs with equal keys may share a pack."""
        ...

    @abstractmethod
    def cost(self, config: TrialConfig) -> float:
        """Rough seconds of one trial on one core, used to balance packs and to forecast time."""
        ...

    @abstractmethod
    def memory(self, config: TrialConfig) -> int:
        """Bytes that one member holds while it trains."""
        ...

    @abstractmethod
    def side_by_side(self, device: str) -> int:
        """Members that train at once on one device of that kind; packs get at least as many if enough are waiting."""
        ...

    @abstractmethod
    def last_engine(self, device: str) -> str | None:
        """Engine for the last retry of a trial whose workers kept dying, in case the fast engine kills them.

        None keeps the engine of the earlier tries.
        """
        ...

    def check_rule(self, optimizer: Optimizer) -> None:
        """Raise `ConfigError` if no engine of the workload can train with that optimizer; planning calls it.

        By default a workload trains with every optimizer that has an update rule in torch.
        """
        check_torch_rule(optimizer)

    def check_certificates(self, optimizer: Optimizer) -> None:
        """Raise `ConfigError` if no certificate exists for trials of that optimizer.

        Called for a sweep that accepts certificates.
        """
        raise ConfigError(f"workload class {type(self).__name__} has no stop certificates")

    @abstractmethod
    def open(
        self, members: Sequence[Member], device: str = "cpu", engine: str | None = None, num_threads: int = 1
    ) -> PackRun:
        """Start or resume a pack; `engine=None` chooses the fastest engine that runs here.

        Raises `ConfigError` for a device or engine that is not available.
        """
        ...
