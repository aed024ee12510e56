"""Reads how far a sweep is, and how its failed trials ended, from the ledger alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass

from orchestrator.errors import last_line
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.value import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """How far a sweep is: its trials, those settled, their outcomes, and the last traceback line of each failed one."""

    total: int
    settled: int
    outcomes: Mapping[str, int]
    errors: Mapping[str, str]


def sweep_status(sweep: Sweep, ledger: Ledger) -> SweepStatus:
    """Read a sweep's state from the ledger."""
    plan = plan_sweep(sweep, ledger)
    trial_ids = {config.trial_id for config in plan.configs}
    rows = ledger.trials(sweep.workload, trial_ids=trial_ids, columns=("trial_id", "outcome", "error")).to_pylist()
    errors = {row["trial_id"]: last_line(row["error"]) for row in rows if row["error"]}
    outcomes = Counter(row["outcome"] for row in rows)
    return SweepStatus(
        total=plan.num_trials, settled=plan.num_done, outcomes=dict(outcomes.most_common()), errors=errors
    )


def errors_of(sweep: Sweep, ledger: Ledger, failed: Set[str]) -> dict[str, int]:
    """How many of the failed trials ended with which last line of their tracebacks, the most frequent first."""
    rows = ledger.trials(sweep.workload, trial_ids=failed, columns=("error",)).to_pylist()
    return dict(Counter(last_line(row["error"]) for row in rows if row["error"]).most_common())
