"""Connects to the Ray cluster of a launch, or starts one on this machine, in the background."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from orchestrator.errors import ClusterError, first_line, last_line
from orchestrator.executors.ray_private import on_loopback, private_settings
from trainables.provenance import code_digest

_LOCAL_SETTINGS = {
    # Tune's actors have their own runtime environment, so workers started ahead would never be used.
    "RAY_prestart_worker_first_driver": "0",
}
_VARIABLES = "LAMBDA_ATLAS_"
"""Environment variables with this prefix are passed from the driver to the workers of a cluster that it joins."""
_TOKEN_FAULT = "InvalidAuthToken"
_PROBE_SECONDS = 5.0
_CODE_CHECK_SECONDS = 120.0


@contextmanager
def default_environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set the environment variables that are not set, and unset them afterwards, since other Tune runs read them."""
    absent = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(absent)
    try:
        yield
    finally:
        for name in absent:
            os.environ.pop(name, None)


class Cluster:
    """A local Ray, or the cluster at `address`; it connects in a separate thread, so that imports need not wait.

    Raises `ClusterError` at once if nothing listens at the address, and from `wait` for later failures.
    """

    def __init__(self, address: str | None = None) -> None:
        if address is not None:
            _probe(address)
        self._thread = ThreadPoolExecutor(1, "ray-cluster")
        self._connected = self._thread.submit(_connect, address)

    def wait(self) -> None:
        """Return when connected; raises `ClusterError` if that failed."""
        self._connected.result()

    def leave(self) -> None:
        """Begin to disconnect, and to stop a local cluster; returns at once."""
        # Tune leaves cycles that hold actor handles. If one is collected here while Ray shuts down in the other thread,
        # its finalizer finds a worker that is half shut down, and Ray ends the process.
        gc.disable()
        self._thread.submit(_shut_down)

    def close(self) -> None:
        """Disconnect; returns when that is done."""
        self.leave()
        self._thread.shutdown()


def _shut_down() -> None:
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _connect(address: str | None) -> None:
    if address is None:
        with default_environment({**_LOCAL_SETTINGS, **private_settings(os.environ)}), on_loopback():
            # "local": otherwise Ray would join any cluster that it finds, without the checks below
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        return
    try:
        ours = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        environment = {"runtime_env": {"env_vars": ours}} if ours else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **environment)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if _TOKEN_FAULT in str(error.__cause__):
            raise ClusterError(
                f"the Ray cluster at --address {address} refuses this token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
            ) from None
        raise ClusterError(f"no Ray cluster at --address {address}: {first_line(error)}") from None
    _check_same_code()


def _probe(address: str) -> None:
    """Fail within seconds if nothing listens: Ray itself would retry for minutes."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"--address is HOST:PORT of the cluster's head node, or auto, not a Ray Client address: got {address}"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster at --address {address}: {error.strerror or error}") from None


def _check_same_code() -> None:
    """Raise `ClusterError` if workers have another `trainables`: they would write wrong rows under right ids."""
    try:
        remote_digest = ray.get(ray.remote(num_cpus=0)(_digest).remote(), timeout=_CODE_CHECK_SECONDS)
    except RayError as error:
        raise ClusterError(
            f"lambda-atlas does not run on the cluster's nodes: {last_line(str(error) or type(error).__name__)}"
        ) from None
    if remote_digest != code_digest():
        raise ClusterError(
            f"the cluster runs other code (trainables {remote_digest}) than this driver ({code_digest()}): "
            "install the same version on both"
        )


def _digest() -> str:
    """Call `code_digest`: ray.remote rejects functools.cache objects, but accepts this plain function."""
    return code_digest()
