"""The named maps, one function each: where each optimizer works, and how its boundary scales."""

from __future__ import annotations

from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.paper_setups import BOTH, MAP_STEPS, named_sweep
from orchestrator.sweeps.registry import sweep
from orchestrator.sweeps.setups import DEFAULT
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces import maps, paper


@sweep
def map_wd(workload: str = DEFAULT) -> Sweep:
    """The map of weight decay against batch size: where Adam works, where AdamW works, and how surely."""
    return named_sweep("map_wd", "Where each optimizer works, by batch size", workload, MapSearch)


@sweep
def map_lr_wd(workload: str = DEFAULT) -> Sweep:
    """The map of weight decay against learning rate, at the small batch size of the paper."""
    return named_sweep("map_lr_wd", "Where each optimizer works, by learning rate", workload, MapSearch)


@sweep
def scale_sigma0() -> Sweep:
    """Each optimizer's largest lambda against the initial scale sigma_0, for q = 3 and 4; theory for Adam: q - 2."""
    axes = {"activation_power": (3, 4), "batch_size": (paper.MINI_BATCH,)}
    search = MapSearch(
        maps.decay_by("init_std", maps.SYNTHETIC_DECAY, paper.BATCH_SIZES),
        rounds=12,
        scaling="init_std",
        num_steps=MAP_STEPS,
        max_epochs=paper.SYNTHETIC_NUM_EPOCHS,
    )
    grids = (Grid(BOTH, axes),)
    return Sweep(
        "scale_sigma0",
        "The largest weight decay against the initial scale",
        grids,
        figures=("scaling",),
        search=search,
        accepts_certificates=True,
    )
