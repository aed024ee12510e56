"""The registry of named sweeps: `@sweep` registers a function that makes one, here or in a user's module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TypeVar, overload

from orchestrator.errors import SweepError, unknown_name
from orchestrator.sweeps.moved import place_of
from orchestrator.sweeps.reserved import RESERVED
from orchestrator.sweeps.value import Sweep

_MODULES = ("orchestrator.sweeps.named_grids", "orchestrator.sweeps.named_maps")

SweepFunction = Callable[..., Sweep]
"""Makes a sweep; a function with a parameter `workload` offers `--workload`."""

SWEEPS: dict[str, SweepFunction] = {}


Registered = TypeVar("Registered", bound=SweepFunction)


@overload
def sweep(function: Registered) -> Registered: ...


@overload
def sweep() -> Callable[[Registered], Registered]: ...


def sweep(function: Registered | None = None) -> Registered | Callable[[Registered], Registered]:
    """Register a function that returns a sweep, so that the command line finds it by the function's name.

    `python -m orchestrator.launch NAME --module my_sweeps` runs it from `my_sweeps.py`. `@sweep()` is the same.

    Args:
        function: Returns a `Sweep` with the function's name. If it takes a `workload`, `--workload` chooses one.

    Returns:
        The same function.

    Raises:
        SweepError: Another module has registered the name, or it is a command's; `orchestrator.launch` knows those.

    Example:
        >>> from orchestrator import Grid, Sweep, sweep
        >>> @sweep
        ... def sparsity() -> Sweep:
        ...     arms = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
        ...     grid = Grid(arms, axes={"noise_sparsity": (10, 100), "batch_size": (20, 200)})
        ...     return Sweep("sparsity", "Error against noise sparsity", (grid,))
        >>> sparsity().num_trials
        40
    """
    if function is None:
        return sweep
    name = function.__name__
    if name in RESERVED:
        raise SweepError(f"{name!r} is a command of launch: choose another name for the sweep")
    if name in SWEEPS and SWEEPS[name].__module__ != function.__module__:
        raise SweepError(f"a sweep named {name!r} is registered by {SWEEPS[name].__module__}: choose another name")
    SWEEPS[name] = function
    return function


def find_sweep(name: str, module: str | None = None, workload: str | None = None) -> Sweep:
    """The sweep of that name, after importing the user's module; raises `SweepError` with the nearest name."""
    known = load_sweeps(module)
    if name not in known:
        raise SweepError(unknown_name("sweep", name, known))
    if workload is None:
        found = known[name]()
    elif takes_workload(known[name]):
        found = known[name](workload)
    else:
        raise SweepError(f"the sweep {name} has one workload, {known[name]().workload}: it takes no --workload")
    if not isinstance(found, Sweep):
        raise SweepError(f"the function {name} must return a Sweep, got {found!r}")
    if workload is not None and found.name != name and found.name in known:
        raise SweepError(f"{name} with --workload {workload} would be {found.name}, another sweep: rename one of them")
    expected = {name, f"{name}_{workload}"}
    if found.name not in expected:  # else its lease, figures and MLflow run would be another sweep's
        raise SweepError(f"the function {name} returns a sweep named {found.name!r}: give both the same name")
    return found


def takes_workload(function: SweepFunction) -> bool:
    """Whether the sweep runs on several workloads, so that `--workload` may choose one."""
    return "workload" in signature(function).parameters


def load_sweeps(module: str | None = None) -> dict[str, SweepFunction]:
    """All registered sweeps, after importing the user's module (also from the current folder)."""
    for own in _MODULES:
        import_module(own)
    if module is not None:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        if not all(part.isidentifier() for part in module.split(".")):
            raise SweepError(f"--module is a module's name as in `import my_sweeps`, got {module!r}")
        try:
            import_module(module)
        except ImportError as error:
            if (new_place := place_of(error)) is not None:
                raise SweepError(f"{module} imports {new_place}") from None
            is_absent = isinstance(error, ModuleNotFoundError) and error.name is not None
            if not is_absent or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise SweepError(f"no module {module!r} in the current folder or on PYTHONPATH") from None
        except SyntaxError as error:
            if error.filename is not None:
                raise
            raise SweepError(f"--module {module} is no Python source: {error}") from None
        except SystemExit as end:
            raise SweepError(f"--module {module} ends the process when it is imported (exit code {end.code})") from None
    return SWEEPS
