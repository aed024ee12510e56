"""A search in progress: which points are asked, how far each has been trained, what is to be trained next.

Everything is derived from what the ledger holds, the recorded asks and the traces: a search that is killed and started
again goes on as if it had never stopped. Round k of a cell is asked when its rounds up to k - 2 are complete, and knows
their results only, so that nothing waits for the slowest trial and yet every run of the search asks the same.
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


class SearchRun:
    """The searches of all cells of a sweep."""

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
            pass  # the best point of a cell is known once its rounds are read

    @property
    def num_trials(self) -> int:
        """Points of all rounds, and the best one of each cell with every seed."""
        return self._sweep.num_trials

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's guess for the whole search, less what is trained already."""
        return max(0.0, sum(cell.cost() for cell in self._cells) - sum(map(self._trained, self.configs())))

    @property
    def is_finished(self) -> bool:
        """Whether every cell has its best point trained with every seed."""
        return all(cell.is_finished(self._is_done) for cell in self._cells)

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials that are asked so far."""
        asked = {config.trial_id: config for cell in self._cells for config in cell.configs()}
        return tuple(asked.values())

    def shown(self) -> tuple[TrialConfig, ...]:
        """The best point of each cell with the sweep's seeds; while none is known, everything asked."""
        finals = [config for cell in self._cells for config in cell.finals()]
        return tuple(finals) or self.configs()

    def chosen(self) -> tuple[str, ...]:
        """The searched fields, once a best point is known; one that other cells give values tells trials apart."""
        if not any(cell.finals() for cell in self._cells):
            return ()
        cells = self._sweep.cells()
        searched = dict.fromkeys(name for cell in cells for name in self._search.axes(cell))
        return tuple(name for name in searched if not any(name in cell for cell in cells))

    def notes(self) -> list[str]:
        """How much was tried for the points that are shown, and which of them lie at the edge of their space."""
        num_pruned = list(self._outcomes.values()).count(Outcome.PRUNED)
        lines = [
            f"search: {len(self.configs())} trials, {num_pruned} of them pruned; tried with seed {self._search.seed}"
        ]
        shared = workload(self._sweep.workload).shared_test_data
        if shared is not None:
            lines.append(
                f"points are chosen by their error on the same test {shared} that the table reports: only the training "
                "seeds are fresh"
            )
        return lines + [line for cell in self._cells for line in cell.edges()]

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Take what was recorded; returns what is to be trained now, and the trials that this stops for good."""
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
        """What each point may be trained to, each once; and the points that go no further."""
        stopped: list[str] = []
        tasks = {_key(task): task for cell in self._cells for task in cell.tasks(stopped)}
        return list(tasks.values()), stopped

    def _is_done(self, task: Task) -> bool:
        """Whether the trial needs no more training for this task; a failed one is tried again by the next launch."""
        if self._outcomes.get(task.config.trial_id) in _OPEN:
            return task.until_epoch < task.config.num_epochs and self._reached(task.config) >= task.until_epoch
        return True

    def _reached(self, config: TrialConfig) -> int:
        return self._epochs_done.get(config.trial_id, -1)

    def _score(self, config: TrialConfig, epoch: int) -> float:
        """The error after that epoch; inf where it means nothing, nan where the trial is not there yet."""
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
        """Learn what the ledger holds of trials not read yet, other sweeps' work included; whether it held any."""
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
    """The fields that tell one cell from the others, `_CELL_NAMES` first and always."""
    names = dict.fromkeys((*_CELL_NAMES, *(name for cell in cells for name in cell)))
    return [name for name in names if name in _CELL_NAMES or len({cell.get(name) for cell in cells}) > 1]
