"""Registers what users' modules add for the time of a test, since other tests list what the product itself has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from orchestrator.figures.registry import FIGURES
from orchestrator.sweeps.registry import SWEEPS
from orchestrator.sweeps.setups import SETUPS
from trainables import names
from trainables.registry import WORKLOADS, workload

TABLES: Sequence[dict[Any, Any]] = (WORKLOADS, names._OPTIMIZERS, names._PLACES, names.OPTIMIZER_TRAITS)
GROWING: Sequence[dict[Any, Any]] = (SWEEPS, FIGURES, SETUPS)
"""Ours enter these when they are first asked for: what a user's module entered is taken out again, and nothing else."""

TOYS = tuple(f"tests.contracts.toy.{name}" for name in ("optimizer", "workload", "figure", "sweeps"))


@contextmanager
def registered(*modules: str) -> Iterator[None]:
    """Import these modules within the block, with what they register; afterwards restore the tables."""
    before = [dict(table) for table in TABLES]
    added = [_added_by(module) for module in modules]
    try:
        for of_module in added:
            for table, more in zip((*TABLES, *GROWING), of_module, strict=True):
                table.update(more)
        yield
    finally:
        for table, entries in zip(TABLES, before, strict=True):
            table.clear()
            table.update(entries)
        for of_module in added:
            for table, more in zip(GROWING, of_module[len(TABLES) :], strict=True):
                for key in more:
                    table.pop(key, None)
        workload.cache_clear()


@cache
def _added_by(module: str) -> list[dict[Any, Any]]:
    """What a module added to the tables, kept because it is executed only once."""
    tables = (*TABLES, *GROWING)
    before = [dict(table) for table in tables]
    import_module(module)
    return [
        {key: entry for key, entry in table.items() if key not in entries}
        for table, entries in zip(tables, before, strict=True)
    ]
