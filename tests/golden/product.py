"""Everything that the golden tests import from the product: when modules are renamed, only these lines change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.sweeps.registry import find_sweep, load_sweeps
from trainables.contract import Member
from trainables.registry import config_from_values, workload

LAUNCH = "orchestrator.launch"
"""What `python -m` runs."""

SWEEP_IMPORTS = """
from orchestrator.sweeps.claim_rule import ClaimRule
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep
from search_spaces.space import LogIntegers, LogUniform
"""
"""The first lines of a user's module of sweeps."""


def config_names(values: Mapping[str, Any]) -> dict[str, str]:
    """What names the trial of these values; columns of a row that are not fields of its config are left out."""
    fields = workload(values["workload"]).config_type.model_fields
    config = config_from_values({name: value for name, value in values.items() if name in fields})
    return {"trial_id": config.trial_id, "trajectory_id": config.trajectory_id, "json": config.canonical_json()}


def sweep_trials() -> dict[str, list[str]]:
    """Ids of all trials of every named sweep, in the order that they are run in."""
    own = [name for name, make in load_sweeps().items() if not make.__module__.startswith(("my_sweeps", "tests."))]
    return {name: [config.trial_id for config in find_sweep(name).configs()] for name in own}


def trained(values: Mapping[str, Any], engine: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Row and trace of that trial, trained by that engine."""
    config = config_from_values(values)
    run = workload(config.workload).open([Member(config, config.num_epochs)], engine=engine)
    while not run.is_done:
        for report in run.advance(60.0):
            if report.result is not None:
                result = report.result
    return result.trial_row(), result.trace_rows()
