"""The trials of a map: draws of points, by purpose, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.claims import works
from orchestrator.map_search import draw_seed, map_of
from orchestrator.sweep import Sweep, make_trial
from trainables.config import TrialConfig
from trainables.result import SATISFYING, Outcome

CLAIM, BOUNDARY = "claim", "boundary"
"""Purposes of a point's seeds: a draw for a boundary is none of a claim's seeds, or it would count as new twice."""


class Draws:
    """The trials of a map, made from points, and what is known of them."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.search = sweep, map_of(sweep)
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._works: dict[str, bool | None] = {}

    def make(self, point: Mapping[str, Any], replicate: int, purpose: str) -> TrialConfig:
        """The trial of a point's draw."""
        return seed_trial(self.sweep, point, replicate, purpose)

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


def seed_trial(sweep: Sweep, point: Mapping[str, Any], replicate: int, purpose: str) -> TrialConfig:
    """The trial of a point's replicate; its seed is the point's own for that purpose."""
    return make_map_trial(sweep, {**point, "seed": draw_seed(point, replicate, purpose)})


def claim_draws(sweep: Sweep) -> set[str]:
    """Ids of the trials that the claims of a map may have."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    return {seed_trial(sweep, cell, r, CLAIM).trial_id for cell in cells for r in range(search.rule.max_seeds)}


def claim_keys(sweep: Sweep) -> list[str]:
    """The fields that tell the cells of a map's claims apart, the optimizer aside."""
    search = map_of(sweep)
    cells = [cell for cell in sweep.cells() if search.is_claim(cell)]
    shared = [name for name in cells[0] if name != "optimizer" and all(name in cell for cell in cells)]
    varying = [name for name in shared if len({cell[name] for cell in cells}) > 1]
    return list(dict.fromkeys((*search.fields, *varying)))
