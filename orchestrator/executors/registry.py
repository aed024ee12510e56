"""The registry of executors: what `--executor NAME` means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from orchestrator.errors import SweepError, unknown_name
from orchestrator.executors.executor import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """What a launch requires of its executor.

    Args:
        states_root: Folder or URI for the states of unfinished trials.
        device: Kind of device to train on; None chooses by what the cluster has.
        cpus_per_trial: Number of CPUs, and so of threads, of a pack on the CPU.
        address: Address of the Ray cluster to join; None stays on this machine.
        max_nodes: Number of worker nodes that an autoscaled cluster may grow to.
        slots_per_node: Number of packs that one of those nodes runs at once.
        stall_seconds: Seconds without a report after which a pack's worker is given up.
    """

    states_root: str
    device: str | None = None
    cpus_per_trial: int = 1
    address: str | None = None
    max_nodes: int | None = None
    slots_per_node: int | None = None
    stall_seconds: float = math.inf


Connect = Callable[[ExecutorSettings], AbstractContextManager[Executor]]
"""Makes an executor; leaving the context releases what it runs on."""


@dataclass(frozen=True, slots=True)
class Place:
    """An entry: `connect` or its `module:function`, and whether `--address` applies (`takes_address`)."""

    connect: Connect | str
    takes_address: bool = False


EXECUTORS = {
    "ray": Place("orchestrator.executors.ray_connection:connect", takes_address=True),
    "inline": Place("orchestrator.executors.inline:connect"),
}
"""The executors by name, imported on use: Ray takes a second to import."""


def executor(name: str, *, takes_address: bool = False) -> Callable[[Connect], Connect]:
    """Register the decorated function as an executor, here or in a user's module (`--module`)."""
    if not isinstance(name, str):
        raise SweepError(f'an executor is registered under a name, as in @executor("mine"), got {name!r}')

    def enter(connect: Connect) -> Connect:
        taken = EXECUTORS.get(name)
        if taken is not None:
            owner = taken.connect.partition(":")[0] if isinstance(taken.connect, str) else taken.connect.__module__
            if owner != connect.__module__:
                raise SweepError(f"an executor named {name!r} is registered by {owner}: choose another name")
        EXECUTORS[name] = Place(connect, takes_address)
        return connect

    return enter


def place_named(name: str) -> Place:
    """The executor's entry of that name; raises `SweepError` with the nearest name for an unknown one."""
    if name not in EXECUTORS:
        raise SweepError(unknown_name("executor", name, EXECUTORS))
    return EXECUTORS[name]


@contextmanager
def connected(name: str, settings: ExecutorSettings) -> Iterator[Executor]:
    """The executor of that name, connected to what it runs on; raises `SweepError` for what is no executor."""
    connect = place_named(name).connect
    if isinstance(connect, str):
        module, _, function = connect.partition(":")
        connect = cast(Connect, getattr(import_module(module), function))
    context = connect(settings)
    if not isinstance(context, AbstractContextManager):
        raise SweepError(f"executor {name!r} must return a context manager, got {context!r}: see @contextmanager")
    with context as executor:
        parts = {*Executor.__annotations__, *vars(Executor)}
        lacking = sorted(part for part in parts if not part.startswith("_") and not hasattr(executor, part))
        if lacking:
            raise SweepError(f"executor {name!r} gives {executor!r}, which lacks {', '.join(lacking)}: see Executor")
        yield executor
