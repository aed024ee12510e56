"""What `@setup` and a named sweep refuse of a user's setup, each in one line and before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.errors import SweepError
from orchestrator.sweeps.registry import SWEEPS, find_sweep, load_sweeps
from orchestrator.sweeps.setups import SETUPS, Experiment, Setup, setup
from orchestrator.sweeps.value import Grid, Sweep

GRID = Grid({"adam": {"weight_decay": 1e-3}}, {"batch_size": (2, 4)}, {"num_epochs": 2})
WHOLE = Setup(workload="two_layer_cnn", experiments={"grid_bsz": Experiment(grids=(GRID,))})


@pytest.fixture(autouse=True)
def _tables() -> Iterator[None]:
    load_sweeps()
    before = dict(SETUPS), dict(SWEEPS)
    yield
    for table, entries in zip((SETUPS, SWEEPS), before, strict=True):
        table.clear()
        table.update(entries)  # type: ignore[arg-type]


def refusal(made: Any, name: str = "grid_bsz") -> str:
    setup("mine")(lambda: made)
    with pytest.raises(SweepError) as refused:
        find_sweep(name, workload="mine")
    return str(refused.value)


def test_a_setup_gives_a_named_sweep_its_trials() -> None:
    setup("mine")(lambda: WHOLE)
    found = find_sweep("grid_bsz", workload="mine")
    assert (found.name, found.title, found.num_trials) == ("grid_bsz_mine", "Error against batch size: mine", 10)


@pytest.mark.parametrize("name", ["", "a/b", "my setup", "Mine", "../mine"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(SweepError, match=r"^a setup's name is a small letter, then small letters, digits and _, got "):
        setup(name)(lambda: WHOLE)


def test_a_name_that_is_taken_or_would_hide_images_is_refused() -> None:
    with pytest.raises(SweepError, match="would hide images: choose a name that ends in no architecture"):
        setup("cifar10_resnet18")(lambda: WHOLE)
    with pytest.raises(
        SweepError, match=r"^a setup named 'two_layer_cnn' is registered by orchestrator\.sweeps\.paper_"
    ):
        setup("two_layer_cnn")(lambda: WHOLE)


def test_what_is_no_setup_or_no_experiment_is_refused() -> None:
    assert refusal(None) == "the function of setup mine must return a Setup, got None"
    assert refusal({"grid_bsz": GRID}).startswith("the function of setup mine must return a Setup, got {")
    experiments: Any = {"grid_bsz": Sweep("x", "", (GRID,))}
    as_sweep = Setup(workload="two_layer_cnn", experiments=experiments)
    assert refusal(as_sweep).startswith("grid_bsz of setup mine must be an Experiment, got Sweep(")


def test_a_sweep_that_the_setup_leaves_out_is_refused() -> None:
    assert refusal(WHOLE, "grid_wd") == "workload mine has no grid_wd (it has: grid_bsz)"


def test_a_map_without_its_search_is_no_map() -> None:
    plain = Setup(workload="two_layer_cnn", experiments={"map_wd": Experiment(grids=(GRID,))})
    assert refusal(plain, "map_wd") == "map_wd of setup mine must have a MapSearch as its search, got None"


def test_two_sweeps_of_one_name_are_refused() -> None:
    """They would share a lease, figures and an MLflow run."""
    SWEEPS["grid_bsz_mine"] = lambda: Sweep("grid_bsz_mine", "", (GRID,))
    assert refusal(WHOLE) == "grid_bsz with --workload mine would be grid_bsz_mine, another sweep: rename one of them"
