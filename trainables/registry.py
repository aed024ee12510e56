"""Workloads by name; imports neither torch nor ray, so that planning stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from trainables.config import TrialConfig
from trainables.contract import Workload
from trainables.errors import ConfigError, unknown_name
from trainables.names import open_place

WORKLOADS = {
    "two_layer_cnn": "trainables.two_layer_cnn.workload:TwoLayerCNN",
    "sign_agreement": "trainables.sign_agreement.workload:SignAgreement",
    "image_classifier": "trainables.image_classifier.workload:ImageClassifier",
}
"""Workload name -> `module:class`."""

WorkloadClass = TypeVar("WorkloadClass", bound=type[Any])


def register_workload(name: str) -> Callable[[WorkloadClass], WorkloadClass]:
    """Add a workload from any module: `@register_workload("my_name")` above its class.

    Workers open it by its place, `module:class`, so the class lies at the top of a module that they can import.
    Raises `ConfigError` for a name that another module has taken, and for a class that lacks part of `Workload`.
    """

    def enter(workload_class: WorkloadClass) -> WorkloadClass:
        place = f"{workload_class.__module__}:{workload_class.__qualname__}"
        taken = WORKLOADS.get(name, place)
        if taken.partition(":")[0] != workload_class.__module__:
            raise ConfigError(f"a workload named {name!r} is registered as {taken}: choose another name")
        _check_class(name, workload_class)
        WORKLOADS[name] = place
        workload.cache_clear()
        return workload_class

    return enter


@cache
def workload(name: str) -> Workload:
    """The workload of that name, or at that place (`module:class`); raises `ConfigError` for an unknown one.

    A place serves a process that has not imported the module which registers the name.
    """
    if ":" not in name and name not in WORKLOADS:
        raise ConfigError(unknown_name("workload", name, WORKLOADS))
    found: Workload = open_place(WORKLOADS.get(name, name))()
    return found


def place_of(config: TrialConfig) -> str:
    """Where the workload of a trial lies, as `module:class`."""
    workload(config.workload)
    return WORKLOADS[config.workload]


def config_from_values(values: Mapping[str, Any]) -> TrialConfig:
    """A flat mapping as a config, its `workload` a name or a place; `ConfigError` has every fault in one line."""
    if "workload" not in values:
        raise ConfigError(f"a trial needs a workload (known: {', '.join(sorted(WORKLOADS))})")
    name = str(values["workload"])
    found = workload(name)
    return found.config({**values, "workload": _name_of(found.config_type)} if ":" in name else values)


def _check_class(name: str, workload_class: type[Any]) -> None:
    parts = {part for part in (*Workload.__annotations__, *vars(Workload)) if not part.startswith("_")}
    absent = {part for part in parts if not hasattr(workload_class, part)}
    if lacking := absent | getattr(workload_class, "__abstractmethods__", frozenset()):
        raise ConfigError(f"workload {name!r} lacks {', '.join(sorted(lacking))}: see trainables.contract.Workload")
    if (configs := _name_of(workload_class.config_type)) != name:
        raise ConfigError(f"workload {name!r} has configs of workload {configs!r}: give both one name")


def _name_of(config_type: type[TrialConfig]) -> str:
    """The name that a workload's configs have."""
    return str(config_type.model_fields["workload"].default)
