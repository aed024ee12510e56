"""A search in progress: which points are asked, how far each has been trained, what is to be trained next.

Everything is derived from what the ledger holds, the recorded asks and the traces: a search that is killed and started
again goes on as if it had never stopped. Round k of a cell is asked when its rounds up to k - 2 are complete, and knows
their results only, so that nothing waits for the slowest trial and yet every run of the search asks the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.image_sweeps import IMAGES
from orchestrator.ledger import Ledger
from orchestrator.search import HalvingSearch
from orchestrator.sweep import Sweep, make_trial
from orchestrator.work import Task
from search_spaces.halving import Observation, propose, survivors
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

ROUNDS_AHEAD = 2
"""So many rounds of a cell train at once: round k is asked when those up to k - 2 are complete."""

_MEANINGLESS = (Outcome.STUCK, Outcome.DIVERGED, Outcome.FAILED)
_OPEN = (None, Outcome.UNFINISHED, Outcome.PRUNED)

_EDGE_SHARE = 0.05
_CELL_NAMES = ("optimizer", "batch_size")

Score = Callable[[TrialConfig, int], float]


class SearchRun:
    """The searches of all cells of a sweep."""

    def __init__(self, sweep: Sweep, ledger: Ledger) -> None:
        assert isinstance(sweep.search, HalvingSearch)
        self._sweep, self._ledger, self._search = sweep, ledger, sweep.search
        cells = sweep.cells()
        names = _names_of(cells)
        self._cells = [_CellSearch(sweep, self._search, cell, names, ledger, self._score) for cell in cells]
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
        if self._sweep.workload == IMAGES:
            lines.append(
                "points are chosen by their error on the same test images that the table reports: only the training "
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


class _CellSearch:
    """The rounds of one cell, which its fields `names` tell from the others.

    `score` maps a trial and an epoch to its error, inf or nan (see `SearchRun._score`).
    """

    def __init__(
        self,
        sweep: Sweep,
        search: HalvingSearch,
        cell: Mapping[str, Any],
        names: Sequence[str],
        ledger: Ledger,
        score: Score,
    ) -> None:
        self._label = ", ".join(f"{name}={cell[name]}" for name in names if name in cell)
        self._sweep, self._search, self._cell, self._ledger, self._score = sweep, search, cell, ledger, score
        self._space = search.axes(cell)
        self._middle = make_trial(sweep.workload, {**search.middle(cell), "seed": search.seed})
        # The middle's own id is part of the name: another data set or workload version is another search.
        self._id = search.key({**cell, "middle": self._middle.trial_id})
        self._num_epochs = self._middle.num_epochs
        self._rungs = search.rungs(self._num_epochs)
        recorded = ledger.asks.rounds(self._id)
        self._asked: list[list[dict[str, float]]] = []
        self._rounds: list[list[TrialConfig]] = []
        while len(self._asked) in recorded:
            self._add_round(recorded[len(self._asked)])

    def ask(self) -> None:
        """Propose and record every round whose turn has come."""
        while len(self._asked) < self._search.rounds:
            number = len(self._asked)
            known = range(max(0, number - ROUNDS_AHEAD + 1))
            history = [seen for k in known for seen in self._observations(k)]
            if any(math.isnan(seen.error) for seen in history):
                return
            text = f"{self._id}:{self._search.seed}:{number}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            params = propose(self._space, history, self._search.per_round, seed)
            self._ledger.asks.put(self._id, number, params)
            self._add_round(params)

    def configs(self) -> list[TrialConfig]:
        """Everything asked, and the final trials once the best point is known."""
        return [config for asked in self._rounds for config in asked] + self.finals()

    def tasks(self, stopped: list[str]) -> Iterator[Task]:
        """For every point the rungs that it may be trained to; `stopped` collects those that go no further."""
        for asked in self._rounds:
            alive = asked
            for rung in self._rungs:
                yield from (Task(config, rung) for config in alive)
                kept = self._survivors(alive, rung)
                if kept is None:
                    break
                stopped += [config.trial_id for config in alive if config not in kept]
                alive = kept
        yield from (Task(config, self._num_epochs) for config in self.finals())

    def edges(self) -> Iterator[str]:
        """A line for each value of the best point that lies within a twentieth of its axis from an end."""
        for config in self.finals()[:1]:
            for name, axis in self._space.items():
                value = getattr(config, name)
                place = math.log(value / axis.low) / math.log(axis.high / axis.low)
                if not _EDGE_SHARE < place < 1 - _EDGE_SHARE:
                    yield f"at the edge of its space: {name}={value:g} of {self._label}; the best may lie beyond"

    def is_finished(self, is_done: Callable[[Task], bool]) -> bool:
        """Whether the best point is known and trained with every seed."""
        finals = self.finals()
        return bool(finals) and all(is_done(Task(config, self._num_epochs)) for config in finals)

    def cost(self) -> float:
        """The cost model's guess for the whole search of this cell, from the middle of its space."""
        shares, alive, before = 0.0, self._search.per_round, 0
        for rung in self._rungs:
            shares += alive * (rung - before) / self._num_epochs
            alive, before = -(-alive // self._search.reduction), rung
        trials = self._search.rounds * shares + len(self._sweep.seeds)
        return trials * workload(self._sweep.workload).cost(self._middle)

    def _add_round(self, params: list[dict[str, float]]) -> None:
        values = [{**self._cell, **point, "seed": self._search.seed} for point in params]
        self._asked.append(params)
        self._rounds.append([make_trial(self._sweep.workload, one) for one in values])

    def _survivors(self, alive: list[TrialConfig], rung: int) -> list[TrialConfig] | None:
        """Who goes on to the next rung; None at the last one, or while a trial is not at this one yet."""
        errors = [self._score(config, rung) for config in alive]
        if rung == self._rungs[-1] or any(math.isnan(error) for error in errors):
            return None
        return [alive[i] for i in survivors(errors, self._search.reduction)]

    def _observations(self, number: int) -> list[Observation]:
        """How far each point of a round has come; an error of nan where it is still to be trained further."""
        alive = self._rounds[number]
        params = {config.trial_id: point for config, point in zip(alive, self._asked[number], strict=True)}
        seen: dict[str, Observation] = {}
        for rung in self._rungs:
            for config in alive:
                is_last = rung == self._rungs[-1]
                point = params[config.trial_id]
                seen[config.trial_id] = Observation(point, self._score(config, rung), rung, is_last)
            kept = self._survivors(alive, rung)
            if kept is None:
                break
            alive = kept
        return list(seen.values())

    def finals(self) -> list[TrialConfig]:
        """The complete point with the lowest error with every seed of the sweep; none until all rounds are complete."""
        if len(self._rounds) < self._search.rounds:
            return []
        seen = [one for number in range(self._search.rounds) for one in self._observations(number)]
        if any(math.isnan(one.error) for one in seen):
            return []
        best = min((one for one in seen if one.is_complete), key=lambda one: one.error).params
        return [make_trial(self._sweep.workload, {**self._cell, **best, "seed": seed}) for seed in self._sweep.seeds]
