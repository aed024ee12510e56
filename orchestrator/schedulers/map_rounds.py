"""The questions of a map, round by round: seeds of the cells that are judged, draws that tell most of a boundary.

A claim round is asked when all earlier ones are complete; round k of a boundary when its rounds up to k - 2 are, and it
knows their results only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.analysis.claims import cell_claims, seeds_to_add
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.map_results import Draws
from orchestrator.sweeps.map_trials import BOUNDARY, CLAIM, claim_keys
from search_spaces.samplers.boundary import propose_boundary
from trainables.config import TrialConfig

ROUNDS_AHEAD = 2
"""So many boundary rounds train at once: round k is asked when those up to k - 2 are complete."""


class Rounds(Protocol):
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


class ClaimRounds:
    """Seeds of the cells that are judged: the least number for all of them, then more for the undecided ones."""

    def __init__(self, cells: Sequence[Mapping[str, Any]], draws: Draws, ledger: Ledger) -> None:
        self._cells, self._draws, self._ledger = cells, draws, ledger
        self._num_seeds = [0] * len(cells)
        self._asked: list[TrialConfig] = []
        firsts = [draws.make(cell, 0, CLAIM) for cell in cells]
        self.typical = firsts[0]
        self._keys = claim_keys(draws.sweep)
        self._places = [tuple(getattr(first, key) for key in self._keys) for first in firsts]
        rule = draws.search.rule
        settings = {"rule": rule, "cells": cells, "first": self.typical.trial_id}
        self._id = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        self._num_rounds = 0
        self._judged: tuple[int, list[int]] | None = None
        recorded = ledger.asks.rounds(self._id)
        while self._num_rounds in recorded:
            self._add_round([int(row["num_seeds"]) for row in recorded[self._num_rounds]])

    @property
    def num_to_come(self) -> int:
        """Trials of the round whose turn has come, also where a killed launch has left it to the next to ask."""
        wanted = self._wanted()
        return 0 if wanted is None else sum(wanted) - sum(self._num_seeds)

    @property
    def is_finished(self) -> bool:
        """Whether all seeds asked for have ended, and no cell wants more."""
        return self._wanted() == self._num_seeds

    def configs(self) -> Iterator[TrialConfig]:
        """Everything asked."""
        yield from self._asked

    def ask(self) -> None:
        """Ask for what the cells want."""
        while (num_seeds := self._wanted()) is not None and num_seeds != self._num_seeds:
            self._ledger.asks.put(self._id, self._num_rounds, [{"num_seeds": num} for num in num_seeds])
            self._add_round(num_seeds)

    def _wanted(self) -> list[int] | None:
        """Seeds of each cell; None while some have not ended: early ones may be the diverged ones."""
        if self._judged is None or self._judged[0] != self._num_rounds:
            if not all(map(self._draws.has_ended, self._asked)):
                return None
            self._judged = self._num_rounds, self._judge()
        return self._judged[1]

    def _judge(self) -> list[int]:
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


class BoundaryRounds:
    """Single draws that tell most of one optimizer's boundary in one setting."""

    def __init__(self, setting: Mapping[str, Any], num_rounds: int, draws: Draws, ledger: Ledger) -> None:
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
