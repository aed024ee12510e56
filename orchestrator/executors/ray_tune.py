"""Runs packs on Ray Tune: a Tuner's searcher pulls packs from the queue, and results bypass Tune's own log.

Tune sees only a pack's id and whether the pack continues; its files are scratch that nobody reads.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from orchestrator.errors import ClusterError, RayEndedError, first_line, last_line
from orchestrator.executors.executor import ReportSink, given_up_reports
from orchestrator.executors.failures.lost_worker import import_fault
from orchestrator.executors.failures.pack_clock import PackClock
from orchestrator.executors.failures.ray_log import LOG_NAME
from orchestrator.executors.pack_queue import PackQueue
from orchestrator.executors.ray_capacity import GPU_NODES, ClusterRoom
from orchestrator.executors.ray_cluster import Cluster
from orchestrator.executors.ray_exchange import Exchange
from orchestrator.executors.ray_private import keys_not_sent
from orchestrator.executors.tune_hooks import PackEnds, PackSearcher
from orchestrator.process.stopping import SAVE_SECONDS, Stopped, requested, seconds_left
from trainables.packs.orders import PackOrder
from trainables.packs.state_store import StateStore
from trainables.result import TrialResult
from trainables.tune_trainable import PackTrainable

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no log files for each trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are heeded by this module
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # no snapshots of what the ledger already describes
    "RAY_AIR_NEW_OUTPUT": "0",  # no configuration box
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the searcher limits how many packs wait
}
"""Environment variables that Tune reads while packs run."""
_NEWS_SECONDS = 0.5

_logger = logging.getLogger(__name__)


class RayExecutor:
    """Runs packs on a cluster, and leaves the cluster when closed; raises `ClusterError` if it cannot use the cluster.

    If `device` is `cuda`, a pack gets one GPU and one CPU. Otherwise it gets `cpus_per_trial` CPUs of a node that is
    not reserved for GPU packs; that is enough, as its members are trained in turn. `device` None is `cuda` if the
    cluster has a GPU now. Tune and the log are in `folder`. `ClusterRoom` explains `max_nodes` and `slots_per_node`.
    A pack whose worker reports nothing for `stall_seconds` is lost.
    """

    def __init__(
        self,
        states_root: str,
        cluster: Cluster,
        folder: Path,
        device: str | None,
        cpus_per_trial: int = 1,
        max_nodes: int | None = None,
        slots_per_node: int | None = None,
        stall_seconds: float = math.inf,
    ) -> None:
        self._store = StateStore(states_root)
        self._cluster, self._scratch, self._log = cluster, folder / "tune", folder / LOG_NAME
        self.device = device or ("cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu")
        self.num_threads = cpus_per_trial
        self._pack: dict[str, float] = {"CPU": 1, "GPU": 1} if self.device == "cuda" else {"CPU": cpus_per_trial}
        self._room = ClusterRoom(self._pack, max_nodes, slots_per_node)
        if max_nodes is None and not self._room.now:
            raise ClusterError(
                f"no node of the cluster has room for a trial ({self._room.pack_text}); "
                "--max-nodes N lets the cluster grow"
            )
        self._read: set[str] = set()
        self._exchange = Exchange(stall_seconds)
        self._clock = PackClock(stall_seconds)
        self._stall_seconds = stall_seconds
        self._workers: dict[str, Any] = {}
        self._stalled: set[str] = set()
        self._drain_lock = threading.Lock()
        self._problem: BaseException | None = None
        self._is_stopped = threading.Event()

    @property
    def slots(self) -> int:
        """Number of packs that run at once, including those on nodes that the autoscaler is asked for."""
        return self._room.wanted

    def run(self, queue: PackQueue, sink: ReportSink) -> None:
        """Run every pack of the queue; returns when the queue is finished, or when packs have saved and stopped."""
        try:
            with self._draining(sink), keys_not_sent(), suppress(Stopped):
                self._tuner(queue, sink).fit()
        except Exception:
            self.raise_problem()  # the cause, if Tune wrapped it or failed because of it
            raise

    def acknowledge(self, trial_ids: Collection[str]) -> None:
        """Take note that these trials are recorded: workers may delete their states."""
        self._exchange.acknowledge(trial_ids)

    def close(self) -> None:
        """Begin to leave the cluster, once nothing runs or is acknowledged any more; returns at once."""
        self._cluster.leave()

    def _tuner(self, queue: PackQueue, sink: ReportSink) -> tune.Tuner:
        return tune.Tuner(
            tune.with_resources(PackTrainable, self._placement()),
            tune_config=tune.TuneConfig(
                search_alg=PackSearcher(self, queue),
                scheduler=PackEnds(self, queue, sink),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="packs",
                storage_path=str(self._scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )

    def _placement(self) -> tune.PlacementGroupFactory:
        """The resources of a pack, and the nodes that it must not use."""
        if self.device == "cuda":
            return tune.PlacementGroupFactory([self._pack])
        others = [{name: f"!{value}" for name, value in GPU_NODES.items()}]
        return tune.PlacementGroupFactory([self._pack], bundle_label_selector=others)

    def offer(self, order: PackOrder) -> dict[str, Any]:
        """Send an order to the exchange, where its worker fetches it; returns the Tune config that names it."""
        named, sent = self._exchange.offer(order)
        self._check_is_read(order, sent)
        if self._cluster.is_local:  # elsewhere a pack may wait for a node, or for other users of the cluster
            self._clock.heard([order.pack_id])
        return named

    def _check_is_read(self, order: PackOrder, sent: Any) -> None:
        """Check that the exchange could load the first order of a kind: else its worker would wait for ever."""
        kinds = {order.workload, *(str(member.config.optimizer) for member in order.members)}
        if kinds <= self._read:
            return
        try:
            self._exchange.answer(sent)
        except RayError as error:
            self.raise_problem()
            raise ClusterError(
                f"the cluster's nodes cannot load {order.workload} ({last_line(str(error))}): put your own modules "
                "where every node can import them, such as the current folder or their PYTHONPATH"
            ) from None
        self._read |= kinds

    def pack_ended(self, queue: PackQueue, sink: ReportSink, pack_id: str, error: str | None = None) -> None:
        """Handle the end of a pack or the death of its worker: take its reports, and requeue unfinished members."""
        self._clock.ended(pack_id)
        self._workers.pop(pack_id, None)
        try:
            self._drain(sink)
            if not requested():  # otherwise its members have not ended, and are not lost
                given_up = queue.completed(pack_id) if error is None else self._lost(queue, pack_id, error)
                sink(given_up_reports(given_up))
        except BaseException as problem:
            self._problem = problem  # Tune turns an exception raised here into text
            raise
        self._exchange.close(pack_id)

    def _lost(self, queue: PackQueue, pack_id: str, error: str) -> list[TrialResult]:
        """Have the pack's members trained elsewhere; returns the results of those that are given up.

        Raises `ClusterError` if the worker could not import something: no other worker or engine would help.
        """
        if (fault := import_fault(error)) is not None:
            raise ClusterError(f"a worker cannot import what the trials need ({fault}); log: {self._log}")
        if pack_id in self._stalled:
            error = f"no progress for {self._stall_seconds / 60:g} minutes"
        else:
            _logger.warning("the worker of pack %s died: its trials go on elsewhere; log: %s", pack_id, self._log)
        return queue.lost(pack_id, error, self._store.find(pack_id))

    def _drain(self, sink: ReportSink) -> None:
        """Pass every available report to the sink; when this returns, no other thread is still passing one."""
        with self._drain_lock:
            news = self._exchange.drain()
            self._workers.update(news.workers)
            self._clock.heard(news.heard)
            sink(news.reports)

    def _end_stalled(self) -> None:
        """Kill the workers of packs that make no progress; Tune then says that they died."""
        for pack_id in self._clock.stalled():
            worker = self._workers.pop(pack_id, None)
            if worker is None:
                raise RayEndedError(f"a worker has not begun within {self._stall_seconds / 60:g} minutes")
            _logger.warning(
                "no progress of pack %s for %g minutes: its worker is ended, and its trials go on elsewhere; log: %s",
                pack_id,
                self._stall_seconds / 60,
                self._log,
            )
            self._stalled.add(pack_id)
            ray.kill(worker)

    @contextmanager
    def _draining(self, sink: ReportSink) -> Iterator[None]:
        """Pass reports on from a separate thread, so that Tune's loop never waits for the ledger."""
        stop = threading.Event()

        def drain_until_stopped() -> None:
            try:
                while not stop.is_set():
                    if requested():
                        self._have_packs_stopped()
                    self._exchange.wait(_NEWS_SECONDS)
                    self._drain(sink)
                    self._end_stalled()
            except RayError as error:
                self._problem = RayEndedError(first_line(error))
            except BaseException as problem:  # raised in the driver's thread, by the searcher
                self._problem = problem

        thread = threading.Thread(target=drain_until_stopped, name="drain-reports", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            self._cluster.check()  # else the thread might wait for a Ray that has ended
            self._exchange.wake()
            thread.join()
            self.raise_problem()
            self._drain(sink)

    def _have_packs_stopped(self) -> None:
        """Let packs save their states and end; `check_continues` ends the run once they have."""
        if self._exchange.stop() or seconds_left(SAVE_SECONDS) < 0:
            self._is_stopped.set()

    def raise_problem(self) -> None:
        """Raise why the sweep cannot continue: Ray has ended, or results were not recorded, as on a full disk."""
        self._cluster.check()
        if self._problem is not None:
            raise self._problem

    def check_continues(self) -> None:
        """Raise what ends Tune's loop: such a failure, or `Stopped` when packs have stopped as requested."""
        self.raise_problem()
        if self._is_stopped.is_set():
            raise Stopped
