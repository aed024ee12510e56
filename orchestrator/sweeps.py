"""The named sweeps, one function each; a user's own are written the same way in any module (`--module my_sweeps`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from orchestrator.claim_rule import ClaimRule
from orchestrator.errors import SweepError, unknown_name
from orchestrator.image_sweeps import IMAGES, image_base, is_imagenet
from orchestrator.map_search import MapSearch
from orchestrator.search import HalvingSearch
from orchestrator.sweep import Grid, Sweep
from search_spaces import maps, paper, tuning
from search_spaces.space import decades

SYNTHETIC = "two_layer_cnn"

OPTIMIZERS: dict[str, dict[str, Any]] = {"adam": {}, "adamw": {}}
"""Arms of a map: both optimizers, nothing that goes with them."""

MAP_STEPS = 100_000
"""Optimizer steps of a map's synthetic trial: T = 1,000 epochs at B = 2, which decide there; 10,000 from B = 20 on."""

IMAGE_RULE = ClaimRule(max_train_error=0.05, max_test_error=0.3)
"""When an image classifier works: less strict, since real images have no zero error."""

SweepFunction = Callable[..., Sweep]
"""Makes a sweep; one that takes a `workload` offers `--workload`."""

SWEEPS: dict[str, SweepFunction] = {}


def sweep(function: SweepFunction) -> SweepFunction:
    """Register a sweep under its function's name; `SweepError` if another module has taken it."""
    name = function.__name__
    if name in SWEEPS and SWEEPS[name].__module__ != function.__module__:
        raise SweepError(f"a sweep named {name!r} is registered by {SWEEPS[name].__module__}: choose another name")
    SWEEPS[name] = function
    return function


def find_sweep(name: str, module: str | None = None, workload: str | None = None) -> Sweep:
    """The sweep of that name, after importing the user's module; `SweepError` offers the nearest name."""
    known = load_sweeps(module)
    if name not in known:
        raise SweepError(unknown_name("sweep", name, known))
    if workload is None:
        found = known[name]()
    elif takes_workload(known[name]):
        found = known[name](workload)
    else:
        raise SweepError(f"the sweep {name} has one workload, {known[name]().workload}: it takes no --workload")
    expected = {name, f"{name}_{workload}"}
    if found.name not in expected:  # its lease, figures and MLflow run would be another sweep's
        raise SweepError(f"the sweep of function {name} is named {found.name!r}: give both one name")
    return found


def takes_workload(function: SweepFunction) -> bool:
    """Whether the sweep runs on several workloads, so that `--workload` may choose one."""
    return "workload" in signature(function).parameters


def load_sweeps(module: str | None = None) -> dict[str, SweepFunction]:
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
    """Error against weight decay (figures 2, 8 and 12); on the synthetic model finer where the outcomes change."""
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
    return _sweep_of("tune_wd", "Each optimizer at its best", workload, grids, "error_vs_batch_size", search=search)


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


@sweep
def sign_agreement() -> Sweep:
    """Where Adam's updates are SignSGD's, and how far the two part (Mechanism 3), from small to full batches."""
    axes = {"batch_size": (paper.MINI_BATCH, paper.LARGE_BATCH, paper.BATCH_SIZES[-1])}
    return Sweep(
        "sign_agreement",
        "Agreement of Adam's updates with sign descent",
        (Grid(_arms(paper.SYNTHETIC_WEIGHT_DECAY), axes, _synthetic_base()),),
        figures=("sign_agreement",),
        workload="sign_agreement",
    )


@sweep
def map_wd(workload: str = SYNTHETIC) -> Sweep:
    """The map of weight decay against batch size: where Adam works, where AdamW, and how surely."""
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
        "batch_size",
        Grid(OPTIMIZERS, axes, base),
        lines,
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
        "learning_rate",
        Grid(OPTIMIZERS, axes, base),
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


def _map_of(
    name: str, title: str, workload: str, axis: str, grid: Grid, lines: tuple[Mapping[str, Any], ...] = ()
) -> Sweep:
    """A map of weight decay against one other field."""
    is_synthetic = workload == SYNTHETIC
    search = MapSearch(
        maps.decay_by(axis, is_synthetic),
        ClaimRule() if is_synthetic else IMAGE_RULE,
        lines,
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


def _sweep_of(name: str, title: str, workload: str, grids: tuple[Grid, ...], figure: str, **more: Any) -> Sweep:
    """A sweep of the synthetic model under its plain name, of images under a name and title that say which.

    ImageNet is judged by top-5 errors, as in the paper.
    """
    if workload == SYNTHETIC:
        return Sweep(name, title, grids, figures=(figure,), **more)
    if is_imagenet(workload):
        more, figure = {**more, "error": "test_top5_error"}, f"top5_{figure}"
    return Sweep(f"{name}_{workload}", f"{title}: {workload}", grids, figures=(figure,), workload=IMAGES, **more)


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
