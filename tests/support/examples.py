"""Finds the tiny trials of each registered workload for the contract tests; they lie beside the workload's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from trainables.registry import WORKLOADS


@dataclass(frozen=True)
class Example:
    """What the contract needs to know of a workload: tiny trials, one that diverges, and the engines that run here."""

    base: dict[str, Any]
    members: Sequence[dict[str, Any]]
    diverging: dict[str, Any]
    engines: Sequence[str]
    seed_draws_data: bool = True


def example_of(name: str) -> Example:
    """`EXAMPLE` of the module `example` in the workload's folder of tests; of a user's workload, in its own."""
    folder = WORKLOADS[name].partition(":")[0].rpartition(".")[0]
    tests = f"tests.{folder}" if folder.startswith("trainables.") else folder
    example: Example = import_module(f"{tests}.example").EXAMPLE
    return example
