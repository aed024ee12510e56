"""The scheduler of grids: all trials at once."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.schedulers.scheduler import Task
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import TrialResult


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
