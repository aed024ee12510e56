"""Asks the trials of a map round by round: seeds for judged cells, and informative points for boundaries.

A claim round is asked when all earlier claim rounds are complete. Round k of a boundary is asked when its rounds up to
k - 2 are complete, and it sees only their results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.analysis.claims import cell_claims, seeds_to_add
from orchestrator.errors import SweepError
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.map_results import MapResults
from orchestrator.sweeps.map_trials import BOUNDARY, CLAIM, claim_keys
from search_spaces.samplers.registry import boundary_sampler_named, check_points
from trainables.config import TrialConfig

ROUNDS_AHEAD = 2
"""Number of boundary rounds that train at once: round k is asked when the rounds up to k - 2 are complete."""


class Rounds(Protocol):
    """A series of rounds: all claims of a map, or one boundary. `typical` is a trial to estimate costs with."""

    typical: TrialConfig

    @property
    def num_certain(self) -> int:
        """Number of trials that are certain to be asked later."""
        ...

    @property
    def is_finished(self) -> bool:
        """True once every round has been asked."""
        ...

    def configs(self) -> Iterator[TrialConfig]:
        """All trials asked so far."""
        ...

    def ask(self) -> None:
        """Ask and record every round that can be asked now."""
        ...


class ClaimRounds:
    """Claim rounds: the first gives every judged cell `min_seeds` seeds, later ones add seeds to undecided cells."""

    def __init__(self, cells: Sequence[Mapping[str, Any]], results: MapResults, ledger: Ledger) -> None:
        self._cells, self._results, self._ledger = cells, results, ledger
        self._num_seeds = [0] * len(cells)
        self._asked: list[TrialConfig] = []
        firsts = [results.make(cell, 0, CLAIM) for cell in cells]
        self.typical = firsts[0]
        self._keys = claim_keys(results.sweep)
        self._places = [tuple(getattr(first, key) for key in self._keys) for first in firsts]
        rule = results.search.rule
        settings = {"rule": rule, "cells": cells, "first": self.typical.trial_id}
        self._id = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        self._num_rounds = 0
        self._judged: tuple[int, list[int]] | None = None
        recorded = ledger.asks.rounds(self._id)
        while self._num_rounds in recorded:
            self._add_round([int(row["num_seeds"]) for row in recorded[self._num_rounds]])

    @property
    def num_certain(self) -> int:
        """Number of trials that the results call for and nobody has asked yet, as after a kill between the two."""
        wanted = self._wanted()
        return 0 if wanted is None else sum(wanted) - sum(self._num_seeds)

    @property
    def is_finished(self) -> bool:
        """True once all asked trials have ended and no cell needs more seeds."""
        return self._wanted() == self._num_seeds

    def configs(self) -> Iterator[TrialConfig]:
        """All trials asked so far."""
        yield from self._asked

    def ask(self) -> None:
        """Ask and record the rounds that the results call for."""
        while (num_seeds := self._wanted()) is not None and num_seeds != self._num_seeds:
            self._ledger.asks.put(self._id, self._num_rounds, [{"num_seeds": num} for num in num_seeds])
            self._add_round(num_seeds)

    def _wanted(self) -> list[int] | None:
        """Seeds for each cell; None until all asked trials have ended, since early ends may be the diverged ones."""
        if self._judged is None or self._judged[0] != self._num_rounds:
            if not all(map(self._results.has_ended, self._asked)):
                return None
            self._judged = self._num_rounds, self._judge()
        return self._judged[1]

    def _judge(self) -> list[int]:
        rule = self._results.search.rule
        if not self._num_rounds:
            return [rule.min_seeds] * len(self._cells)
        claims = cell_claims(self._results.rows(self._asked), self._keys, rule)
        more = dict(zip(claims[self._keys].itertuples(index=False, name=None), seeds_to_add(claims, rule), strict=True))
        return [num + int(more.get(at, 0)) for num, at in zip(self._num_seeds, self._places, strict=True)]

    def _add_round(self, num_seeds: Sequence[int]) -> None:
        """Add trials seed by seed: the first ones cover the whole map with one seed for each cell."""
        for replicate in range(max(num_seeds)):
            for cell, before, now in zip(self._cells, self._num_seeds, num_seeds, strict=True):
                if before <= replicate < now:
                    self._asked.append(self._results.make(cell, replicate, CLAIM))
        self._num_seeds = list(num_seeds)
        self._num_rounds += 1


class BoundaryRounds:
    """Boundary rounds: single trials at points that are informative about one optimizer's boundary in one setting."""

    def __init__(self, setting: Mapping[str, Any], num_rounds: int, results: MapResults, ledger: Ledger) -> None:
        self._setting, self._num_rounds, self._results, self._ledger = setting, num_rounds, results, ledger
        self._axes = results.search.axes(setting)
        self._propose = boundary_sampler_named(results.search.sampler)
        self.typical = results.make(results.search.middle(setting), 0, BOUNDARY)
        # The id contains the middle's trial id, so that another data set or workload version is another search.
        named = {"middle": self.typical.trial_id, "per_round": results.search.per_round}
        self._id = results.search.key(setting, **named)
        self._seed = int(results.search.space_key(setting, **named)[:8], 16)
        self._points: list[list[Mapping[str, Any]]] = []
        self._asked: list[list[TrialConfig]] = []
        recorded = ledger.asks.rounds(self._id)
        while len(self._asked) in recorded and len(self._asked) < num_rounds:
            self._add_round(recorded[len(self._asked)])

    @property
    def num_certain(self) -> int:
        """Number of trials of the rounds not asked yet."""
        return (self._num_rounds - len(self._asked)) * self._results.search.per_round

    @property
    def is_finished(self) -> bool:
        """True once every round has been asked."""
        return len(self._asked) >= self._num_rounds

    def configs(self) -> Iterator[TrialConfig]:
        """All trials asked so far."""
        yield from (config for asked in self._asked for config in asked)

    def ask(self) -> None:
        """Ask each round from the results of the rounds up to k - 2, and the points (not results) of round k - 1."""
        while not self.is_finished:
            number = len(self._asked)
            known = max(0, number - ROUNDS_AHEAD + 1)
            if not all(self._results.has_ended(config) for asked in self._asked[:known] for config in asked):
                return
            history = [
                (point, [None if (outcome := self._results.outcome(config)) is None else float(outcome)])
                for points, asked in zip(self._points[:known], self._asked[:known], strict=True)
                for point, config in zip(points, asked, strict=True)
            ]
            pending = [point for points in self._points[known:] for point in points]
            params = self._propose(
                {name: axis.distribution() for name, axis in self._axes.items()},
                history,
                pending,
                self._results.search.per_round,
                seed=self._seed,
                number=number * self._results.search.per_round,
            )
            try:
                check_points(self._results.search.sampler, params, self._results.search.per_round, self._axes)
            except ValueError as fault:
                raise SweepError(f"{self._results.sweep.name}: {fault}") from None
            points = [{name: axis.nearest(point[name]) for name, axis in self._axes.items()} for point in params]
            self._ledger.asks.put(self._id, number, points)
            self._add_round(points)

    def _add_round(self, points: Sequence[Mapping[str, Any]]) -> None:
        before = [point for asked in self._points for point in asked]
        asked = []
        for point in points:
            values = {**self._setting, **point}
            purpose = f"{BOUNDARY} {self._setting['optimizer']}"
            asked.append(self._results.make(values, before.count(point), purpose))
            before.append(point)
        self._points.append(list(points))
        self._asked.append(asked)
