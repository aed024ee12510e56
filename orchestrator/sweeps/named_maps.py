"""The named maps, one function each: where each optimizer works, and how its boundary scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.sweeps.claim_rule import ClaimRule
from orchestrator.sweeps.image_workloads import IMAGES, image_base
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.registry import SYNTHETIC, sweep
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces import maps, paper

OPTIMIZERS: dict[str, dict[str, Any]] = {"adam": {}, "adamw": {}}
"""Arms of a map: both optimizers, without other fields."""

MAP_STEPS = 100_000
"""Optimizer steps of a map's synthetic trial: T = 1,000 epochs at B = 2, enough to decide; 10,000 from B = 20 on."""

IMAGE_RULE = ClaimRule(max_train_error=0.05, max_test_error=0.3)
"""When an image classifier works: less strict than the default, since error rates on real images are never zero."""


@sweep
def map_wd(workload: str = SYNTHETIC) -> Sweep:
    """The map of weight decay against batch size: where Adam works, where AdamW works, and how surely."""
    if workload == SYNTHETIC:
        axes: dict[str, tuple[Any, ...]] = {
            "batch_size": maps.CLAIMED_BATCH_SIZES,
            "weight_decay": maps.CLAIMED_DECAYS,
        }
        base: dict[str, Any] = {}
        lines: tuple[dict[str, Any], ...] = ({"batch_size": paper.MINI_BATCH}, {"batch_size": paper.BATCH_SIZES[-1]})
    else:
        base = {**image_base(workload), "learning_rate": paper.IMAGE_LEARNING_RATE}
        axes = {"batch_size": maps.IMAGE_BATCH_SIZES, "weight_decay": maps.IMAGE_CLAIMED_DECAYS}
        lines = ({"batch_size": paper.IMAGE_MINI_BATCH},)
    return _map_of(
        "map_wd",
        "Where each optimizer works, by batch size",
        workload,
        axis="batch_size",
        grid=Grid(OPTIMIZERS, axes, base),
        lines=lines,
    )


@sweep
def map_lr_wd(workload: str = SYNTHETIC) -> Sweep:
    """The map of weight decay against learning rate, at the small batch size of the paper."""
    if workload == SYNTHETIC:
        base: dict[str, Any] = {"batch_size": paper.MINI_BATCH}
        axes: dict[str, tuple[Any, ...]] = {
            "learning_rate": maps.CLAIMED_RATES,
            "weight_decay": maps.CLAIMED_DECAYS,
        }
    else:
        base = {**image_base(workload), "batch_size": paper.IMAGE_MINI_BATCH}
        axes = {"learning_rate": maps.CLAIMED_RATES, "weight_decay": maps.IMAGE_CLAIMED_DECAYS}
    return _map_of(
        "map_lr_wd",
        "Where each optimizer works, by learning rate",
        workload,
        axis="learning_rate",
        grid=Grid(OPTIMIZERS, axes, base),
    )


@sweep
def scale_sigma0() -> Sweep:
    """Each optimizer's largest lambda against the initial scale sigma_0, for q = 3 and 4; theory for Adam: q - 2."""
    axes = {"activation_power": (3, 4), "batch_size": (paper.MINI_BATCH,)}
    search = MapSearch(
        maps.decay_by("init_std", workload_is_synthetic=True),
        rounds=12,
        scaling="init_std",
        num_steps=MAP_STEPS,
        max_epochs=paper.SYNTHETIC_NUM_EPOCHS,
    )
    grids = (Grid(OPTIMIZERS, axes),)
    return Sweep(
        "scale_sigma0",
        "The largest weight decay against the initial scale",
        grids,
        figures=("scaling",),
        search=search,
        accepts_certificates=True,
    )


def _map_of(
    name: str, title: str, workload: str, axis: str, grid: Grid, lines: tuple[Mapping[str, Any], ...] = ()
) -> Sweep:
    """A map of weight decay against one other field."""
    is_synthetic = workload == SYNTHETIC
    search = MapSearch(
        maps.decay_by(axis, is_synthetic),
        ClaimRule() if is_synthetic else IMAGE_RULE,
        lines=lines,
        num_steps=MAP_STEPS if is_synthetic else None,
        max_epochs=paper.SYNTHETIC_NUM_EPOCHS,
    )
    if is_synthetic:
        return Sweep(name, title, (grid,), figures=("phase_diagram",), search=search, accepts_certificates=True)
    return Sweep(
        f"{name}_{workload}",
        f"{title}: {workload}",
        (grid,),
        figures=("phase_diagram",),
        workload=IMAGES,
        search=search,
    )
