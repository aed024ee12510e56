"""The named sweeps that are not maps, one function each: the paper's tables and figures, and `tune_wd`."""

from __future__ import annotations

from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.paper_setups import arms_of, named_sweep
from orchestrator.sweeps.registry import sweep
from orchestrator.sweeps.setups import DEFAULT
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces import maps, paper

BASE = {"num_epochs": paper.SYNTHETIC_NUM_EPOCHS}


@sweep
def grid_bsz(workload: str = DEFAULT) -> Sweep:
    """Error against batch size (tables 1-2, figures 1, 7 and 11)."""
    return named_sweep("grid_bsz", "Error against batch size", workload)


@sweep
def grid_wd(workload: str = DEFAULT) -> Sweep:
    """Error against weight decay (figures 2, 8 and 12); the synthetic grid is finer where the outcomes change."""
    return named_sweep("grid_wd", "Error against weight decay", workload)


@sweep
def grid_betas(workload: str = DEFAULT) -> Sweep:
    """Error against batch size for each pair of betas (figures 9 and 10)."""
    return named_sweep("grid_betas", "Error against batch size and betas", workload)


@sweep
def tune_wd(workload: str = DEFAULT) -> Sweep:
    """Adam and AdamW each at its best: a search for (learning rate, weight decay) at every batch size."""
    return named_sweep("tune_wd", "Each optimizer at its best", workload, HalvingSearch)


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
        (Grid(arms_of(paper.SYNTHETIC_WEIGHT_DECAY), axes, BASE),),
        figures=("sign_agreement",),
        workload="sign_agreement",
    )


@sweep
def scale_sparsity() -> Sweep:
    """Error against the noise's sparsity s at sigma_p = 1/sqrt(s): how the gap and the collapse move."""
    base = {
        paper.MINI_BATCH: {"batch_size": paper.MINI_BATCH, "num_epochs": 2000},
        **{size: {"batch_size": size, **BASE} for size in (20, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])},
    }
    arms = arms_of(paper.SYNTHETIC_WEIGHT_DECAY)
    grids = tuple(Grid(arms, {"noise_sparsity": maps.SPARSITIES}, fields) for fields in base.values())
    return Sweep("scale_sparsity", "Error against the sparsity of the noise", grids, figures=("error_vs_sparsity",))
