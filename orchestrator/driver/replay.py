"""Trains one recorded trial again, from its row alone, and says whether it gives the same numbers.

A replay needs neither Ray nor the sweep: a row has the whole config, the engine, the device and the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from orchestrator.errors import LedgerError, SweepError, last_line
from orchestrator.ledger.ledger import Ledger
from trainables.config import TrialConfig
from trainables.contract import Member
from trainables.provenance import NO_ENGINE
from trainables.registry import WORKLOADS, config_from_values, workload
from trainables.result import Outcome, Provenance, TrialResult

_COMPARED = ("outcome", "epochs_done", "data_digest", "init_digest", "order_digest", "certificate", "certificate_epoch")
"""Columns of a trial that must be equal, beside its trace."""
_MAY_DIFFER = {"hostname", "side_by_side", "peak_memory_bytes", "git_sha", "git_dirty"}
"""What may differ without a reason to expect other numbers; `code_digest` tells whether the code changed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not equal, as it was recorded and as it is now."""

    what: str
    recorded: Any
    now: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay found.

    Args:
        num_numbers: How many numbers and digests were compared.
        differences: Those that differ, in the order of epochs.
        circumstances: What else differs, and may be the reason: code, versions, processor, device.
        is_on_gpu: Whether it was trained on a GPU, where bits are not promised.
    """

    num_numbers: int
    is_on_gpu: bool
    differences: Sequence[Difference]
    circumstances: Sequence[Difference]

    @property
    def is_identical(self) -> bool:
        """Whether every number is equal to the bit."""
        return not self.differences


def replay(ledger: Ledger, trial_id: str) -> Replay:
    """Train a trial again as its row says and compare every number.

    Raises `LedgerError` if the ledger has no such trial, `SweepError` if this code or these data cannot train it.
    """
    row, trace = recorded(ledger, trial_id)
    result = _trained(_config_of(row), row)
    if result.error and not row["error"]:
        raise SweepError(f"trial {trial_id} cannot be trained here: {last_line(result.error)}")
    errors = [last_line(text) if text else None for text in (row["error"], result.error)]
    compared = [("error", errors[0], errors[1])]
    compared += [(name, row[name], result.trial_row()[name]) for name in _COMPARED]
    compared += _of_trace(trace, result)
    now = {field.name: getattr(result.provenance, field.name) for field in fields(Provenance)}
    return Replay(
        num_numbers=len(compared),
        is_on_gpu=row["device"] == "cuda",
        differences=[Difference(*one) for one in compared if not _equal(*one[1:])],
        circumstances=[
            Difference(name, row[name], value)
            for name, value in now.items()
            if name not in _MAY_DIFFER and row[name] != value
        ],
    )


def recorded(ledger: Ledger, trial_id: str) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The row and the trace of a trial of any known workload; raises `LedgerError` if there is none."""
    for name in WORKLOADS:
        if rows := ledger.trials(name, trial_ids=[trial_id]).to_pylist():
            return rows[0], ledger.traces(name, trial_ids=[trial_id]).to_pylist()
    raise LedgerError(
        f"{ledger.root} has no trial {trial_id!r}: give the 16 digits of its trial_id, "
        "and --module for a workload of your own"
    )


def _config_of(row: Mapping[str, Any]) -> TrialConfig:
    names = workload(row["workload"]).config_type.model_fields
    config = config_from_values({name: row[name] for name in names})
    if config.trial_id != row["trial_id"]:
        raise SweepError(
            f"the row of {row['trial_id']} describes another trial to this code ({config.trial_id}): it was recorded "
            f"for version {row['workload_version']} of {row['workload']}, and this is {type(config).numeric_version}"
        )
    return config


def _trained(config: TrialConfig, row: Mapping[str, Any]) -> TrialResult:
    """The result of training it as far as its row got, stopped for a certificate only if the row was."""
    settled = row["outcome"] not in (Outcome.UNFINISHED, Outcome.PRUNED)
    may_stop = row["outcome"] == Outcome.STUCK and row["epochs_done"] < config.num_epochs
    member = Member(config, config.num_epochs if settled else row["epochs_done"], may_stop=may_stop)
    found = workload(config.workload)
    engine = None if row["engine"] == NO_ENGINE else row["engine"]
    run = found.open([member], row["device"], engine, num_threads=row["num_threads"])
    while True:
        for report in run.advance(math.inf):
            if report.result is not None:
                pruned = row["outcome"] == Outcome.PRUNED  # a search's verdict, which training cannot give
                return replace(report.result, outcome=Outcome.PRUNED) if pruned else report.result


def _of_trace(trace: Sequence[Mapping[str, Any]], result: TrialResult) -> list[tuple[str, Any, Any]]:
    """Name, recorded value and new value of each number of the trace; a point that only one has counts as a number."""
    before = {row["epoch"]: row for row in trace}
    after = {row["epoch"]: row for row in result.trace_rows()}
    names = [field.name for field in fields(workload(result.config.workload).trace_point_type) if field.name != "epoch"]
    compared: list[tuple[str, Any, Any]] = []
    for epoch in sorted({*before, *after}):
        if epoch in before and epoch in after:
            compared += [(f"{name} at epoch {epoch}", before[epoch][name], after[epoch][name]) for name in names]
        else:
            is_measured = ["measured" if epoch in one else None for one in (before, after)]
            compared.append((f"epoch {epoch}", is_measured[0], is_measured[1]))
    return compared


def _equal(recorded: Any, now: Any) -> bool:
    """Whether both are the same value; nan is nan."""
    return bool(recorded == now or (recorded != recorded and now != now))
