"""Makes a result of a ledger's row, so that what another launch recorded counts as if it had been trained here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from orchestrator.ledger.ledger import Ledger
from trainables.certificates import Certificate
from trainables.config import TrialConfig
from trainables.registry import workload
from trainables.result import RESULT_COLUMNS, Outcome, Provenance, TrialResult


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trial as the ledger has it: its row, its trace's rows, and both as a result."""

    result: TrialResult
    row: Mapping[str, Any]
    trace: Sequence[Mapping[str, Any]]


def recorded(ledger: Ledger, name: str, rows: Collection[tuple[TrialConfig, Mapping[str, Any]]]) -> list[Recorded]:
    """The results of rows of one workload, each with its config; takes one reading of the traces."""
    if not rows:
        return []
    points = ledger.traces(name, trial_ids=[config.trial_id for config, _ in rows]).to_pylist()
    traces: dict[str, list[Mapping[str, Any]]] = {config.trial_id: [] for config, _ in rows}
    for point in points:
        traces[point["trial_id"]].append(point)
    return [
        Recorded(result_of(config, row, traces[config.trial_id]), row, traces[config.trial_id]) for config, row in rows
    ]


def result_of(config: TrialConfig, row: Mapping[str, Any], trace: Sequence[Mapping[str, Any]]) -> TrialResult:
    """The result that was recorded as this row and trace."""
    point_type = workload(config.workload).trace_point_type
    values = {name: row[name] for name in RESULT_COLUMNS}
    certificate = values.pop("certificate")
    return TrialResult(
        **{
            **values,
            "config": config,
            "outcome": Outcome(values["outcome"]),
            "trace": tuple(point_type(**{f.name: point[f.name] for f in fields(point_type)}) for point in trace),
            "provenance": Provenance(**{f.name: row[f.name] for f in fields(Provenance)}),
            "certificate": None if certificate is None else Certificate(certificate),
        }
    )
