"""The sweeps of the chaos: a grid and a search of many short trials, given to launches by `--module`."""

from __future__ import annotations

from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.registry import sweep
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.space import LogUniform

NAMES = ("chaos_grid", "chaos_search")
LAST = "chaos_last"

DECAYS = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
SEARCHED = {optimizer: {"weight_decay": LogUniform(1e-6, 1e1)} for optimizer in DECAYS}
SIZES = {"num_test": 500}


@sweep
def chaos_grid() -> Sweep:
    grid = Grid(DECAYS, {"batch_size": (4, 10, 20)}, {**SIZES, "num_epochs": 400})
    return Sweep("chaos_grid", "36 trials of half a second", (grid,), seeds=tuple(range(6)))


@sweep
def chaos_search() -> Sweep:
    grid = Grid({optimizer: {} for optimizer in DECAYS}, {"batch_size": (4, 20)}, {**SIZES, "num_epochs": 600})
    search = HalvingSearch(SEARCHED, rounds=2, per_round=6)
    return Sweep("chaos_search", "56 trials, most of which stop early", (grid,), seeds=(0, 1), search=search)


@sweep
def chaos_last() -> Sweep:
    """Trains after all others: a launch with nothing to train starts no Ray, and deletes nothing of earlier ones."""
    grid = Grid(DECAYS, {}, {**SIZES, "batch_size": 100, "num_epochs": 10})
    return Sweep("chaos_last", "two short trials", (grid,), seeds=(0,))
