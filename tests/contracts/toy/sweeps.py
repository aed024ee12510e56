"""The module that a user gives to `--module`: it imports their workload, optimizer and figure, and has their sweeps."""

from __future__ import annotations

import tests.contracts.toy.figure
import tests.contracts.toy.optimizer
import tests.contracts.toy.workload  # noqa: F401
from orchestrator.sweeps.registry import sweep
from orchestrator.sweeps.setups import Experiment, Setup, setup
from orchestrator.sweeps.value import Grid, Sweep

ARMS = {"adam": {"weight_decay": 1e-3}, "adamw": {"weight_decay": 1e-2}, "toylion": {"weight_decay": 1e-2}}
SMALL = {"num_train": 20, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4, "num_epochs": 20}


@sweep
def toys() -> Sweep:
    grid = Grid(ARMS, {"batch_size": (4, 24)}, {"num_epochs": 20, "learning_rate": 1e-2})
    figures = ("error_vs_batch_size", "gradients")
    return Sweep("toys", "a user's workload", (grid,), seeds=(0, 1), figures=figures, workload="toy")


@sweep
def toy_rule() -> Sweep:
    """The user's optimizer on a workload of ours."""
    return Sweep("toy_rule", "a user's optimizer", (Grid(ARMS, {"batch_size": (4, 20)}, SMALL),), seeds=(0,))


@sweep
def toy_certified() -> Sweep:
    grid = Grid(ARMS, {"batch_size": (4,)}, SMALL)
    return Sweep("toy_certified", "it has no bound", (grid,), seeds=(0,), accepts_certificates=True)


@setup("toy")
def toy_setup() -> Setup:
    """Takes part in one of our named sweeps."""
    grid = Grid(ARMS, {"batch_size": (4, 24)}, {"num_epochs": 20, "learning_rate": 1e-2})
    return Setup(workload="toy", experiments={"grid_bsz": Experiment(grids=(grid,), figures=("error_vs_batch_size",))})
