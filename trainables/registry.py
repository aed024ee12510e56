"""Workloads by name; imports neither torch nor ray, so that planning stays light."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from trainables.config import TrialConfig
from trainables.contract import Workload
from trainables.errors import ConfigError, unknown_name

WORKLOADS = {
    "two_layer_cnn": "trainables.two_layer_cnn.workload:TwoLayerCNN",
    "sign_agreement": "trainables.sign_agreement.workload:SignAgreement",
    "image_classifier": "trainables.image_classifier.workload:ImageClassifier",
}
"""Workload name -> `module:class`."""


@cache
def workload(name: str) -> Workload:
    """Return the workload of that name, the same object in every call.

    Args:
        name: `two_layer_cnn` (the synthetic model, Definitions 3.1 and 3.2), `sign_agreement` or `image_classifier`.

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
    if name not in WORKLOADS:
        raise ConfigError(unknown_name("workload", name, WORKLOADS))
    module, _, attribute = WORKLOADS[name].partition(":")
    found: Workload = getattr(import_module(module), attribute)()
    return found


def config_from_values(values: Mapping[str, Any]) -> TrialConfig:
    """Return the config that a flat mapping describes, with the workload's defaults for what it leaves out.

    Args:
        values: Fields by name. `workload`, `optimizer`, `weight_decay`, `batch_size` and `seed` have no defaults.

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
    return workload(str(values["workload"])).config(values)
