"""Turns a trial into an MLflow run; the types that define the columns decide which are params, metrics or tags."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.ledger.standing import Attempt, Ending, stopped_row
from trainables.redaction import redacted
from trainables.registry import workload
from trainables.result import METRIC_COLUMNS, SATISFYING, Outcome

PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own name for the tag that nests a run under another."""

SWEEP_TAG = "lambda_atlas.sweep"
"""Marks a sweep's run with the sweep's name."""

TRIAL_OF_TAG = "sweep"
"""Marks a trial's run with the sweep's name, so that it is found without the sweep's run."""

TRIAL_TAG = "trial_id"
STOPPED_TAG = "stopped"
"""Marks the run of a trial that was stopped for its certificate, before its last epoch."""

FINISHED = "FINISHED"
RUNNING = "RUNNING"

_ATTEMPT_TAG, _DRIVER_TAG = "attempt", "driver_id"
KNOWN_TAGS = (TRIAL_TAG, STOPPED_TAG, _ATTEMPT_TAG, _DRIVER_TAG)
"""Tags that decide whether another run replaces one that MLflow has."""

_COMMIT_TAG = "mlflow.source.git.commit"
_MAX_TAG_LENGTH = 5000


@dataclass(frozen=True, slots=True)
class SweepRun:
    """The run of a sweep, under which those of its trials are."""

    run_id: str
    sweep: str

    @property
    def child_tags(self) -> Mapping[str, str]:
        """Tags by which a trial's run belongs to it."""
        return {PARENT_TAG: self.run_id, TRIAL_OF_TAG: self.sweep}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRun:
    """One trial's run; times in milliseconds since 1970, `points` maps (metric, epoch) to its value."""

    trial_id: str
    name: str
    status: str
    start_ms: int
    end_ms: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Mapping[tuple[str, int], float]

    @property
    def attempt(self) -> Attempt | None:
        """What decides whether this run replaces another of its trial, or is replaced."""
        return _attempt(self.status, self.end_ms, self.tags)

    def known(self, run_id: str) -> KnownRun:
        """This run once MLflow has it."""
        return KnownRun(run_id, self.trial_id, self.attempt)


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A child run that MLflow already has; `attempt` is None for a half-written one, whose writer was killed."""

    run_id: str
    trial_id: str
    attempt: Attempt | None


def known_run(run_id: str, status: str, end_ms: int | None, tags: Mapping[str, str]) -> KnownRun:
    """A child run as MLflow has it; only its tags in `KNOWN_TAGS` are read."""
    return KnownRun(run_id, tags[TRIAL_TAG], _attempt(status, end_ms, tags))


def _attempt(status: str, end_ms: int | None, tags: Mapping[str, str]) -> Attempt | None:
    if status == RUNNING or end_ms is None:
        return None
    ending = Ending.OPEN
    if status == FINISHED:
        ending = Ending.STOPPED if STOPPED_TAG in tags else Ending.ENDED
    # Runs of earlier versions may lack their driver. Few drivers write many runs: each name is kept once.
    return Attempt(ending, int(tags.get(_ATTEMPT_TAG, 1)), end_ms, sys.intern(tags.get(_DRIVER_TAG, "")))


def supersedes(new: ChildRun | KnownRun, old: ChildRun | KnownRun | None) -> bool:
    """Whether `new` replaces `old`: by the ledger's rule, except that a half-written `old` is always replaced."""
    if old is None or old.attempt is None:
        return True
    return new.attempt is not None and new.attempt.stands_before(old.attempt)


def is_final(run: KnownRun) -> bool:
    """Whether no run can replace this one: its trial ran to its end."""
    return run.attempt is not None and run.attempt.ending is Ending.ENDED


def child_run(row: Mapping[str, Any], trace: Sequence[Mapping[str, Any]]) -> ChildRun:
    """The run of a trial's flat row and its flat trace rows.

    Params are the config's fields, metrics with steps the trace point's (step = epoch). Every other column is a tag,
    unless its field is marked `METRIC`. None is left out.
    """
    kind = workload(str(row["workload"]))
    config_names = kind.config_type.model_fields
    measured = [field.name for field in fields(kind.trace_point_type) if field.name != "epoch"]
    epochs_done = int(row["epochs_done"])
    points = {
        (name, int(point["epoch"])): float(point[name])
        for name in measured
        for point in (trace or [{**row, "epoch": epochs_done}])
        if point.get(name) is not None
    }
    points.update(((name, epochs_done), float(row[name])) for name in METRIC_COLUMNS if row.get(name) is not None)
    tags = {
        name: _shortened(str(value))
        for name, value in row.items()
        if value is not None and name not in config_names and name not in measured and name not in METRIC_COLUMNS
    }
    if row.get("error") is not None:  # an earlier version may have written the row, with the secrets in it
        tags["error"] = _shortened(redacted(str(row["error"])))
    if row.get("git_sha") is not None:
        tags[_COMMIT_TAG] = str(row["git_sha"])
    if stopped_row(row):
        tags[STOPPED_TAG] = "true"
    return ChildRun(
        trial_id=str(row[TRIAL_TAG]),
        name=_name(row),
        status=_status(Outcome(row["outcome"])),
        start_ms=round(1000 * (row["finished_at"] - row["train_seconds"])),
        end_ms=round(1000 * row["finished_at"]),
        params={name: str(row[name]) for name in config_names if row.get(name) is not None},
        tags=tags,
        points=points,
    )


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['optimizer']} B={row['batch_size']} λ={row['weight_decay']:g} seed={row['seed']}"


def _status(outcome: Outcome) -> str:
    if outcome in SATISFYING:
        return FINISHED
    return "FAILED" if outcome is Outcome.FAILED else "KILLED"


def _shortened(text: str) -> str:
    """The text, or only its end if it is too long for a tag: a traceback says there what went wrong."""
    return text if len(text) <= _MAX_TAG_LENGTH else "…" + text[1 - _MAX_TAG_LENGTH :]
