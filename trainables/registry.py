"""Registers and opens workloads by name. It imports neither torch nor ray, so that planning starts fast."""

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

    Workers import the class by its place, `module:class`, so define it at the top level of a module that they can
    import. Raises `ConfigError` for a name that another module has taken, and for a class that lacks a part of
    `Workload`.
    """
    if not isinstance(name, str):
        raise ConfigError(f'a workload is registered under a name, as in @register_workload("mine"), got {name!r}')

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
    """Return the workload of that name, the same object in every call.

    Args:
        name: `two_layer_cnn` (the synthetic model, Definitions 3.1 and 3.2), `sign_agreement`, `image_classifier`, or
            a name that a user's module has registered. A place (`module:class`) works also in a process that has not
            imported the module that registers the name.

    Raises:
        ConfigError: There is no such workload. The message offers the nearest name.

    Example:
        >>> from trainables import workload
        >>> workload("two_layer_cnn").devices
        ('cpu',)
        >>> workload("two_layer_cn")
        Traceback (most recent call last):
        trainables.errors.ConfigError: unknown workload 'two_layer_cn'; did you mean 'two_layer_cnn'? (known: ...)
    """
    if ":" not in name and name not in WORKLOADS:
        raise ConfigError(unknown_name("workload", name, WORKLOADS))
    found: Workload = open_place(WORKLOADS.get(name, name))()
    return found


def place_of(config: TrialConfig) -> str:
    """The place of a trial's workload, as `module:class`."""
    workload(config.workload)
    return WORKLOADS[config.workload]


def config_from_values(values: Mapping[str, Any]) -> TrialConfig:
    """Return the config that a flat mapping describes, with the workload's defaults for missing fields.

    Args:
        values: Fields by name. `workload` (a name or a place), `optimizer`, `weight_decay`, `batch_size` and `seed`
            have no defaults.

    Raises:
        ConfigError: One line names every fault, with the nearest name for an unknown one.

    Example:
        >>> from trainables import config_from_values
        >>> adam = {"optimizer": "adam", "weight_decay": 1e-5}
        >>> values = {"workload": "two_layer_cnn", **adam, "batch_size": 20, "seed": 0}
        >>> config_from_values(values).dimension
        1000
        >>> config_from_values({**values, "batch_size": 0})
        Traceback (most recent call last):
        trainables.errors.ConfigError: batch_size: input should be greater than or equal to 1, got 0
    """
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
    """The workload's name as its configs have it."""
    return str(config_type.model_fields["workload"].default)
