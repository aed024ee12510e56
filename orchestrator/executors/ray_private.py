"""Keeps a launch's Ray private: nobody else may talk to one on this machine, and no log has the launch's keys.

Whoever may talk to a Ray runs code as its user. By default a local Ray listens on all interfaces, keeps its token in a
file that every user of the machine can read, and publishes metrics without asking for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from ray._private import ray_constants

_NO_METRICS = {"RAY_enable_metrics_collection": "0", "DASHBOARD_METRIC_PORT": "-1", "AUTOSCALER_METRIC_PORT": "-1"}
"""Two of Ray's three servers of metrics have no switch; on port -1 they fail to start, and Ray goes on without them."""
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def private_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for the processes of a local Ray; a token that the user's `environment` names is kept."""
    settings = {**_NO_METRICS, ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
    if not any(name in environment for name in _TOKEN_VARIABLES):
        settings["RAY_AUTH_TOKEN"] = _token()
    return settings


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray start on 127.0.0.1; this process has read the variable that says so when it imported Ray."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def keys_not_sent() -> Iterator[None]:
    """Let Tune send no AWS keys to its workers: they have their own, and Ray writes those into logs of each node."""
    from ray.tune.execution import class_cache  # imports all of Tune, while Ray starts

    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


@cache
def _token() -> str:
    """A token for the local Rays of this process, in no file; each process of Ray reads its token once."""
    return secrets.token_hex(32)
