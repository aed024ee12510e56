"""Results with made-up numbers of any workload's trials, for what reads results: figures, tables, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from trainables.config import TrialConfig
from trainables.provenance import provenance
from trainables.registry import workload
from trainables.result import Outcome, TracePoint, TrialResult

NUM_POINTS = 4


def made_result(config: TrialConfig, outcome: Outcome | None = None, scale: float = 1.0) -> TrialResult:
    """As if the trial had been trained: each column falls from about `scale` to a level of the trial's own.

    Without an outcome it is what its last test error says. Equal arguments give equal numbers.
    """
    trace = _trace(config, scale)
    if outcome is None:
        outcome = Outcome.LEARNED if trace[-1].test_error < 0.25 else Outcome.MEMORIZED
    return TrialResult(
        config=config,
        outcome=outcome,
        epochs_done=trace[-1].epoch,
        trace=trace,
        data_digest="data",
        init_digest="init",
        order_digest="order",
        train_seconds=1.0,
        finished_at=1.0,
        provenance=provenance("made-up"),
    )


def _trace(config: TrialConfig, scale: float) -> tuple[TracePoint, ...]:
    point_type = workload(config.workload).trace_point_type
    names = [column.name for column in fields(point_type) if column.name != "epoch"]
    rng = np.random.default_rng(int(config.trial_id, 16))
    levels = {name: float(rng.uniform(0.0, 0.5)) for name in names}
    shares = np.linspace(0, 1, min(NUM_POINTS, config.num_epochs + 1))
    return tuple(
        point_type(
            epoch=round(share * config.num_epochs),
            **{name: scale * (0.6 * (1 - share) + share * level) for name, level in levels.items()},
        )
        for share in shares.tolist()
    )


def frames(results: Sequence[TrialResult]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Their trials and traces, as a figure gets them."""
    trials = pd.DataFrame([result.trial_row() for result in results])
    return trials, pd.DataFrame([row for result in results for row in result.trace_rows()])
