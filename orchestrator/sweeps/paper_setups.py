"""The paper's setups: its synthetic model, and each known data set of images with each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import SweepError, unknown_name
from orchestrator.sweeps.claim_rule import ClaimRule
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.search import Search
from orchestrator.sweeps.setups import DEFAULT, SETUPS, Experiment, Setup, setup, sweep_in
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces import maps, paper, tuning
from search_spaces.space import decades
from trainables.image_classifier.config import Architecture
from trainables.image_data.images import data_root
from trainables.image_data.names import IMAGENET
from trainables.image_data.sources import known_names

BOTH: dict[str, dict[str, Any]] = {"adam": {}, "adamw": {}}
"""Arms of a map: both optimizers, without other fields."""

MAP_STEPS = 100_000
"""Optimizer steps of a map's synthetic trial: T = 1,000 epochs at B = 2, enough to decide; 10,000 from B = 20 on."""

IMAGE_RULE = ClaimRule(max_train_error=0.05, max_test_error=0.3)
"""When an image classifier works: less strict than the default, since error rates on real images are never zero."""


def named_sweep(name: str, title: str, workload: str, search: type[Search] | None = None) -> Sweep:
    """The sweep of that name in the setup that `--workload` names; `SweepError` offers the nearest setup."""
    dataset, _, architecture = workload.rpartition("_")
    if workload in SETUPS:
        made = SETUPS[workload]()
    elif dataset and architecture in tuple(Architecture):
        made = _images(dataset, Architecture(architecture))
    else:
        raise SweepError(unknown_name("workload", workload, known_workloads()))
    return sweep_in(made, workload, name, title, search)


def known_workloads() -> list[str]:
    """The registered setups, and each known data set with each architecture."""
    datasets = known_names(data_root())
    return [*SETUPS, *(f"{dataset}_{architecture}" for dataset in datasets for architecture in Architecture)]


@setup(DEFAULT)
def synthetic() -> Setup:
    """The two-layer CNN on data of the paper's distribution (Definitions 3.1 and 3.2)."""
    base = {"num_epochs": paper.SYNTHETIC_NUM_EPOCHS}
    arms = arms_of(paper.SYNTHETIC_WEIGHT_DECAY)
    few = (20, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])
    tuned = tuple(tuning.SYNTHETIC)
    by_size = {"batch_size": maps.CLAIMED_BATCH_SIZES, "weight_decay": maps.CLAIMED_DECAYS}
    by_rate = {"learning_rate": maps.CLAIMED_RATES, "weight_decay": maps.CLAIMED_DECAYS}
    lines = tuple({"batch_size": size} for size in (paper.MINI_BATCH, paper.BATCH_SIZES[-1]))
    return Setup(
        workload="two_layer_cnn",
        experiments={
            "grid_bsz": Experiment(
                grids=(Grid(arms, {"batch_size": paper.BATCH_SIZES}, base),),
                figures=("error_vs_batch_size",),
            ),
            "grid_wd": Experiment(grids=_synthetic_decays(), figures=("error_vs_weight_decay",)),
            "grid_betas": Experiment(grids=_betas(arms, few, base), figures=("error_vs_betas",)),
            "tune_wd": Experiment(
                grids=(Grid({name: {} for name in tuned}, {"batch_size": few}, {"num_epochs": 2000}),),
                figures=("error_vs_batch_size",),
                search=HalvingSearch(tuning.SYNTHETIC),
            ),
            "map_wd": _synthetic_map("batch_size", Grid(BOTH, by_size), lines),
            "map_lr_wd": _synthetic_map("learning_rate", Grid(BOTH, by_rate, {"batch_size": paper.MINI_BATCH})),
        },
    )


