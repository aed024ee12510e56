"""Plans a sweep: subtracts the trials that the ledger settles. It only reads, and starts nothing."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import SweepError
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.grid import GridScheduler
from orchestrator.schedulers.scheduler import Scheduler, scheduler_of
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.registry import workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of a sweep before its launch; its `scheduler` learns more during the launch.

    Args:
        sweep: The planned sweep.
        scheduler: Hands out the remaining trials.
        configs: The trials known so far.
        settled: Ids of the known trials that need no more training.
        num_trials: Total number of trials, including ones not asked yet.
        num_done: Number of trials that are settled, or stopped for good.
        num_pending: Number of trials to train.
        stale_rows: Number of trials recorded under another version of the workload.
        forecast_core_seconds: The cost model's estimate for the remaining trials.
    """

    sweep: Sweep
    scheduler: Scheduler
    configs: tuple[TrialConfig, ...]
    settled: frozenset[str]
    num_trials: int
    num_done: int
    num_pending: int
    stale_rows: int
    forecast_core_seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether all trials are done."""
        return self.num_pending == 0


def ledger_of(sweep: Sweep, out: str) -> Ledger:
    """The ledger under an output folder; it reads stopped trials only if the sweep accepts certificates.

    It warns of what looks like results and is not used: a part that was renamed or moved would be trained again.
    """
    ledger = Ledger(out, accept_certificates=sweep.accepts_certificates)
    ledger.check_files(sweep.workload)
    return ledger


def plan_sweep(sweep: Sweep, ledger: Ledger, max_trials: int | None = None) -> Plan:
    """Expand the sweep, or read how far its search has come, and subtract the settled trials."""
    if max_trials is not None and sweep.search is not None:
        raise SweepError(f"--max-trials is for grids only, and {sweep.name} is a search")
    scheduler = scheduler_of(sweep, ledger) if max_trials is None else GridScheduler(sweep, ledger, max_trials)
    num_done = len(scheduler.settled) + scheduler.num_stopped
    num_left = 0 if scheduler.is_finished else scheduler.num_trials - num_done
    return Plan(
        sweep=sweep,
        scheduler=scheduler,
        configs=scheduler.configs(),
        settled=scheduler.settled,
        num_trials=scheduler.num_trials,
        num_done=num_done,
        num_pending=num_left if max_trials is None else min(num_left, max_trials),
        stale_rows=ledger.count_other_versions(sweep.workload, workload(sweep.workload).config_type.numeric_version),
        forecast_core_seconds=0.0 if scheduler.is_finished else scheduler.forecast_core_seconds,
    )
