"""A map in progress: which cells get more seeds, where the boundaries are looked at next.

Everything is derived from what the ledger holds and from the recorded asks, so that a map that is killed and started
again goes on as if it had never stopped. Both kinds of rounds run at the same time. A claim round is asked when all
earlier ones are complete; round k of a boundary when its rounds up to k - 2 are, and it knows their results only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from orchestrator.claims import cell_claims, seeds_to_add, works
from orchestrator.ledger import Ledger
from orchestrator.map_search import draw_seed, map_of
from orchestrator.sweep import Sweep, make_trial
from orchestrator.work import Task
from search_spaces.boundary import propose_boundary
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import SATISFYING, Outcome, TrialResult

ROUNDS_AHEAD = 2
"""A boundary round is asked before the last rounds but this many are complete."""


class MapRun:
    """The claims and boundaries of a map."""

    def __init__(self, sweep: Sweep, ledger: Ledger) -> None:
        search = map_of(sweep)
        self._sweep, self._ledger = sweep, ledger
        self._draws = _Draws(sweep)
        self._rounds: list[_Rounds] = [
            _BoundaryRounds(setting, rounds, self._draws, ledger) for setting, rounds in search.boundaries(sweep)
        ]
        claims = [cell for cell in sweep.cells() if search.is_claim(cell)]
        if claims:
            self._rounds.insert(0, _ClaimRounds(claims, self._draws, ledger))
        self._known: set[str] = set()
        self._dispatched: set[str] = set()
        self._read(self.configs())

    @property
    def num_trials(self) -> int:
        """Everything asked, and what is sure to be asked."""
        return len(self.configs()) + sum(rounds.num_to_come for rounds in self._rounds)

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's guess for what is asked and has not ended, and for what is sure to be asked."""
        cost = workload(self._sweep.workload).cost
        asked = sum(cost(config) for config in self.configs() if not self._draws.has_ended(config))
        return asked + sum(rounds.num_to_come * cost(rounds.typical) for rounds in self._rounds)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be asked, and everything asked has ended."""
        return all(rounds.is_finished for rounds in self._rounds) and all(map(self._draws.has_ended, self.configs()))

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials that are asked so far."""
        asked = {config.trial_id: config for rounds in self._rounds for config in rounds.configs()}
        return tuple(asked.values())

    def shown(self) -> tuple[TrialConfig, ...]:
        """All trials that are asked so far."""
        return self.configs()

    def chosen(self) -> tuple[str, ...]:
        """None."""
        return ()

    def notes(self) -> list[str]:
        """None: the tables say it."""
        return []

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Take what was recorded; returns what is to be trained now."""
        self._draws.add([result.trial_row() for result in results])
        while True:
            for rounds in self._rounds:
                rounds.ask()
            if not self._read(self.configs()):
                break
        new = [
            config
            for config in self.configs()
            if not self._draws.has_ended(config) and config.trial_id not in self._dispatched
        ]
        self._dispatched.update(config.trial_id for config in new)
        return [Task(config, config.num_epochs) for config in new], []

    def _read(self, configs: Collection[TrialConfig]) -> bool:
        """Learn what the ledger holds of trials not read yet, other sweeps' work included; whether it settles any."""
        ids = {config.trial_id for config in configs} - self._known
        self._known |= ids
        if not ids:
            return False
        rows = self._ledger.trials(self._sweep.workload, trial_ids=ids).to_pylist()
        settled = [row for row in rows if row["outcome"] in SATISFYING]
        self._draws.add(settled)
        return bool(settled)


