"""Writes the MLflow view in a separate thread, so that no sweep waits for MLflow."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import UserError
from orchestrator.mlflow_view.connection import one_line
from orchestrator.mlflow_view.view import NO_SUMMARY, MlflowView, Row, Traces

_logger = logging.getLogger(__name__)


class BackgroundView:
    """A `MlflowView` in a separate thread: only `finish` waits for MLflow.

    After the first failure, `problem` says in one line what happened, and everything later is dropped; `export-mlflow`
    can write it from the ledger. Use as a context manager; leaving it without `finish` ends the sweep's run as not
    finished.
    """

    def __init__(self, tracking_uri: str, sweep: str, title: str) -> None:
        self.tracking_uri = tracking_uri
        self.problem: str | None = None
        self._jobs: queue.SimpleQueue[Callable[[MlflowView], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(sweep, title), name="mlflow", daemon=True)
        self._thread.start()

    def add(self, rows: Sequence[Row], traces: Traces) -> None:
        """As `MlflowView.add`; returns at once."""
        if self.problem is None:
            self._jobs.put(lambda view: view.add(rows, traces))

    def catch_up(self, load: Callable[[set[str]], tuple[Sequence[Row], Traces]]) -> None:
        """Add what `load` returns; the view's thread calls it with the ids of the trials that are already present."""
        self._jobs.put(lambda view: view.add(*load(view.present())))

    def finish(self, figures: Sequence[Path], finished: bool, summary: Mapping[str, float] = NO_SUMMARY) -> None:
        """Wait until everything is written, the figures are copied and the sweep's run is ended."""
        if self._thread.is_alive():
            self._jobs.put(lambda view: view.add_artifacts(figures))
            self._jobs.put(lambda view: view.close(finished=finished, summary=summary))
            self._jobs.put(None)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish((), finished=False)

    def _run(self, sweep: str, title: str) -> None:
        try:
            view = MlflowView(self.tracking_uri, sweep, title)
            while (job := self._jobs.get()) is not None:
                job(view)
        except UserError as error:
            self.problem = str(error)
        except Exception as error:  # a bug here or in MLflow may cost the view, never the sweep
            _logger.debug("the MLflow view failed", exc_info=True)
            self.problem = one_line(f"MLflow view: {type(error).__name__}: {error}")
