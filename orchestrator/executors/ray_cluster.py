"""The Ray cluster of a launch: joined, or started on this machine, while the driver does other things."""

from __future__ import annotations

import gc
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import ray
from ray.exceptions import RayError

from orchestrator.errors import ClusterError, first_line, last_line
from trainables.provenance import code_digest

_LOCAL_SETTINGS = {
    # Tune's actors have a runtime environment of their own: workers started ahead would never be used.
    "RAY_prestart_worker_first_driver": "0",
}
_VARIABLES = "LAMBDA_ATLAS_"
"""Variables of the driver that begin so reach the workers of a cluster that it joins."""
_TOKEN_FAULT = "InvalidAuthToken"
_PROBE_SECONDS = 5.0
_CODE_CHECK_SECONDS = 120.0


class Cluster:
    """A local Ray, or the cluster at `address`; connects in a thread of its own, so that imports need not wait.

    Raises `ClusterError` at once where nothing listens, and from `wait` for what is found later.
    """

    def __init__(self, address: str | None = None) -> None:
        if address is not None:
            _probe(address)
        self._thread = ThreadPoolExecutor(1, "ray-cluster")
        self._connected = self._thread.submit(_connect, address)

    def wait(self) -> None:
        """Return when connected."""
        self._connected.result()

    def leave(self) -> None:
        """Begin to disconnect; a local cluster ends. Returns at once."""
        # Tune leaves cycles that hold actor handles. If one is collected here while Ray shuts down in the other thread,
        # its finalizer finds a worker that is half gone, and Ray ends the process.
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
        for name, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(name, value)
        # "local", or Ray would join any cluster that it finds, without the checks below
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
                "RAY_AUTH_TOKEN_PATH to a file with the cluster's"
            ) from None
        raise ClusterError(f"no Ray cluster at --address {address}: {first_line(error)}") from None
    _check_same_code()


def _probe(address: str) -> None:
    """Fail in seconds where nothing listens: Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise ClusterError(f"--address is HOST:PORT of the cluster's head or auto, not a Ray Client's, got {address}")
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster at --address {address}: {error.strerror or error}") from None


def _check_same_code() -> None:
    """A worker that runs another version of `trainables` would write wrong rows under right names."""
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
    """Call `code_digest`: ray.remote rejects functools.cache objects, and takes this plain function."""
    return code_digest()
