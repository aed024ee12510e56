"""The named sweeps that are not maps, one function each: the paper's tables and figures, and `tune_wd`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.image_workloads import IMAGES, image_base, is_imagenet
from orchestrator.sweeps.registry import SYNTHETIC, sweep
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces import maps, paper, tuning
from search_spaces.space import decades


@sweep
def grid_bsz(workload: str = SYNTHETIC) -> Sweep:
    """Error against batch size (tables 1-2, figures 1, 7 and 11)."""
    if workload == SYNTHETIC:
        arms, base = _arms(paper.SYNTHETIC_WEIGHT_DECAY), _synthetic_base()
        axes: dict[str, tuple[Any, ...]] = {"batch_size": paper.BATCH_SIZES}
    elif is_imagenet(workload):
        arms, base = _arms(paper.IMAGENET_WEIGHT_DECAY), image_base(workload)
        axes = {"batch_size": paper.IMAGENET_BATCH_SIZES, "learning_rate": (paper.IMAGE_LEARNING_RATE,)}
    else:
        arms, base = _arms(paper.IMAGE_WEIGHT_DECAY), image_base(workload)
        axes = {"batch_size": paper.IMAGE_BATCH_SIZES, "learning_rate": paper.IMAGE_LEARNING_RATES}
    return _sweep_of(
        "grid_bsz",
        "Error against batch size",
        workload,
        (Grid(arms, axes, base),),
        figure="error_vs_batch_size",
        best_over=("learning_rate",) if workload != SYNTHETIC else (),
    )


@sweep
def grid_wd(workload: str = SYNTHETIC) -> Sweep:
    """Error against weight decay (figures 2, 8 and 12); the synthetic grid is finer where the outcomes change."""
    if workload == SYNTHETIC:
        grids = _synthetic_decays()
    else:
        if is_imagenet(workload):
            batch_size, learning_rate = paper.IMAGENET_MINI_BATCH, paper.IMAGENET_LEARNING_RATE
        else:
            batch_size, learning_rate = paper.IMAGE_MINI_BATCH, paper.IMAGE_LEARNING_RATE
        base = {**image_base(workload), "batch_size": batch_size, "learning_rate": learning_rate}
        grids = tuple(
            Grid({optimizer: {}}, {"weight_decay": decays}, base)
            for optimizer, decays in paper.IMAGE_WEIGHT_DECAYS.items()
        )
    return _sweep_of("grid_wd", "Error against weight decay", workload, grids, figure="error_vs_weight_decay")


@sweep
def grid_betas(workload: str = SYNTHETIC) -> Sweep:
    """Error against batch size for each pair of betas (figures 9 and 10)."""
    if workload == SYNTHETIC:
        arms, base = _arms(paper.SYNTHETIC_WEIGHT_DECAY), _synthetic_base()
        sizes: tuple[int, ...] = (20, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])
    elif is_imagenet(workload):
        arms, base = _arms(paper.IMAGENET_WEIGHT_DECAY), image_base(workload)
        sizes = paper.IMAGENET_BATCH_SIZES
    else:
        arms, base = _arms(paper.IMAGE_WEIGHT_DECAY), image_base(workload)
        sizes = paper.IMAGE_BATCH_SIZES
    if workload != SYNTHETIC:
        base = {**base, "learning_rate": paper.IMAGE_LEARNING_RATE}
    grids = tuple(
        Grid(arms, {"batch_size": sizes}, {**base, "beta1": beta1, "beta2": beta2}) for beta1, beta2 in paper.BETAS
    )
    return _sweep_of("grid_betas", "Error against batch size and betas", workload, grids, figure="error_vs_betas")


@sweep
def tune_wd(workload: str = SYNTHETIC) -> Sweep:
    """Adam and AdamW each at its best: a search for (learning rate, weight decay) at every batch size."""
    if workload == SYNTHETIC:
        base: dict[str, Any] = {"num_epochs": 2000}
        sizes: tuple[int, ...] = (20, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])
        space = tuning.SYNTHETIC
    else:
        base, space = image_base(workload), tuning.IMAGES
        sizes = paper.IMAGENET_BATCH_SIZES if is_imagenet(workload) else paper.IMAGE_BATCH_SIZES
    grids = (Grid({optimizer: {} for optimizer in space}, {"batch_size": sizes}, base),)
    search = HalvingSearch(space)
    return _sweep_of(
        "tune_wd", "Each optimizer at its best", workload, grids, figure="error_vs_batch_size", search=search
    )


@sweep
def trace_dynamics() -> Sweep:
    """Feature learning and noise memorization over training (figures 3-6): eight trials."""
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


@sweep
def sign_agreement() -> Sweep:
    """Where Adam's updates agree with SignSGD's, and how far they differ (Mechanism 3), from small to full batches."""
    axes = {"batch_size": (paper.MINI_BATCH, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])}
    return Sweep(
        "sign_agreement",
        "Agreement of Adam's updates with sign descent",
        (Grid(_arms(paper.SYNTHETIC_WEIGHT_DECAY), axes, _synthetic_base()),),
        figures=("sign_agreement",),
        workload="sign_agreement",
    )


@sweep
def scale_sparsity() -> Sweep:
    """Error against the noise's sparsity s at sigma_p = 1/sqrt(s): how the gap and the collapse move."""
    base = {
        paper.MINI_BATCH: {"batch_size": paper.MINI_BATCH, "num_epochs": 2000},
        **{size: {"batch_size": size, **_synthetic_base()} for size in (20, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])},
    }
    arms = _arms(paper.SYNTHETIC_WEIGHT_DECAY)
    grids = tuple(Grid(arms, {"noise_sparsity": maps.SPARSITIES}, fields) for fields in base.values())
    return Sweep("scale_sparsity", "Error against the sparsity of the noise", grids, figures=("error_vs_sparsity",))


def _sweep_of(name: str, title: str, workload: str, grids: tuple[Grid, ...], figure: str, **more: Any) -> Sweep:
    """A sweep of the synthetic model under its plain name, or of images with the workload in name and title.

    ImageNet uses top-5 errors, as in the paper. Images have a second figure, which shows precise errors.
    """
    if workload == SYNTHETIC:
        return Sweep(name, title, grids, figures=(figure,), **more)
    if is_imagenet(workload):
        more, figure = {**more, "error": "test_top5_error"}, f"top5_{figure}"
    figures = (figure, f"precise_{figure}")
    return Sweep(f"{name}_{workload}", f"{title}: {workload}", grids, figures=figures, workload=IMAGES, **more)


def _arms(weight_decay: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {optimizer: {"weight_decay": decay} for optimizer, decay in weight_decay.items()}


def _synthetic_base() -> dict[str, Any]:
    return {"num_epochs": paper.SYNTHETIC_NUM_EPOCHS}


def _synthetic_decays() -> tuple[Grid, ...]:
    mini = {"batch_size": paper.MINI_BATCH, "num_epochs": 2000}
    large = {"batch_size": paper.LARGE_BATCH, "num_epochs": paper.SYNTHETIC_NUM_EPOCHS}
    finer = {"adam": decades(1e-3, 1e-1, 4), "adamw": decades(1.0, 1e2, 4)}
    grids: list[Grid] = []
    for optimizer, between in finer.items():
        values = tuple(sorted({*paper.WEIGHT_DECAYS, *between, paper.SYNTHETIC_LARGE_WEIGHT_DECAY[optimizer]}))
        grids += [Grid({optimizer: {}}, {"weight_decay": values}, base) for base in (mini, large)]
    return tuple(grids)
