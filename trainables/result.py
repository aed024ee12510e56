"""The types of a trial's result: trace points, an outcome, and the provenance of the numbers.

Each column of the results is a field of one of these types; its name is defined only here. MLflow shows a field that
is marked `METRIC` as a metric, any other field of a result or its provenance as a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from trainables.certificates import Certificate
from trainables.config import TrialConfig
from trainables.redaction import redacted

METRIC: Mapping[str, bool] = MappingProxyType({"is_metric": True})
"""Marks a field whose column is a number to be compared and plotted: `field(metadata=METRIC)`."""


class Outcome(StrEnum):
    """A trial ends in one of these ways; the value is in the column `outcome` of the results.

    `trainables.outcome` sets the thresholds. The error rate of a stuck or diverged trial means nothing, so it is left
    out of all means. The first five outcomes settle a trial: a later launch does not run it again.

    Example:
        >>> from trainables import Outcome
        >>> Outcome("stuck") is Outcome.STUCK
        True
        >>> print(Outcome.MEMORIZED)
        memorized
    """

    LEARNED = "learned"
    """Training error about 0, test error low."""
    MEMORIZED = "memorized"
    """Training error about 0, test error high."""
    STUCK = "stuck"
    """Training loss at that of equal outputs, and the weight norm collapsed."""
    UNDERFIT = "underfit"
    """Ran to the end, training error above about 0, and not stuck."""
    DIVERGED = "diverged"
    """A weight or the loss became non-finite."""
    PRUNED = "pruned"
    """Stopped by a scheduler."""
    UNFINISHED = "unfinished"
    """Stopped before its last epoch for another reason."""
    FAILED = "failed"
    """Raised an exception; the row has its traceback."""


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
        """All measured losses."""
        return (self.train_loss,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where and with what a trial ran, recorded on the worker; columns, never part of a trial's name.

    `side_by_side` is the largest number of members of its pack that trained on its device at once, itself included.
    `peak_memory_bytes` is the most memory that its process reserved on a GPU, images included (null on a CPU).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """A worker returns this for each trial: what it trained, how the trial ended, what it measured, and where.

    Args:
        config: What was trained.
        outcome: How it ended.
        epochs_done: Number of epochs trained. A stuck trial with fewer epochs than its config was stopped for its
            certificate.
        trace: Measurements in the order of epochs. The first is of the initial weights, at epoch 0.
        data_digest: Hash of the training and test data; None if the trial failed before it opened them. Two trials
            with equal digests saw the same data.
        init_digest: Hash of the initial weights, in the same way.
        order_digest: Hash of the order of the batches, in the same way.
        train_seconds: Wall seconds of training, over all launches that trained it.
        finished_at: When it ended, in seconds since 1970.
        provenance: The engine, device, code and library versions that produced the numbers.
        pack_id: The pack that it was trained in; None outside of a sweep.
        attempt: Number of tries of this trial, including this one.
        error: The traceback of a failed trial, without secrets; None for others.
        certificate: The proof of how the trial ends (`trainables.certificates`); None if it has no certificate.
        certificate_epoch: The epoch at which the certificate was found; None without a certificate.

    Example:
        >>> from trainables import Member, config_from_values, workload
        >>> adam = {"optimizer": "adam", "weight_decay": 1e-5}
        >>> values = {"workload": "two_layer_cnn", **adam, "batch_size": 20, "seed": 0}
        >>> config = config_from_values({**values, "num_epochs": 5})
        >>> (report,) = workload("two_layer_cnn").open([Member(config, until_epoch=5)]).advance(seconds=60)
        >>> report.result.epochs_done, report.result.trace[-1].epoch
        (5, 5)
        >>> report.result.trial_row()["weight_decay"]
        1e-05
    """

    config: TrialConfig
    outcome: Outcome
    epochs_done: int = field(metadata=METRIC)
    trace: tuple[TracePoint, ...]
    data_digest: str | None
    init_digest: str | None
    order_digest: str | None
    train_seconds: float = field(metadata=METRIC)
    finished_at: float
    provenance: Provenance
    pack_id: str | None = None
    attempt: int = 1
    error: str | None = None
    certificate: Certificate | None = None
    certificate_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.error is not None:
            object.__setattr__(self, "error", redacted(self.error))

    @property
    def trial_id(self) -> str:
        """The config's name."""
        return self.config.trial_id

    @property
    def was_stopped(self) -> bool:
        """Whether the trial was stopped for its certificate: it is stuck and was not trained to its last epoch."""
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
        """One flat row for each trace point, each with the trial_id."""
        trial_id = self.config.trial_id
        return [{"trial_id": trial_id, **{f.name: getattr(p, f.name) for f in fields(p)}} for p in self.trace]


RESULT_COLUMNS = tuple(f.name for f in fields(TrialResult) if f.name not in {"config", "trace", "provenance"})
"""Fields of `TrialResult` that are columns themselves; the others are objects whose fields are columns."""

METRIC_COLUMNS = tuple(
    f.name for of_type in (TrialResult, Provenance) for f in fields(of_type) if f.metadata.get("is_metric")
)
"""Columns whose field says that it is a metric."""
