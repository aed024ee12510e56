"""What a sweep has to train: the protocol of its schedulers, grids and searches alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trainables.config import TrialConfig
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
