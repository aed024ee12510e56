"""Registers what users' modules add for the time of a test, since other tests list what the product itself has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from trainables import names
from trainables.registry import WORKLOADS, workload

TABLES: Sequence[dict[Any, Any]] = (WORKLOADS, names._OPTIMIZERS, names._PLACES, names.OPTIMIZER_TRAITS)
TOYS = ("tests.contracts.toy.optimizer", "tests.contracts.toy.workload")


@contextmanager
def registered(*modules: str) -> Iterator[None]:
    """Import these modules within the block, with what they register; afterwards restore the tables."""
    before = [dict(table) for table in TABLES]
    try:
        for module in modules:
            for table, more in zip(TABLES, _added_by(module), strict=True):
                table.update(more)
        yield
    finally:
        for table, entries in zip(TABLES, before, strict=True):
            table.clear()
            table.update(entries)
        workload.cache_clear()


@cache
def _added_by(module: str) -> list[dict[Any, Any]]:
    """What a module added to the tables, kept because it is executed only once."""
    before = [dict(table) for table in TABLES]
    import_module(module)
    return [
        {key: entry for key, entry in table.items() if key not in entries}
        for table, entries in zip(TABLES, before, strict=True)
    ]
