"""What a sweep has to train: all of it known at once, or found out step by step by a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import TrialResult


@dataclass(frozen=True, slots=True)
class Task:
    """A trial to be trained until that epoch."""

    config: TrialConfig
    until_epoch: int


class Work(Protocol):
    """Hands out tasks; `advance` takes what was recorded and may hand out more."""

    @property
    def num_trials(self) -> int:
        """Trials in all, those to come included."""
        ...

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's guess for what is left."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether no task will come any more."""
        ...

    def configs(self) -> tuple[TrialConfig, ...]:
        """The trials that are known so far."""
        ...

    def shown(self) -> tuple[TrialConfig, ...]:
        """The trials that tables and figures are about."""
        ...

    def chosen(self) -> tuple[str, ...]:
        """Fields of which the shown trials have the best value found in each cell."""
        ...

    def notes(self) -> list[str]:
        """Lines that belong under the table."""
        ...

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """New tasks, and ids of trials that are stopped for good."""
        ...


class Grids:
    """All trials of a sweep's grids at once: `pending` are those to run."""

    def __init__(self, configs: tuple[TrialConfig, ...], pending: tuple[TrialConfig, ...]) -> None:
        self._configs, self._pending = configs, pending
        self.is_finished = not pending

    @property
    def num_trials(self) -> int:
        """Trials in all."""
        return len(self._configs)

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's guess for the pending ones."""
        return sum(workload(config.workload).cost(config) for config in self._pending)

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials."""
        return self._configs

    def shown(self) -> tuple[TrialConfig, ...]:
        """All trials."""
        return self._configs

    def chosen(self) -> tuple[str, ...]:
        """None."""
        return ()

    def notes(self) -> list[str]:
        """None."""
        return []

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Everything, the first time."""
        pending, self._pending = self._pending, ()
        self.is_finished = True
        return [Task(config, config.num_epochs) for config in pending], []
