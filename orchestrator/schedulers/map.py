"""The scheduler of maps: it turns the rounds of claims and of boundaries into tasks.

It derives everything from the ledger's rows and recorded asks, so a map that was killed continues as if it had never
stopped. Rounds of claims and of boundaries are trained at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.map_results import MapResults
from orchestrator.schedulers.map_rounds import BoundaryRounds, ClaimRounds, Rounds
from orchestrator.schedulers.scheduler import Task
from orchestrator.sweeps.map_trials import map_of
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import SATISFYING, TrialResult


class MapScheduler:
    """Runs the claim rounds and boundary rounds of a map."""

    num_stopped = 0

    def __init__(self, sweep: Sweep, ledger: Ledger) -> None:
        search = map_of(sweep)
        self._sweep, self._ledger = sweep, ledger
        self._results = MapResults(sweep)
        self._rounds: list[Rounds] = [
            BoundaryRounds(setting, rounds, self._results, ledger)
            for setting, rounds in search.boundaries(sweep.cells())
        ]
        claims = [cell for cell in sweep.cells() if search.is_claim(cell)]
        if claims:
            self._rounds.insert(0, ClaimRounds(claims, self._results, ledger))
        self._known: set[str] = set()
        self._dispatched: set[str] = set()
        self._read(self.configs())
        self.settled = frozenset(ledger.settled(sweep.workload) & {config.trial_id for config in self.configs()})

    @property
    def num_trials(self) -> int:
        """Number of trials asked so far and of trials that are certain to be asked."""
        return len(self.configs()) + sum(rounds.num_certain for rounds in self._rounds)

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's estimate for asked trials that have not ended and for those certain to be asked."""
        cost = workload(self._sweep.workload).cost
        asked = sum(cost(config) for config in self.configs() if not self._results.has_ended(config))
        return asked + sum(rounds.num_certain * cost(rounds.typical) for rounds in self._rounds)

    @property
    def is_finished(self) -> bool:
        """True once every round has been asked and every trial has ended."""
        return all(rounds.is_finished for rounds in self._rounds) and all(map(self._results.has_ended, self.configs()))

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials asked so far."""
        asked = {config.trial_id: config for rounds in self._rounds for config in rounds.configs()}
        return tuple(asked.values())

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Take newly recorded results; return new tasks. A map stops no trials."""
        self._results.add([result.trial_row() for result in results])
        while True:
            for rounds in self._rounds:
                rounds.ask()
            if not self._read(self.configs()):
                break
        new = [
            config
            for config in self.configs()
            if not self._results.has_ended(config) and config.trial_id not in self._dispatched
        ]
        self._dispatched.update(config.trial_id for config in new)
        return [Task(config, config.num_epochs) for config in new], []

    def _read(self, configs: Collection[TrialConfig]) -> bool:
        """Read the ledger's rows of trials not read yet, including other sweeps' rows; whether any is settled."""
        ids = {config.trial_id for config in configs} - self._known
        self._known |= ids
        if not ids:
            return False
        rows = self._ledger.trials(self._sweep.workload, trial_ids=ids).to_pylist()
        settled = [row for row in rows if row["outcome"] in SATISFYING]
        self._results.add(settled)
        return bool(settled)
