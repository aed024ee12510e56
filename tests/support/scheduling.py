"""A scheduler run with real trials, one at a time, in an order and with restarts of a test's choice."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache

from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.schedulers.scheduler import Scheduler, Task
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.contract import Member
from trainables.registry import workload
from trainables.result import TrialResult

COMPACT_EVERY = 6

Choose = Callable[[Sequence[Task]], int]
"""Which of the waiting tasks is trained next."""


def oldest(waiting: Sequence[Task]) -> int:
    return 0


def newest(waiting: Sequence[Task]) -> int:
    return len(waiting) - 1


def at_random(seed: int) -> Choose:
    def choose(waiting: Sequence[Task]) -> int:
        return random.Random(f"{seed} {waiting[0].config.trial_id} {len(waiting)}").randrange(len(waiting))

    return choose


@cache
def trained(config: TrialConfig, until_epoch: int) -> TrialResult:
    """The trial's real result at that epoch."""
    (report,) = workload(config.workload).open([Member(config, until_epoch)]).advance(math.inf)
    assert report.result is not None
    return report.result


def train(sweep: Sweep, ledger: Ledger, choose: Choose = oldest, restart_every: int | None = None) -> list[str]:
    """Run the sweep as a driver does and check each step; the ids of everything that it asked, sorted.

    The process is "restarted" after every so many results: what it knew is gone, and a new scheduler goes on from the
    ledger alone.
    """
    scheduler, handed = plan_sweep(sweep, ledger).scheduler, set[tuple[str, int]]()
    waiting = _advance(sweep, ledger, scheduler, handed, ())
    num_results = 0
    while waiting:
        task = waiting.pop(choose(waiting))
        result = trained(task.config, task.until_epoch)
        ledger.append([result])
        num_results += 1
        if num_results % COMPACT_EVERY == 0:
            ledger.compact()  # fewer files, which every restart reads
        if restart_every is not None and num_results % restart_every == 0:
            plan = plan_sweep(sweep, ledger)
            scheduler, handed = plan.scheduler, set()
            waiting = _advance(sweep, ledger, scheduler, handed, ())
            assert plan.is_complete == (not waiting), "a plan is complete where nothing is left, and only there"
        else:
            waiting += _advance(sweep, ledger, scheduler, handed, (result,))
        assert scheduler.is_finished or waiting, "nothing is in training, and something is to come"
    _check_end(sweep, ledger, scheduler)
    return sorted(config.trial_id for config in scheduler.configs())


def _advance(
    sweep: Sweep, ledger: Ledger, scheduler: Scheduler, handed: set[tuple[str, int]], results: Sequence[TrialResult]
) -> list[Task]:
    """What the scheduler hands out: each task once, none that is settled, all known to whoever takes over now."""
    was_finished = scheduler.is_finished
    tasks, stopped = scheduler.advance(results)
    if stopped:
        ledger.mark_pruned(sweep.workload, stopped)
    if tasks:
        assert not (was_finished and results), "a finished scheduler has no more tasks"
        keys = [(task.config.trial_id, task.until_epoch) for task in tasks]
        assert len(set(keys) | handed) == len(keys) + len(handed), "each task once"
        handed.update(keys)
        ids = {trial_id for trial_id, _ in keys}
        assert not ids & ledger.settled(sweep.workload)
        assert ids <= {config.trial_id for config in plan_sweep(sweep, ledger).configs}, "asks are recorded before"
        assert ids <= {config.trial_id for config in scheduler.configs()}
    assert scheduler.num_trials >= len(scheduler.configs())
    return tasks


def _check_end(sweep: Sweep, ledger: Ledger, scheduler: Scheduler) -> None:
    assert scheduler.is_finished
    assert scheduler.advance() == ([], [])
    assert scheduler.num_trials == len(scheduler.configs())
    plan = plan_sweep(sweep, ledger)
    assert plan.is_complete
    assert (plan.num_done, plan.num_pending, plan.forecast_core_seconds) == (plan.num_trials, 0, 0.0)
    assert plan.num_trials == scheduler.num_trials
    assert plan.scheduler.is_finished
    assert plan.scheduler.advance() == ([], [])
