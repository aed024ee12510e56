"""Reads and writes runs through MLflow's client: any server and any database, about ten times as slow as `sqlite`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.mlflow_view.runs import (
    PARENT_TAG,
    RUNNING,
    SWEEP_TAG,
    TRIAL_OF_TAG,
    TRIAL_TAG,
    ChildRun,
    KnownRun,
    SweepRun,
    known_run,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE_RUNS = 500


class ClientRuns:
    """The runs of one experiment; `progress` is called after each request that may be one of many.

    Raises MLflow's errors, and those of the libraries that it uses.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, progress: Callable[[], None]) -> None:
        self._client, self._experiment_id, self._progress = client, experiment_id, progress

    def find_sweep(self, sweep: str, title: str) -> SweepRun:
        """The sweep's run, running again: the oldest, else the deleted one that was started last, else a new one."""
        found = list(self._search({SWEEP_TAG: sweep}, deleted=True))
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        if not found:
            tags = {SWEEP_TAG: sweep, "mlflow.note.content": title}
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=sweep)
            return SweepRun(str(run.info.run_id), sweep)
        run_id = str((active[0] if active else found[-1]).info.run_id)
        if not active:  # MLflow deletes a run without its children, which are found again with it
            self._client.restore_run(run_id)
        self._client.update_run(run_id, status=RUNNING)
        return SweepRun(run_id, sweep)

    def children(self, parent: SweepRun) -> Iterator[KnownRun]:
        """Active runs of the sweep's trials, oldest first; those that are not under `parent` are moved there."""
        strays = self._search({TRIAL_OF_TAG: parent.sweep}, f"tags.`{PARENT_TAG}` != '{parent.run_id}'")
        for run_id in [run.info.run_id for run in strays]:  # all before the first is moved: that would shift the pages
            self._client.set_tag(run_id, PARENT_TAG, parent.run_id)
            self._progress()
        for run in self._search({PARENT_TAG: parent.run_id}):
            if TRIAL_TAG in run.data.tags:
                yield known_run(run.info.run_id, run.info.status, run.info.end_time, run.data.tags)

    def insert(self, parent: SweepRun, runs: Sequence[ChildRun]) -> Iterator[KnownRun]:
        """Write the runs one by one; each is known as soon as it is whole."""
        for run in runs:
            yield self._write(parent, run)
            self._progress()

    def _write(self, parent: SweepRun, run: ChildRun) -> KnownRun:
        """Write in three requests; the last one sets the status, so a run without it is known as half-written."""
        from mlflow.entities import Metric, Param

        tags = {**run.tags, **parent.child_tags}
        run_id = self._client.create_run(self._experiment_id, run.start_ms, tags, run.name).info.run_id
        metrics = [Metric(name, value, run.end_ms, step) for (name, step), value in run.points.items()]
        params = [Param(name, value) for name, value in run.params.items()]
        self._client.log_batch(run_id, metrics, params)
        self._client.set_terminated(run_id, run.status, run.end_ms)
        return run.known(run_id)

    def _search(self, tags: dict[str, str], *conditions: str, deleted: bool = False) -> Iterator[Run]:
        """Runs with these tags, oldest first, a page at a time; deleted ones too if asked for."""
        from mlflow.entities import ViewType

        condition = " AND ".join([*(_alike(name, value) for name, value in tags.items()), *conditions])
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                condition,
                run_view_type=ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
                max_results=_PAGE_RUNS,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            self._progress()
            for run in page:
                if tags.items() <= run.data.tags.items():
                    yield run
            token = page.token
            if not token:
                return


def _alike(name: str, value: str) -> str:
    """A filter that every run with this tag passes, and few others: MLflow has no way to escape a quote."""
    return f"tags.`{name}` LIKE '{re.sub(r'[^0-9A-Za-z-]', '_', value)}'"
