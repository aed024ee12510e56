"""The named sweeps, one function each; a user's own are written the same way in any module (`--module my_sweeps`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from orchestrator.errors import SweepError, unknown_name
from orchestrator.sweep import Grid, Sweep
from search_spaces import paper
from search_spaces.space import decades

SWEEPS: dict[str, Callable[[], Sweep]] = {}


def sweep(function: Callable[[], Sweep]) -> Callable[[], Sweep]:
    """Register a sweep under its function's name; `SweepError` if another module has taken it."""
    name = function.__name__
    if name in SWEEPS and SWEEPS[name].__module__ != function.__module__:
        raise SweepError(f"a sweep named {name!r} is registered by {SWEEPS[name].__module__}: choose another name")
    SWEEPS[name] = function
    return function


def find_sweep(name: str, module: str | None = None) -> Sweep:
    """The sweep of that name, after importing the user's module; `SweepError` offers the nearest name."""
    known = load_sweeps(module)
    if name not in known:
        raise SweepError(unknown_name("sweep", name, known))
    found = known[name]()
    if found.name != name:  # its lease, figures and MLflow run would be another sweep's
        raise SweepError(f"the sweep of function {name} is named {found.name!r}: give both one name")
    return found


def load_sweeps(module: str | None = None) -> dict[str, Callable[[], Sweep]]:
    """All registered sweeps, after importing the user's module (found from the current folder too)."""
    if module is not None:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            raise SweepError(f"no module {module!r} in the current folder or on PYTHONPATH") from None
    return SWEEPS


@sweep
def grid_bsz() -> Sweep:
    """Error against batch size (tables 1-2; figure 1 for the synthetic model)."""
    arms = {optimizer: {"weight_decay": decay} for optimizer, decay in paper.SYNTHETIC_WEIGHT_DECAY.items()}
    return Sweep(
        name="grid_bsz",
        title="Error against batch size",
        grids=(Grid(arms, axes={"batch_size": paper.BATCH_SIZES}, base={"num_epochs": paper.SYNTHETIC_NUM_EPOCHS}),),
        figures=("error_vs_batch_size",),
    )


@sweep
def grid_wd() -> Sweep:
    """Error against weight decay (figure 2 for the synthetic model), finer where the outcomes change."""
    mini = {"batch_size": paper.MINI_BATCH, "num_epochs": 2000}
    large = {"batch_size": paper.LARGE_BATCH, "num_epochs": paper.SYNTHETIC_NUM_EPOCHS}
    finer = {"adam": decades(1e-3, 1e-1, 4), "adamw": decades(1.0, 1e2, 4)}
    grids = []
    for optimizer, between in finer.items():
        values = tuple(sorted({*paper.WEIGHT_DECAYS, *between, paper.SYNTHETIC_LARGE_WEIGHT_DECAY[optimizer]}))
        grids += [Grid({optimizer: {}}, axes={"weight_decay": values}, base=base) for base in (mini, large)]
    return Sweep(
        name="grid_wd",
        title="Error against weight decay",
        grids=tuple(grids),
        figures=("error_vs_weight_decay",),
    )


@sweep
def trace_dynamics() -> Sweep:
    """Feature learning and noise memorization over training (figures 3-6): eight runs."""
    axes = {"batch_size": (paper.LARGE_BATCH, paper.MINI_BATCH)}
    base = {"num_epochs": paper.SYNTHETIC_NUM_EPOCHS}
    grids = tuple(
        Grid({optimizer: {"weight_decay": decay}}, axes, base)
        for decays in (paper.SYNTHETIC_WEIGHT_DECAY, paper.SYNTHETIC_LARGE_WEIGHT_DECAY)
        for optimizer, decay in decays.items()
    )
    return Sweep(
        name="trace_dynamics",
        title="Feature learning and noise memorization",
        grids=grids,
        seeds=(0,),
        figures=("feature_and_noise",),
    )