class _Draws:
    """The trials of a map, made from points, and what is known of them."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.search = sweep, map_of(sweep)
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._works: dict[str, bool | None] = {}

    def make(self, point: Mapping[str, Any], replicate: int, purpose: str) -> TrialConfig:
        """The trial of a point's draw."""
        seed = draw_seed(point, replicate, purpose)
        return make_map_trial(self.sweep, {**point, "seed": seed})

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows of trials that ended; a failed one has ended for this launch, and says nothing."""
        ended = [row for row in rows if row["outcome"] in SATISFYING or row["outcome"] == Outcome.FAILED]
        if not ended:
            return
        self._rows.update((row["trial_id"], row) for row in ended)
        settled = [row for row in ended if row["outcome"] in SATISFYING]
        self._works.update((row["trial_id"], None) for row in ended)
        if settled:
            do_work = works(pd.DataFrame(settled), self.search.rule)
            self._works.update(zip((row["trial_id"] for row in settled), map(bool, do_work), strict=True))

    def has_ended(self, config: TrialConfig) -> bool:
        """Whether the trial is settled, or failed in this launch."""
        return config.trial_id in self._works

    def outcome(self, config: TrialConfig) -> bool | None:
        """Whether it works; None if it is not known."""
        return self._works.get(config.trial_id)

    def rows(self, configs: Sequence[TrialConfig]) -> pd.DataFrame:
        """The rows of trials that ended."""
        return pd.DataFrame([self._rows[config.trial_id] for config in configs])


def make_map_trial(sweep: Sweep, values: Mapping[str, Any]) -> TrialConfig:
    """One trial of a map, its number of epochs filled in."""
    search = map_of(sweep)
    if search.num_steps is not None and "num_epochs" not in values:
        num_train = make_trial(sweep.workload, values).model_dump()["num_train"]
        values = search.completed(values, num_train)
    return make_trial(sweep.workload, values)


def claim_draws(sweep: Sweep) -> set[str]:
    """Ids of the trials that the claims of a map may have."""
    draws, search = _Draws(sweep), map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    return {draws.make(cell, r, CLAIM).trial_id for cell in cells for r in range(search.rule.max_seeds)}


def claim_keys(sweep: Sweep) -> list[str]:
    """The fields that tell the cells of a map's claims apart, the optimizer aside."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    shared = [name for name in cells[0] if name != "optimizer" and all(name in cell for cell in cells)]
    varying = [name for name in shared if len({cell[name] for cell in cells}) > 1]
    return list(dict.fromkeys((*search.fields, *varying)))


class _Rounds(Protocol):
    """One line of questions, asked round by round."""

    typical: TrialConfig

    @property
    def num_to_come(self) -> int:
        """Trials that are sure to be asked still."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether no round will come any more."""
        ...

    def configs(self) -> Iterator[TrialConfig]:
        """Everything asked."""
        ...

    def ask(self) -> None:
        """Ask and record every round whose turn has come."""
        ...


class _ClaimRounds:
    """Seeds of the cells that are judged: the least number for all of them, then more for the undecided ones."""

    def __init__(self, cells: Sequence[Mapping[str, Any]], draws: _Draws, ledger: Ledger) -> None:
        self._cells, self._draws, self._ledger = cells, draws, ledger
        self._num_seeds = [0] * len(cells)
        self._asked: list[TrialConfig] = []
        self.is_finished = False
        firsts = [draws.make(cell, 0, CLAIM) for cell in cells]
        self.typical = firsts[0]
        self._keys = claim_keys(draws.sweep)
        self._places = [tuple(getattr(first, key) for key in self._keys) for first in firsts]
        rule = draws.search.rule
        settings = {"rule": rule, "cells": cells, "first": self.typical.trial_id}
        self._id = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        self._num_rounds = 0
        recorded = ledger.asks.rounds(self._id)
        while self._num_rounds in recorded:
            self._add_round([int(row["num_seeds"]) for row in recorded[self._num_rounds]])

    @property
    def num_to_come(self) -> int:
        """The first round's trials, while it is not asked."""
        return len(self._cells) * self._draws.search.rule.min_seeds if not self._num_rounds else 0

    def configs(self) -> Iterator[TrialConfig]:
        """Everything asked."""
        yield from self._asked

    def ask(self) -> None:
        """Judge when all seeds asked for have ended: early ones may be the diverged ones."""
        while not self.is_finished and all(map(self._draws.has_ended, self._asked)):
            num_seeds = self._wanted()
            if num_seeds == self._num_seeds:
                self.is_finished = True
                return
            self._ledger.asks.put(self._id, self._num_rounds, [{"num_seeds": num} for num in num_seeds])
            self._add_round(num_seeds)

    def _wanted(self) -> list[int]:
        rule = self._draws.search.rule
        if not self._num_rounds:
            return [rule.min_seeds] * len(self._cells)
        claims = cell_claims(self._draws.rows(self._asked), self._keys, rule)
        more = dict(zip(claims[self._keys].itertuples(index=False, name=None), seeds_to_add(claims, rule), strict=True))
        return [num + int(more.get(at, 0)) for num, at in zip(self._num_seeds, self._places, strict=True)]

    def _add_round(self, num_seeds: Sequence[int]) -> None:
        """Seed by seed: the first trials are a whole map of the first seed."""
        for replicate in range(max(num_seeds)):
            for cell, before, now in zip(self._cells, self._num_seeds, num_seeds, strict=True):
                if before <= replicate < now:
                    self._asked.append(self._draws.make(cell, replicate, CLAIM))
        self._num_seeds = list(num_seeds)
        self._num_rounds += 1


