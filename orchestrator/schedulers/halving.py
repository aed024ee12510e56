"""The scheduler of halving searches: which points are asked, how far each is trained, and what is trained next.

It derives everything from the ledger's rows, traces and recorded asks, so a search that was killed continues as if it
had never stopped. Round k of a cell is asked when its rounds up to k - 2 are complete, and sees only their results. So
a round need not wait for the slowest trial of the round before it, and yet every run of the search asks the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.halving_cell import CellSearch
from orchestrator.schedulers.scheduler import Task
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

_MEANINGLESS = (Outcome.STUCK, Outcome.DIVERGED, Outcome.FAILED)
_OPEN = (None, Outcome.UNFINISHED, Outcome.PRUNED)

_CELL_NAMES = ("optimizer", "batch_size")


class HalvingScheduler:
    """Runs the halving searches of all cells of a sweep."""

    def __init__(self, sweep: Sweep, ledger: Ledger) -> None:
        assert isinstance(sweep.search, HalvingSearch)
        self._sweep, self._ledger, self._search = sweep, ledger, sweep.search
        cells = sweep.cells()
        names = _names_of(cells)
        self._cells = [CellSearch(sweep, self._search, cell, names, ledger, self._score) for cell in cells]
        self._errors: dict[str, dict[int, float]] = {}
        self._outcomes: dict[str, str] = {}
        self._epochs_done: dict[str, int] = {}
        self._known: set[str] = set()
        self._dispatched: set[tuple[str, int]] = set()
        while self._read(self.configs()):
            pass  # once a cell's rounds are read, its best point may add trials to read
        self.settled = frozenset(ledger.settled(sweep.workload) & {config.trial_id for config in self.configs()})

    @property
    def num_trials(self) -> int:
        """Number of points of all rounds, plus the best point of each cell once for every seed."""
        return self._sweep.num_trials

    @property
    def num_stopped(self) -> int:
        """Number of points that were stopped before the last rung."""
        return list(self._outcomes.values()).count(Outcome.PRUNED)

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's estimate for the whole search, minus the epochs already trained."""
        return max(0.0, sum(cell.cost() for cell in self._cells) - sum(map(self._trained, self.configs())))

    @property
    def is_finished(self) -> bool:
        """Whether every cell has its best point trained with every seed."""
        return all(cell.is_finished(self._is_done) for cell in self._cells)

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials asked so far."""
        asked = {config.trial_id: config for cell in self._cells for config in cell.configs()}
        return tuple(asked.values())

    def finals(self) -> tuple[TrialConfig, ...]:
        """The best point of each cell with each of the sweep's seeds, for the cells whose best point is known."""
        return tuple(config for cell in self._cells for config in cell.finals())

    def edges(self) -> list[str]:
        """A line for each value of a best point that lies near an end of its axis."""
        return [line for cell in self._cells for line in cell.edges()]

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Take newly recorded results; return new tasks, and ids of the trials that are now stopped for good."""
        for result in results:
            self._outcomes[result.trial_id] = result.outcome
            self._epochs_done[result.trial_id] = result.epochs_done
            self._errors[result.trial_id] = {p.epoch: float(getattr(p, self._sweep.error)) for p in result.trace}
        while True:
            for cell in self._cells:
                cell.ask()
            tasks, stopped = self._tasks()
            if not self._read([task.config for task in tasks]):
                break
        new = [task for task in tasks if _key(task) not in self._dispatched and not self._is_done(task)]
        self._dispatched.update(map(_key, new))
        to_mark = [trial_id for trial_id in stopped if self._outcomes.get(trial_id) == Outcome.UNFINISHED]
        self._outcomes.update(dict.fromkeys(to_mark, Outcome.PRUNED))
        return new, to_mark

    def _tasks(self) -> tuple[list[Task], list[str]]:
        """All tasks that the rungs allow, each once; and ids of the points that are not promoted."""
        stopped: list[str] = []
        tasks = {_key(task): task for cell in self._cells for task in cell.tasks(stopped)}
        return list(tasks.values()), stopped

    def _is_done(self, task: Task) -> bool:
        """Whether the task needs no more training in this launch; the next launch tries a failed trial again."""
        if self._outcomes.get(task.config.trial_id) in _OPEN:
            return task.until_epoch < task.config.num_epochs and self._reached(task.config) >= task.until_epoch
        return True

    def _reached(self, config: TrialConfig) -> int:
        return self._epochs_done.get(config.trial_id, -1)

    def _score(self, config: TrialConfig, epoch: int) -> float:
        """The error after that epoch; inf if it means nothing, nan if the trial has not reached the epoch yet."""
        if self._outcomes.get(config.trial_id) in _MEANINGLESS:
            return math.inf
        if self._reached(config) < epoch:
            return math.nan
        errors = self._errors[config.trial_id]
        error = errors[max(at for at in errors if at <= epoch)]
        return error if math.isfinite(error) else math.inf

    def _trained(self, config: TrialConfig) -> float:
        return workload(config.workload).cost(config) * max(0, self._reached(config)) / config.num_epochs

    def _read(self, configs: Collection[TrialConfig]) -> bool:
        """Read the ledger's rows of trials not read yet, including other sweeps' rows; whether there were any."""
        ids = {config.trial_id for config in configs} - self._known
        self._known |= ids
        if not ids:
            return False
        name = self._sweep.workload
        columns = ("trial_id", "outcome", "epochs_done")
        rows = [
            row
            for row in self._ledger.trials(name, trial_ids=ids, columns=columns).to_pylist()
            if row["outcome"] != Outcome.FAILED
        ]
        self._outcomes.update({row["trial_id"]: row["outcome"] for row in rows})
        self._epochs_done.update({row["trial_id"]: row["epochs_done"] for row in rows})
        for point in self._ledger.traces(name, trial_ids=ids).to_pylist():
            self._errors.setdefault(point["trial_id"], {})[point["epoch"]] = point[self._sweep.error]
        return bool(rows)


def _key(task: Task) -> tuple[str, int]:
    return task.config.trial_id, task.until_epoch


def _names_of(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that differ between cells; `_CELL_NAMES` are always included and come first."""
    names = dict.fromkeys((*_CELL_NAMES, *(name for cell in cells for name in cell)))
    return [name for name in names if name in _CELL_NAMES or len({cell.get(name) for cell in cells}) > 1]
