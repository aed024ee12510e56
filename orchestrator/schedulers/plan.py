"""A sweep minus what the ledger settles: reads only, starts nothing."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import SweepError
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.grid import Grids
from orchestrator.schedulers.scheduler import Work
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import Outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a sweep before it runs: `configs` so far, the `settled` of them, and the `work` that is left."""

    sweep: Sweep
    configs: tuple[TrialConfig, ...]
    settled: frozenset[str]
    num_trials: int
    num_done: int
    num_pending: int
    stale_rows: int
    forecast_core_seconds: float
    work: Work

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to run."""
        return self.num_pending == 0


def ledger_of(sweep: Sweep, out: str) -> Ledger:
    """The results under an output folder, as this sweep reads them."""
    return Ledger(out, accept_certificates=sweep.accepts_certificates)


def plan_sweep(sweep: Sweep, ledger: Ledger, max_trials: int | None = None) -> Plan:
    """Expand the sweep, or read how far its search is, and subtract what is settled."""
    all_settled = ledger.settled(sweep.workload)
    if sweep.search is None:
        configs = sweep.configs()
        pending = tuple(config for config in configs if config.trial_id not in all_settled)[:max_trials]
        work: Work = Grids(configs, pending)
        num_pending, stopped = len(pending), 0
    else:
        if max_trials is not None:
            raise SweepError(f"--max-trials is for grids, and {sweep.name} is a search")
        work = _search(sweep, ledger)
        configs = work.configs()
        ids = {config.trial_id for config in configs}
        outcomes = ledger.trials(sweep.workload, trial_ids=ids, columns=("outcome",))["outcome"].to_pylist()
        stopped = outcomes.count(Outcome.PRUNED)
        num_pending = 0 if work.is_finished else -1
    settled = frozenset(all_settled & {config.trial_id for config in configs})
    num_done = len(settled) + stopped
    return Plan(
        sweep=sweep,
        configs=configs,
        settled=settled,
        num_trials=work.num_trials,
        num_done=num_done,
        num_pending=work.num_trials - num_done if num_pending < 0 else num_pending,
        stale_rows=ledger.count_other_versions(sweep.workload, workload(sweep.workload).config_type.numeric_version),
        forecast_core_seconds=work.forecast_core_seconds if num_pending else 0.0,
        work=work,
    )


def _search(sweep: Sweep, ledger: Ledger) -> Work:
    """A search as far as it has come; these modules load Optuna and pandas."""
    if isinstance(sweep.search, MapSearch):
        from orchestrator.schedulers.map import MapRun

        return MapRun(sweep, ledger)
    from orchestrator.schedulers.halving import SearchRun

    return SearchRun(sweep, ledger)