def _images(dataset: str, architecture: Architecture) -> Setup:
    """Images of CIFAR's size, judged by their error; ImageNet's have settings of their own and a top-5 error."""
    is_imagenet = dataset == IMAGENET
    base: dict[str, Any] = {"dataset": dataset, "architecture": str(architecture), **paper.IMAGE_BETAS}
    base |= paper.IMAGENET if is_imagenet else {"num_epochs": paper.IMAGE_NUM_EPOCHS}
    arms = arms_of(paper.IMAGENET_WEIGHT_DECAY if is_imagenet else paper.IMAGE_WEIGHT_DECAY)
    sizes = paper.IMAGENET_BATCH_SIZES if is_imagenet else paper.IMAGE_BATCH_SIZES
    rates = (paper.IMAGE_LEARNING_RATE,) if is_imagenet else paper.IMAGE_LEARNING_RATES
    usual = {**base, "learning_rate": paper.IMAGE_LEARNING_RATE}
    mini = {
        **base,
        "batch_size": paper.IMAGENET_MINI_BATCH if is_imagenet else paper.IMAGE_MINI_BATCH,
        "learning_rate": paper.IMAGENET_LEARNING_RATE if is_imagenet else paper.IMAGE_LEARNING_RATE,
    }
    by_size = {"batch_size": maps.IMAGE_BATCH_SIZES, "weight_decay": maps.IMAGE_CLAIMED_DECAYS}
    by_rate = {"learning_rate": maps.CLAIMED_RATES, "weight_decay": maps.IMAGE_CLAIMED_DECAYS}
    line = {"batch_size": paper.IMAGE_MINI_BATCH}
    error, prefix = ("test_top5_error", "top5_") if is_imagenet else ("test_error", "")

    def grid(grids: tuple[Grid, ...], figure: str, **more: Any) -> Experiment:
        figures = (f"{prefix}{figure}", f"precise_{prefix}{figure}")
        return Experiment(grids=grids, figures=figures, error=error, **more)

    return Setup(
        workload="image_classifier",
        experiments={
            "grid_bsz": grid(
                (Grid(arms, {"batch_size": sizes, "learning_rate": rates}, base),),
                "error_vs_batch_size",
                best_over=("learning_rate",),
            ),
            "grid_wd": grid(
                tuple(
                    Grid({optimizer: {}}, {"weight_decay": decays}, mini)
                    for optimizer, decays in paper.IMAGE_WEIGHT_DECAYS.items()
                ),
                "error_vs_weight_decay",
            ),
            "grid_betas": grid(_betas(arms, sizes, usual), "error_vs_betas"),
            "tune_wd": grid(
                (Grid({name: {} for name in tuning.IMAGES}, {"batch_size": sizes}, base),),
                "error_vs_batch_size",
                search=HalvingSearch(tuning.IMAGES),
            ),
            "map_wd": _image_map("batch_size", Grid(BOTH, by_size, usual), (line,)),
            "map_lr_wd": _image_map("learning_rate", Grid(BOTH, by_rate, {**base, **line})),
        },
    )


def arms_of(weight_decay: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """One arm for each optimizer, at its weight decay."""
    return {optimizer: {"weight_decay": decay} for optimizer, decay in weight_decay.items()}


def _betas(arms: Mapping[str, Mapping[str, Any]], sizes: tuple[int, ...], base: Mapping[str, Any]) -> tuple[Grid, ...]:
    """A grid for each of the paper's pairs of betas."""
    axes = {"batch_size": sizes}
    return tuple(Grid(arms, axes, {**base, "beta1": beta1, "beta2": beta2}) for beta1, beta2 in paper.BETAS)


def _synthetic_decays() -> tuple[Grid, ...]:
    """The axis of figure 2 for a small and a large batch; finer between the decades where the outcomes change."""
    mini = {"batch_size": paper.MINI_BATCH, "num_epochs": 2000}
    large = {"batch_size": paper.LARGE_BATCH, "num_epochs": paper.SYNTHETIC_NUM_EPOCHS}
    finer = {"adam": decades(1e-3, 1e-1, 4), "adamw": decades(1.0, 1e2, 4)}
    grids: list[Grid] = []
    for optimizer, between in finer.items():
        values = tuple(sorted({*paper.WEIGHT_DECAYS, *between, paper.SYNTHETIC_LARGE_WEIGHT_DECAY[optimizer]}))
        grids += [Grid({optimizer: {}}, {"weight_decay": values}, base) for base in (mini, large)]
    return tuple(grids)


def _synthetic_map(axis: str, grid: Grid, lines: tuple[Mapping[str, Any], ...] = ()) -> Experiment:
    """A map of weight decay against one other field, with as many steps at every batch size."""
    space = maps.decay_by(axis, maps.SYNTHETIC_DECAY, paper.BATCH_SIZES)
    search = MapSearch(space, lines=lines, num_steps=MAP_STEPS, max_epochs=paper.SYNTHETIC_NUM_EPOCHS)
    return Experiment(grids=(grid,), figures=("phase_diagram",), search=search, accepts_certificates=True)


def _image_map(axis: str, grid: Grid, lines: tuple[Mapping[str, Any], ...] = ()) -> Experiment:
    search = MapSearch(maps.decay_by(axis, maps.IMAGE_DECAY, maps.IMAGE_BATCH_SIZES), IMAGE_RULE, lines=lines)
    return Experiment(grids=(grid,), figures=("phase_diagram",), search=search)
