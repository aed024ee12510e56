"""What a trial gives back: trace points, an outcome, and where the numbers come from.

A column of the results is a field of one of these types and is spelled nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from trainables.certificates import Certificate
from trainables.config import TrialConfig


class Outcome(StrEnum):
    """How a trial ended."""

    LEARNED = "learned"
    """Training error about 0, test error low."""
    MEMORIZED = "memorized"
    """Training error about 0, test error high."""
    STUCK = "stuck"
    """Training loss at its trivial value and the weight norm collapsed."""
    UNDERFIT = "underfit"
    """Ran to the end with training error left, and not stuck."""
    DIVERGED = "diverged"
    """A weight or the loss became non-finite."""
    PRUNED = "pruned"
    """Stopped by a scheduler."""
    UNFINISHED = "unfinished"
    """Stopped before its last epoch for another reason."""
    FAILED = "failed"
    """An error; the row carries the traceback."""


SATISFYING = frozenset({Outcome.LEARNED, Outcome.MEMORIZED, Outcome.STUCK, Outcome.UNDERFIT, Outcome.DIVERGED})
"""Outcomes that settle a config: it ran to `num_epochs`, ended non-finite, or was certified to be stuck."""


@dataclass(frozen=True, slots=True)
class TracePoint:
    """Measurements after `epoch` epochs (0: the initial weights); workloads add fields by subclassing."""

    epoch: int
    train_loss: float
    train_error: float
    test_error: float
    weight_norm: float

    @property
    def losses(self) -> tuple[float, ...]:
        """Every loss that was measured."""
        return (self.train_loss,)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where and with what a trial ran, captured on the worker; columns, never part of a trial's name.

    `side_by_side` is the most members of its pack that trained on its device at once, itself included;
    `peak_memory_bytes` what its process had reserved on a GPU at most, images included (null on a CPU).
    """

    engine: str
    device: str
    device_name: str
    num_threads: int
    hostname: str
    code_digest: str
    git_sha: str | None
    git_dirty: bool | None
    package_version: str
    python_version: str
    numpy_version: str
    numba_version: str | None
    torch_version: str | None
    side_by_side: int = 1
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One finished trial: its config, outcome, trace and provenance.

    `data_digest`, `init_digest` and `order_digest` tell whether two trials saw the same data, initial weights and
    batches. `error` holds the traceback of a failed trial. `certificate`, found after `certificate_epoch` epochs, tells
    how the trial ends; a stuck one whose `epochs_done` are fewer than its epochs was stopped for it.
    """

    config: TrialConfig
    outcome: Outcome
    epochs_done: int
    trace: tuple[TracePoint, ...]
    data_digest: str | None
    init_digest: str | None
    order_digest: str | None
    train_seconds: float
    finished_at: float
    provenance: Provenance
    pack_id: str | None = None
    attempt: int = 1
    error: str | None = None
    certificate: Certificate | None = None
    certificate_epoch: int | None = None

    @property
    def trial_id(self) -> str:
        """The config's name."""
        return self.config.trial_id

    @property
    def satisfies(self) -> bool:
        """Whether this result settles its config."""
        return self.outcome in SATISFYING

    @property
    def was_stopped(self) -> bool:
        """Whether the trial was stopped for its certificate: it is stuck, and its last epoch was not trained."""
        return self.outcome is Outcome.STUCK and self.epochs_done < self.config.num_epochs

    def trial_row(self) -> dict[str, Any]:
        """One flat row: config fields, result fields, the last trace point's fields, provenance fields."""
        row: dict[str, Any] = {
            "trial_id": self.config.trial_id,
            "trajectory_id": self.config.trajectory_id,
            "workload_version": type(self.config).numeric_version,
            **self.config.model_dump(mode="json"),
        }
        row.update((name, getattr(self, name)) for name in RESULT_COLUMNS)
        if self.trace:
            last = self.trace[-1]
            row.update((f.name, getattr(last, f.name)) for f in fields(last) if f.name != "epoch")
        row.update((f.name, getattr(self.provenance, f.name)) for f in fields(self.provenance))
        return row

    def trace_rows(self) -> list[dict[str, Any]]:
        """One flat row for each trace point, keyed by trial_id."""
        trial_id = self.config.trial_id
        return [{"trial_id": trial_id, **{f.name: getattr(p, f.name) for f in fields(p)}} for p in self.trace]


RESULT_COLUMNS = tuple(f.name for f in fields(TrialResult) if f.name not in {"config", "trace", "provenance"})
"""Fields of `TrialResult` that are columns themselves."""
