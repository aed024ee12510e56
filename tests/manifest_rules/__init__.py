"""Rules for manifests: functions that take the documents of one rendering and return its faults, one line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

from tests.manifest_rules import kuberay, names, security
from tests.support.manifests import Documents

Rule = Callable[[Documents], Iterator[str]]

RULES: tuple[Rule, ...] = tuple(
    rule
    for module in (kuberay, security, names)
    for name, rule in inspect.getmembers(module, inspect.isfunction)
    if rule.__module__ == module.__name__ and not name.startswith("_")
)


def faults(documents: Documents) -> list[str]:
    """Every fault that any rule finds."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(documents)]
