"""Trains a plan: moves tasks from its scheduler into the queue, and results into ledger, views and scheduler."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from rich.console import Console

from orchestrator.driver.progress import ProgressDisplay
from orchestrator.driver.recorder import Recorder
from orchestrator.driver.sharing import Sharing
from orchestrator.executors.executor import Executor
from orchestrator.executors.pack_queue import PackQueue, PackSettings
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.recorded import Recorded
from orchestrator.process import parent, stopping
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
        settled = self._collect()
        self._attempts = ledger.attempts(self._workload)
        # A failed trial starts from its beginning: its saved state may be why it failed.
        failed = ledger.failed(self._workload)
        self._state_paths = {tid: path for tid, path in self._states.index().items() if tid not in failed}
        standing = repr((len(settled), sorted(self._state_paths.items()))).encode()
        parent.tell("standing", f"{crc32(standing):08x}")
        settings = PackSettings(states_root, checkpoint_seconds, executor.device, executor.num_threads)
        self._sharing = Sharing(
            ledger,
            self._workload,
            self._states,
            on_recorded=self._found,
            on_free=lambda orders: self._queue.add(orders),
            is_idle=lambda: self._queue.is_idle,
        )
        self._queue = PackQueue(settings, self._sharing.claim)
        self._lock = threading.RLock()
        self._configs: dict[str, TrialConfig] = {}
        self._running: dict[str, float] = {}
        self._outcomes: Counter[str] = Counter()
        self.settled: set[str] = set()
        """Ids of the trials that were recorded during this launch and need no more training."""
        self.failed: set[str] = set()
        """Ids of the trials that failed during this launch."""

    def run(self, console: Console) -> tuple[Counter[str], bool]:
        """Train everything; returns the outcomes of this launch and whether it was interrupted."""
        plan = self._plan
        self._progress = ProgressDisplay(
            plan.sweep.name, plan.num_trials, plan.num_done, plan.forecast_core_seconds, console
        )
        with (
            stopping.deferred(),
            self._progress,
            self._ledger.claims.held(),
            Recorder(self._ledger, self._recorded, self._moved, lambda: self._queue.is_idle) as recorder,
            self._sharing,
        ):

            def sink(reports: Sequence[Report]) -> None:
                self._sharing.check()
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
        self._collect()
        return self._outcomes, interrupted

    def _collect(self) -> set[str]:
        """Delete the saved states of settled trials, which are returned; another launch may still train some on."""
        settled = self._ledger.settled(self._workload)
        self._states.collect(settled - self._ledger.claims.others().keys())
        return settled

    def _feed(self, results: Sequence[TrialResult] = ()) -> None:
        """Queue the scheduler's next tasks; called first in the driver's thread, then by the recorder and `Sharing`."""
        tasks, stopped = self._plan.scheduler.advance(results)
        self._queue.add([self._order(task) for task in tasks])
        if results and tasks:
            self._progress.expect(self._plan.scheduler.num_trials, self._plan.scheduler.forecast_core_seconds)
        if stopped:
            # A killed launch may have left some unmarked: this launch has not queued all of them.
            self._configs.update((config.trial_id, config) for config in self._plan.scheduler.configs())
            self._ledger.mark_pruned(self._workload, stopped)
            for trial_id in stopped:  # also what another launch of the same search has marked before
                self._done(self._configs[trial_id], Outcome.PRUNED)
            self._show_recorded(stopped)
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
        with self._lock:
            config = self._configs[report.trial_id]
            self._running[report.trial_id] = self._cost(config) * report.epochs_done / config.num_epochs
            self._progress.partial(sum(self._running.values()))

    def _recorded(self, results: Sequence[TrialResult]) -> None:
        ended = [result for result in results if result.outcome is not Outcome.UNFINISHED]
        self._ledger.claims.release([result.trial_id for result in results])
        self._executor.acknowledge([result.trial_id for result in ended])
        with self._lock:
            self._take(results)
            if self._view is not None:
                self._view.add([self._ledger.row(r) for r in ended], {r.trial_id: r.trace_rows() for r in ended})
            self._go_on(results)

    def _found(self, recorded: Sequence[Recorded]) -> None:
        """Take results that another launch has recorded."""
        results = [found.result for found in recorded]
        ended = [found for found in recorded if found.result.outcome is not Outcome.UNFINISHED]
        with self._lock:
            for result in results:
                self._queue.ended(result)
            self._take(results)
            if self._view is not None:
                self._view.add([found.row for found in ended], {f.result.trial_id: f.trace for f in ended})
            self._go_on(results)

    def _go_on(self, results: Sequence[TrialResult]) -> None:
        if not stopping.requested():  # a search may think for long about what comes next
            self._feed(results)

    def _take(self, results: Sequence[TrialResult]) -> None:
        for result in results:
            self._attempts[result.trial_id] = result.attempt
            if result.outcome is Outcome.UNFINISHED:
                self._state_paths.update(self._states.find(result.trial_id))
            else:
                self._done(result.config, result.outcome)

    def _done(self, config: TrialConfig, outcome: Outcome) -> None:
        self._running.pop(config.trial_id, None)
        self._outcomes[outcome] += 1
        if outcome in SATISFYING:
            self.settled.add(config.trial_id)
        if outcome is Outcome.FAILED:
            self.failed.add(config.trial_id)
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
