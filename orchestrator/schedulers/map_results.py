"""The results of a map's trials: which trials have ended, and which of them work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.analysis.claims import works
from orchestrator.sweeps.map_trials import map_of, seed_trial
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.result import SATISFYING, Outcome


class MapResults:
    """Makes the trials of a map from points, and keeps their results."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.search = sweep, map_of(sweep)
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._works: dict[str, bool | None] = {}

    def make(self, point: Mapping[str, Any], replicate: int, purpose: str) -> TrialConfig:
        """The trial of one replicate of a point, with the seed for that purpose."""
        return seed_trial(self.sweep, point, replicate, purpose)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows of trials that ended. A failed trial counts as ended in this launch, with an unknown result."""
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
        """Whether the trial works; None if that is not known."""
        return self._works.get(config.trial_id)

    def rows(self, configs: Sequence[TrialConfig]) -> pd.DataFrame:
        """The rows of trials that ended."""
        return pd.DataFrame([self._rows[config.trial_id] for config in configs])
