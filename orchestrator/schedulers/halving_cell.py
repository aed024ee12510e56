"""Successive halving in one cell: its rounds, the points that survive each rung, and the best point."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.scheduler import Task
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.value import Sweep, make_trial
from search_spaces.samplers.registry import Observation, check_points, sampler_named
from trainables.config import TrialConfig
from trainables.registry import workload

ROUNDS_AHEAD = 2
"""Number of rounds of a cell that train at once: round k is asked when the rounds up to k - 2 are complete."""

_EDGE_SHARE = 0.05

Score = Callable[[TrialConfig, int], float]


class CellSearch:
    """The rounds of one cell; messages identify the cell by its values of the fields `names`.

    `score` maps a trial and an epoch to its error, inf or nan (see `HalvingScheduler._score`).
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
        # The id contains the middle's trial id, so that another data set or workload version is another search.
        self._id = search.key({**cell, "middle": self._middle.trial_id})
        self._num_epochs = self._middle.num_epochs
        self._rungs = search.rungs(self._num_epochs)
        recorded = ledger.asks.rounds(self._id)
        self._asked: list[list[dict[str, float]]] = []
        self._rounds: list[list[TrialConfig]] = []
        while len(self._asked) in recorded:
            self._add_round(recorded[len(self._asked)])

    def ask(self) -> None:
        """Propose and record every round that can be asked now."""
        while len(self._asked) < self._search.rounds:
            number = len(self._asked)
            known = range(max(0, number - ROUNDS_AHEAD + 1))
            history = [seen for k in known for seen in self._observations(k)]
            if any(math.isnan(seen.error) for seen in history):
                return
            text = f"{self._id}:{self._search.seed}:{number}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            propose = sampler_named(self._search.sampler)
            params = propose(self._space, history, self._search.per_round, seed)
            try:
                check_points(self._search.sampler, params, self._search.per_round, self._space)
            except ValueError as fault:
                raise SweepError(f"{self._sweep.name}: {fault}") from None
            params = [{field: float(value) for field, value in point.items()} for point in params]
            self._ledger.asks.put(self._id, number, params)
            self._add_round(params)

    def configs(self) -> list[TrialConfig]:
        """All trials asked, and the final trials once the best point is known."""
        return [config for asked in self._rounds for config in asked] + self.finals()

    def tasks(self, stopped: list[str]) -> Iterator[Task]:
        """Yield a task for each point and each rung open to it; `stopped` collects the points that are not promoted."""
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
        """A line for each value of the best point that lies within a twentieth of its axis of an end."""
        for config in self.finals()[:1]:
            for name, axis in self._space.items():
                value = getattr(config, name)
                place = math.log(value / axis.low) / math.log(axis.high / axis.low)
                if not _EDGE_SHARE < place < 1 - _EDGE_SHARE:
                    yield f"near the end of its axis: {name}={value:g} of {self._label}; the best may lie beyond"

    def is_finished(self, is_done: Callable[[Task], bool]) -> bool:
        """Whether the best point is known and trained with every seed."""
        finals = self.finals()
        return bool(finals) and all(is_done(Task(config, self._num_epochs)) for config in finals)

    def cost(self) -> float:
        """The cost model's estimate for the whole search of this cell, taken at the middle of its space."""
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
        """Points promoted to the next rung; None at the last rung, or while a trial has not reached this one."""
        errors = [self._score(config, rung) for config in alive]
        if rung == self._rungs[-1] or any(math.isnan(error) for error in errors):
            return None
        return [alive[i] for i in survivors(errors, self._search.reduction)]

    def _observations(self, number: int) -> list[Observation]:
        """The error of each point of a round at its furthest rung; nan while that point is still being trained."""
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
        """The fully trained point with the lowest error, once for each seed; empty until all rounds are complete."""
        if len(self._rounds) < self._search.rounds:
            return []
        seen = [one for number in range(self._search.rounds) for one in self._observations(number)]
        if any(math.isnan(one.error) for one in seen):
            return []
        best = min((one for one in seen if one.is_complete), key=lambda one: one.error).params
        return [make_trial(self._sweep.workload, {**self._cell, **best, "seed": seed}) for seed in self._sweep.seeds]


def survivors(errors: Sequence[float], reduction: int) -> list[int]:
    """Positions of the best `1 / reduction` of a rung, rounded up; non-finite errors rank last, ties stay in order."""
    ranked = sorted(range(len(errors)), key=lambda i: (not math.isfinite(errors[i]), errors[i], i))
    return sorted(ranked[: math.ceil(len(errors) / reduction)])
