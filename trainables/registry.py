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
    """The workload of that name; raises `ConfigError` for an unknown one."""
    if name not in WORKLOADS:
        raise ConfigError(unknown_name("workload", name, WORKLOADS))
    module, _, attribute = WORKLOADS[name].partition(":")
    found: Workload = getattr(import_module(module), attribute)()
    return found


def config_from_values(values: Mapping[str, Any]) -> TrialConfig:
    """A flat mapping with a `workload` entry as a config; raises `ConfigError` with every fault in one line."""
    if "workload" not in values:
        raise ConfigError(f"a trial needs a workload (known: {', '.join(sorted(WORKLOADS))})")
    return workload(str(values["workload"])).config(values)
