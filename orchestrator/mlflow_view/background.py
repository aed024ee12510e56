"""Writes the MLflow view in a separate thread, so that no sweep waits for MLflow."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import UserError
from orchestrator.mlflow_view.connection import MlflowUnavailable, one_line
from orchestrator.mlflow_view.view import NO_SUMMARY, MlflowView, Row, Traces
from orchestrator.process import stopping

IDLE_SECONDS = 60.0
"""How long `finish` waits for an MLflow that does nothing: longer than another launch takes to create its database."""
LONGEST_SECONDS = 120.0
"""How long `finish` waits for an MLflow that is slow, or far behind."""
STOP_SECONDS = 10.0
"""How long an interrupted launch waits, at most."""
_END_SECONDS = 2.0
"""What such a launch needs to end after that."""

_MOST_WAITING = 2000
"""Runs that wait for MLflow in memory, with all their numbers; of further ones only the ids are kept."""

_LOOK_SECONDS = 1.0

_logger = logging.getLogger(__name__)

Load = Callable[[Collection[str]], Iterable[tuple[Sequence[Row], Traces]]]
"""Rows and traces of the trials with these ids, a few at a time."""


class BackgroundView:
    """A `MlflowView` in a separate thread: only `finish` waits for MLflow.

    `load` reads from the ledger what is not at hand. After the first failure, `error` is what happened and `problem`
    says it in one line, and everything later is dropped; `export-mlflow` can write it from the ledger. Use as a context
    manager; leaving it without `finish` ends the sweep's run as not finished.
    """

    def __init__(self, tracking_uri: str, sweep: str, title: str, load: Load) -> None:
        self.tracking_uri = tracking_uri
        self.error: Exception | None = None
        self.num_written = 0
        self._load = load
        self._jobs: queue.SimpleQueue[Callable[[MlflowView], object] | None] = queue.SimpleQueue()
        self._num_added = self._num_taken = 0  # rows by `add`, and by the thread: each changes one number alone
        self._left_out: set[str] = set()
        self._is_given_up = False
        self._last_progress = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(sweep, title), name="mlflow", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """What went wrong, in one line."""
        if self.error is None or isinstance(self.error, UserError):
            return None if self.error is None else str(self.error)
        return one_line(f"MLflow view: {type(self.error).__name__}: {self.error}")

    def add(self, rows: Sequence[Row], traces: Traces) -> None:
        """As `MlflowView.add`; returns at once. The ledger must have the rows."""
        if self.error is not None:
            return
        if self._num_added - self._num_taken + len(rows) > _MOST_WAITING:
            self._left_out.update(str(row["trial_id"]) for row in rows)
            return
        self._num_added += len(rows)
        self._jobs.put(lambda view: self._add_waiting(view, rows, traces))

    def catch_up(self, trial_ids: Collection[str]) -> None:
        """Add those of these trials that the ledger has and MLflow lacks."""
        self._jobs.put(lambda view: self._add_missing(view, trial_ids))

    def finish(
        self,
        figures: Sequence[Path],
        finished: bool,
        summary: Mapping[str, float] = NO_SUMMARY,
        *,
        idle_seconds: float = IDLE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        """Have everything written, the figures copied and the sweep's run ended; wait for it, but not for ever.

        It is given up when MLflow has done nothing for `idle_seconds`, or after `longest_seconds`; sooner if the launch
        was asked to stop.
        """
        if not self._thread.is_alive() or self._is_given_up:
            return
        if self._left_out:
            self.catch_up(self._left_out)
        self._jobs.put(lambda view: view.close(finished=finished, summary=summary))
        self._jobs.put(lambda view: view.add_artifacts(figures))
        self._jobs.put(None)
        if stopping.requested():
            longest_seconds = max(0.0, min(longest_seconds, STOP_SECONDS, stopping.seconds_left() - _END_SECONDS))
        deadline = time.monotonic() + longest_seconds
        while self._thread.is_alive():
            left = min(self._last_progress + idle_seconds, deadline) - time.monotonic()
            if left <= 0:
                self._give_up(idle_seconds, longest_seconds)
                return
            self._thread.join(min(left, _LOOK_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish((), finished=False, longest_seconds=STOP_SECONDS)

    def _run(self, sweep: str, title: str) -> None:
        try:
            view = MlflowView(self.tracking_uri, sweep, title, progress=self._progressed)
            while (job := self._jobs.get()) is not None:
                self._progressed()
                job(view)
        except _GivenUp:
            pass
        except Exception as error:  # a bug here or in MLflow may cost the view, never the sweep
            if not isinstance(error, UserError):
                _logger.debug("the MLflow view failed", exc_info=True)
            if not self._is_given_up:
                self.error = error

    def _progressed(self) -> None:
        self._last_progress = time.monotonic()
        if self._is_given_up:
            raise _GivenUp

    def _give_up(self, idle_seconds: float, longest_seconds: float) -> None:
        """Leave the thread alone; it ends at the next step that MLflow takes."""
        is_idle = time.monotonic() - self._last_progress >= idle_seconds
        waited = f"did nothing for {idle_seconds:.0f} s" if is_idle else f"is not done after {longest_seconds:.0f} s"
        self._is_given_up = True
        self.error = MlflowUnavailable(one_line(f"MLflow {waited} ({self.tracking_uri})"))

    def _add_waiting(self, view: MlflowView, rows: Sequence[Row], traces: Traces) -> None:
        self.num_written += view.add(rows, traces)
        self._num_taken += len(rows)

    def _add_missing(self, view: MlflowView, trial_ids: Collection[str]) -> None:
        batches = iter(self._load(set(trial_ids) - view.present()))
        while True:
            self._last_progress = math.inf  # the ledger's store may be slow: that is not MLflow's idleness
            batch = next(batches, None)
            self._progressed()
            if batch is None:
                return
            self.num_written += view.add(*batch)


class _GivenUp(BaseException):
    """Ends the thread of a view that nobody waits for."""
