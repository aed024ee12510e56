"""Connects to the Ray cluster of a launch, or starts one on this machine, in the background."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from orchestrator.errors import ClusterError, RayEndedError, first_line, last_line
from orchestrator.executors.failures.ray_watch import RayWatch
from orchestrator.executors.ray_address import check_address
from orchestrator.executors.ray_private import on_loopback, private_settings
from orchestrator.executors.ray_signals import handlers_kept, own_session
from orchestrator.process.reaper import MARK
from orchestrator.process.stopping import requested
from trainables.machine.cpus import usable_cpus
from trainables.provenance import code_digest, code_place

_LOCAL_SETTINGS = {
    # Tune's actors have their own runtime environment, so workers started ahead would never be used.
    "RAY_prestart_worker_first_driver": "0",
    # Ray's agents show their titles where their environment was, and so the mark by which the reaper finds them.
    "SPT_NOENV": "1",
}
_VARIABLES = "LAMBDA_ATLAS_"
"""Environment variables with this prefix are passed from the driver to the workers of a cluster that it joins."""
_TOKEN_FAULT = "InvalidAuthToken"
_CODE_CHECK_SECONDS = 120.0
_LOOK_SECONDS = 0.2


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

    A local Ray writes its files into `folder`. Raises `ClusterError` within seconds if no cluster answers at the
    address, and from `wait` for later failures.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        if address is not None:
            check_address(address)
        self.is_local = address is None
        self._watch: RayWatch | None = None
        self._thread = ThreadPoolExecutor(1, "ray-cluster")
        self._connected = (
            self._thread.submit(_start, folder) if address is None else self._thread.submit(_join, address)
        )

    def wait(self) -> None:
        """Return when connected; raises `ClusterError` if that failed."""
        self._watch = self._connected.result()

    def check(self) -> None:
        """Raise `RayEndedError` if a local Ray has ended."""
        if self._watch is not None and self._watch.lost is not None:
            raise RayEndedError(self._watch.lost)

    def leave(self) -> None:
        """Begin to disconnect, and to stop a local cluster; returns at once."""
        # Tune leaves cycles that hold actor handles. If one is collected here while Ray shuts down in the other thread,
        # its finalizer finds a worker that is half shut down, and Ray ends the process.
        gc.disable()
        self._thread.submit(self._shut_down)

    def close(self) -> None:
        """Disconnect; returns when that is done, or at once if Ray has ended: disconnecting might wait for it."""
        self.leave()
        self._thread.shutdown(wait=self._watch is None or self._watch.lost is None)

    def _shut_down(self) -> None:
        try:
            # A launch that was stopped while it connected has not waited for the result, but its thread has one.
            if self._connected.exception() is None and (watch := self._connected.result()) is not None:
                watch.close()
            with handlers_kept():
                ray.shutdown()
        finally:
            gc.enable()


def _start(folder: Path) -> RayWatch:
    """Start a Ray on this machine."""
    try:
        settings = {**_LOCAL_SETTINGS, **private_settings(os.environ), MARK: str(folder)}
        with default_environment(settings), on_loopback(), _without_uv_hook(), own_session(), handlers_kept():
            # "local": otherwise Ray would join any cluster that it finds, without the checks below
            ray.init(
                address="local",
                num_cpus=usable_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(folder),
            )
    except Exception as error:  # of whatever type: of Ray's processes, files, ports
        raise ClusterError(
            f"Ray did not start on this machine: {first_line(error)} (its logs are in {folder}; --executor inline runs "
            "without Ray)"
        ) from error
    _check_same_code(None)
    return RayWatch()


@contextmanager
def _without_uv_hook() -> Iterator[None]:
    """Let workers use this process's environment also under `uv run`: Ray would upload the current folder to them."""
    before, ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV, False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before


def _join(address: str) -> None:
    """Join the Ray cluster at an address."""
    try:
        ours = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        environment = {"runtime_env": {"env_vars": ours}} if ours else {}
        with handlers_kept():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **environment)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
        if _TOKEN_FAULT in str(error.__cause__):
            raise ClusterError(
                f"the Ray cluster at --address {address} refuses this token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
            ) from None
        raise ClusterError(f"no Ray cluster at --address {address}: {first_line(error)}") from None
    _check_same_code(address)


def _check_same_code(address: str | None) -> None:
    """Raise `ClusterError` if workers have another `trainables`: they would write wrong rows under right ids."""
    where = "the workers of a local Ray" if address is None else f"the nodes of the cluster at {address}"
    try:
        answer = ray.remote(num_cpus=0)(_code).remote()
        deadline = time.monotonic() + _CODE_CHECK_SECONDS
        while not ray.wait([answer], timeout=_LOOK_SECONDS)[0] and time.monotonic() < deadline:
            if requested():  # the launch waits for this thread, to leave the cluster
                return
        digest, place = ray.get(answer, timeout=0)
    except RayError as error:
        raise ClusterError(
            f"lambda-atlas does not run on {where}: {last_line(str(error) or type(error).__name__)}"
        ) from None
    if digest == code_digest():
        return
    found = f"{where} import other code ({place}, digest {digest}) than this launch ({code_place()}, {code_digest()})"
    if address is None:
        raise ClusterError(f"{found}: start it in another folder, or as `python -m orchestrator.launch` in that one")
    raise ClusterError(f"{found}: install the same version on both")


def _code() -> tuple[str, str]:
    """Digest and place of a process's `trainables`; ray.remote rejects functools.cache objects, but takes this."""
    return code_digest(), code_place()
