"""Trains a plan: moves tasks from its scheduler into the queue, and results into ledger, views and scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator import stopping
from orchestrator.driver.progress import ProgressDisplay
from orchestrator.driver.recorder import Recorder
from orchestrator.executors.executor import Executor
from orchestrator.executors.pack_queue import PackQueue, PackSettings
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.plan import Plan
from orchestrator.schedulers.scheduler import Task
from trainables.config import TrialConfig
from trainables.contract import Report
from trainables.packs.orders import MemberOrder
from trainables.packs.state_store import StateStore
from trainables.registry import workload
from trainables.result import SATISFYING, Outcome, TrialResult

if TYPE_CHECKING:
    from orchestrator.mlflow_view.background import BackgroundView


class Training:
    """One launch's training; `run` returns when the scheduler is finished, or when a signal has stopped it."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        executor: Executor,
        view: BackgroundView | None,
        states_root: str,
        checkpoint_seconds: float,
    ) -> None:
        self._plan, self._ledger, self._executor, self._view = plan, ledger, executor, view
        self._workload = plan.sweep.workload
        self._states = StateStore(states_root)
        self._states.collect(ledger.settled(self._workload))
        self._attempts = ledger.attempts(self._workload)
        # A failed trial starts from its beginning: its saved state may be why it failed.
        failed = ledger.failed(self._workload)
        self._state_paths = {tid: path for tid, path in self._states.index().items() if tid not in failed}
        settings = PackSettings(states_root, checkpoint_seconds, executor.device, executor.num_threads)
        self._queue = PackQueue(settings)
        self._configs: dict[str, TrialConfig] = {}
        self._running: dict[str, float] = {}
        self._outcomes: Counter[str] = Counter()
        self.settled: set[str] = set()
        """Ids of the trials that this launch has recorded and that need no more training."""

    def run(self, console: Console) -> tuple[Counter[str], bool]:
        """Train everything; returns the outcomes of this launch and whether it was interrupted."""
        plan = self._plan
        self._progress = ProgressDisplay(
            plan.sweep.name, plan.num_trials, plan.num_done, plan.forecast_core_seconds, console
        )
        with (
            stopping.deferred(),
            self._progress,
            Recorder(self._ledger, self._recorded, self._moved, lambda: self._queue.is_idle) as recorder,
        ):

            def sink(reports: Sequence[Report]) -> None:
                recorder.put([r for r in reports if r.result is None or self._queue.ended(r.result)])

            self._feed()
            try:
                self._executor.run(self._queue, sink)
                interrupted = stopping.requested() is not None
            except KeyboardInterrupt:  # of a program that handles signals itself
                interrupted = True
            if interrupted:
                self._ledger.wait_for_store(0)  # a stop must not take minutes
        self._executor.close()
        self._states.collect(self._ledger.settled(self._workload))
        return self._outcomes, interrupted

    def _feed(self, results: Sequence[TrialResult] = ()) -> None:
        """Queue the scheduler's next tasks; called first in the driver's thread, then in the recorder's."""
        tasks, stopped = self._plan.scheduler.advance(results)
        self._queue.add([self._order(task) for task in tasks])
        if results and tasks:
            self._progress.expect(self._plan.scheduler.num_trials, self._plan.scheduler.forecast_core_seconds)
        if stopped:
            # A killed launch may have left some unmarked: this launch has not queued all of them.
            self._configs.update((config.trial_id, config) for config in self._plan.scheduler.configs())
            marked = self._ledger.mark_pruned(self._workload, stopped)
            for trial_id in marked:
                self._done(self._configs[trial_id], Outcome.PRUNED)
            self._show_recorded(marked)
        if self._plan.scheduler.is_finished:
            self._queue.close()

    def _order(self, task: Task) -> MemberOrder:
        config = task.config
        self._configs[config.trial_id] = config
        attempt = self._attempts.get(config.trial_id, 0) + 1
        until_epoch = None if task.until_epoch >= config.num_epochs else task.until_epoch
        may_stop = self._plan.sweep.accepts_certificates
        return MemberOrder(config, attempt, self._state_paths.get(config.trial_id), until_epoch, may_stop)

    def _moved(self, report: Report) -> None:
        config = self._configs[report.trial_id]
        self._running[report.trial_id] = self._cost(config) * report.epochs_done / config.num_epochs
        self._progress.partial(sum(self._running.values()))

    def _recorded(self, results: Sequence[TrialResult]) -> None:
        ended = [result for result in results if result.outcome is not Outcome.UNFINISHED]
        self._executor.acknowledge([result.trial_id for result in ended])
        for result in results:
            self._attempts[result.trial_id] = result.attempt
            if result.outcome is Outcome.UNFINISHED:
                self._state_paths.update(self._states.find(result.trial_id))
            else:
                self._done(result.config, result.outcome)
        if self._view is not None:
            self._view.add([self._ledger.row(r) for r in ended], {r.trial_id: r.trace_rows() for r in ended})
        if not stopping.requested():  # a search may think for long about what comes next
            self._feed(results)

    def _done(self, config: TrialConfig, outcome: Outcome) -> None:
        self._running.pop(config.trial_id, None)
        self._outcomes[outcome] += 1
        if outcome in SATISFYING:
            self.settled.add(config.trial_id)
        self._progress.trial_done(outcome, self._cost(config))

    def _show_recorded(self, trial_ids: Sequence[str]) -> None:
        """Send rows that were changed in the ledger to MLflow."""
        if self._view is not None and trial_ids:
            rows = self._ledger.trials(self._workload, trial_ids=trial_ids).to_pylist()
            points = self._ledger.traces(self._workload, trial_ids=trial_ids).to_pylist()
            traces = {tid: [p for p in points if p["trial_id"] == tid] for tid in trial_ids}
            self._view.add(rows, traces)

    def _cost(self, config: TrialConfig) -> float:
        return workload(config.workload).cost(config)