class _BoundaryRounds:
    """Single draws that tell most of one optimizer's boundary in one setting."""

    def __init__(self, setting: Mapping[str, Any], num_rounds: int, draws: _Draws, ledger: Ledger) -> None:
        self._setting, self._num_rounds, self._draws, self._ledger = setting, num_rounds, draws, ledger
        self._axes = draws.search.axes(setting)
        self.typical = draws.make(draws.search.middle(setting), 0, BOUNDARY)
        # The middle's own id is part of the name: another data set or workload version is another search.
        named = {"middle": self.typical.trial_id, "per_round": draws.search.per_round}
        self._id = draws.search.key(setting, **named)
        self._seed = int(draws.search.space_key(setting, **named)[:8], 16)
        self._points: list[list[Mapping[str, Any]]] = []
        self._asked: list[list[TrialConfig]] = []
        recorded = ledger.asks.rounds(self._id)
        while len(self._asked) in recorded and len(self._asked) < num_rounds:
            self._add_round(recorded[len(self._asked)])

    @property
    def num_to_come(self) -> int:
        """Draws of the rounds that are not asked yet."""
        return (self._num_rounds - len(self._asked)) * self._draws.search.per_round

    @property
    def is_finished(self) -> bool:
        """Whether all rounds are asked."""
        return len(self._asked) >= self._num_rounds

    def configs(self) -> Iterator[TrialConfig]:
        """Everything asked."""
        yield from (config for asked in self._asked for config in asked)

    def ask(self) -> None:
        """A round knows the rounds that are surely complete, and where the others' points lie."""
        while not self.is_finished:
            number = len(self._asked)
            known = max(0, number - ROUNDS_AHEAD + 1)
            if not all(self._draws.has_ended(config) for asked in self._asked[:known] for config in asked):
                return
            history = [
                (point, [None if (outcome := self._draws.outcome(config)) is None else float(outcome)])
                for points, asked in zip(self._points[:known], self._asked[:known], strict=True)
                for point, config in zip(points, asked, strict=True)
            ]
            pending = [point for points in self._points[known:] for point in points]
            params = propose_boundary(
                {name: axis.distribution() for name, axis in self._axes.items()},
                history,
                pending,
                self._draws.search.per_round,
                seed=self._seed,
                number=number * self._draws.search.per_round,
            )
            points = [{name: axis.nearest(point[name]) for name, axis in self._axes.items()} for point in params]
            self._ledger.asks.put(self._id, number, points)
            self._add_round(points)

    def _add_round(self, points: Sequence[Mapping[str, Any]]) -> None:
        before = [point for asked in self._points for point in asked]
        asked = []
        for point in points:
            values = {**self._setting, **point}
            purpose = f"{BOUNDARY} {self._setting['optimizer']}"
            asked.append(self._draws.make(values, before.count(point), purpose))
            before.append(point)
        self._points.append(list(points))
        self._asked.append(asked)


CLAIM, BOUNDARY = "claim", "boundary"
"""Purposes of a point's seeds: a draw for a boundary is none of a claim's seeds, or it would count as new twice."""
