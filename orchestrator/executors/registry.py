"""The table of places to run: what `--executor NAME` means."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module

from orchestrator.errors import SweepError, unknown_name
from orchestrator.executors.executor import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """What a launch asks of the place where its packs run.

    Args:
        states_root: Folder or URI of half-done trials' states.
        device: Kind of device to train on; None: what the cluster has.
        cpus_per_trial: Threads of a pack on a CPU.
        address: The Ray cluster to join; None: this machine.
        max_nodes: Nodes that an autoscaled cluster may grow to.
        slots_per_node: Packs that one of those nodes runs at once.
    """

    states_root: str
    device: str | None = None
    cpus_per_trial: int = 1
    address: str | None = None
    max_nodes: int | None = None
    slots_per_node: int | None = None


Connect = Callable[[ExecutorSettings], AbstractContextManager[Executor]]
"""Makes an executor; leaving the context lets go of what it runs on."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place to run: `connect`, or its `module:function`; `takes_address` where `--address` means something there."""

    connect: Connect | str
    takes_address: bool = False


EXECUTORS = {
    "ray": Place("orchestrator.executors.ray_connection:connect", takes_address=True),
    "inline": Place("orchestrator.executors.inline:connect"),
}
"""By name: Ray takes a second to import."""


def executor(name: str, *, takes_address: bool = False) -> Callable[[Connect], Connect]:
    """Enter the function that follows as a place to run, here or in a user's module (`--module`)."""

    def enter(connect: Connect) -> Connect:
        EXECUTORS[name] = Place(connect, takes_address)
        return connect

    return enter


def place_named(name: str) -> Place:
    """The place of that name; raises `SweepError` with the nearest one for an unknown name."""
    if name not in EXECUTORS:
        raise SweepError(unknown_name("executor", name, EXECUTORS))
    return EXECUTORS[name]


def connected(name: str, settings: ExecutorSettings) -> AbstractContextManager[Executor]:
    """The executor of that name, connected to what it runs on."""
    connect = place_named(name).connect
    if isinstance(connect, str):
        module, _, function = connect.partition(":")
        found: Connect = getattr(import_module(module), function)
        return found(settings)
    return connect(settings)
