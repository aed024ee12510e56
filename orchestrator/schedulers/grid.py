"""The scheduler of grids: it hands out all trials at once."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.scheduler import Task
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import TrialResult


class GridScheduler:
    """Hands out all trials of a sweep's grids at once, except settled ones; at most `max_trials` of them."""

    num_stopped = 0

    def __init__(self, sweep: Sweep, ledger: Ledger, max_trials: int | None = None) -> None:
        self._configs = sweep.configs()
        self.settled = frozenset(ledger.settled(sweep.workload) & {config.trial_id for config in self._configs})
        self._pending = [config for config in self._configs if config.trial_id not in self.settled][:max_trials]
        self.is_finished = not self._pending

    @property
    def num_trials(self) -> int:
        """Total number of trials."""
        return len(self._configs)

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's estimate for the pending trials."""
        return sum(workload(config.workload).cost(config) for config in self._pending)

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials."""
        return self._configs

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Return every pending trial on the first call, and nothing later."""
        pending, self._pending = self._pending, []
        self.is_finished = True
        return [Task(config, config.num_epochs) for config in pending], []
