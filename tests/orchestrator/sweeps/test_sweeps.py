"""Sweeps: the trials they expand to, and the effect of the command line's settings."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError, SweepError, UserError
from orchestrator.sweeps.overrides import parse_seeds
from orchestrator.sweeps.registry import SWEEPS, find_sweep, load_sweeps, sweep
from orchestrator.sweeps.value import Grid, Sweep
from trainables.config import Optimizer

SMALL = Sweep(
    name="small",
    title="two arms at four points",
    grids=(
        Grid(
            arms={"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}},
            axes={"batch_size": (2, 100), "learning_rate": (5e-5, 1e-4)},
            base={"num_epochs": 10},
        ),
    ),
    seeds=(0, 1),
)


def cells(made: Sweep, *names: str) -> Counter[tuple[Any, ...]]:
    """The number of seeds of each combination of these fields."""
    return Counter(tuple(getattr(config, name) for name in names) for config in made.configs())


def values(made: Sweep, name: str) -> set[Any]:
    return {getattr(config, name) for config in made.configs()}


# --- the named sweeps ---


def test_every_module_of_named_sweeps_is_loaded() -> None:
    """The contract of named sweeps covers the loaded modules; this test checks that all modules are loaded."""
    grids = ["grid_bsz", "grid_wd", "grid_betas", "tune_wd", "trace_dynamics", "sign_agreement", "scale_sparsity"]
    assert {*grids, "map_wd", "map_lr_wd", "scale_sigma0"} <= set(load_sweeps())


def test_grid_bsz_is_tables_1_and_2_over_all_batch_sizes() -> None:
    made = find_sweep("grid_bsz")
    points = cells(made, "optimizer", "weight_decay", "batch_size", "num_epochs")
    arms = (("adam", 1e-5), ("adamw", 1e-2))
    assert points == {(*arm, b, 10_000): 5 for arm in arms for b in (2, 4, 10, 20, 40, 100, 200)}
    assert values(made, "seed") == {0, 1, 2, 3, 4}
    assert len(made.configs()) == 70


def test_grid_wd_has_no_decay_and_every_decade_for_both_optimizers() -> None:
    made = find_sweep("grid_wd")
    decades = {0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0}
    assert cells(made, "batch_size", "num_epochs").keys() == {(2, 2000), (100, 10_000)}
    for optimizer in (Optimizer.ADAM, Optimizer.ADAMW):
        for batch_size in (2, 100):
            own = {
                config.weight_decay
                for config in made.configs()
                if (config.optimizer, config.batch_size) == (optimizer, batch_size)
            }
            assert decades < own, f"{optimizer} at B={batch_size} has no finer values"
    assert set(cells(made, "optimizer", "batch_size", "weight_decay").values()) == {5}


def test_trace_dynamics_is_the_eight_runs_of_figures_3_to_6() -> None:
    decays = {("adam", 1e-5), ("adamw", 1e-2), ("adam", 0.05), ("adamw", 0.5)}
    points = cells(find_sweep("trace_dynamics"), "optimizer", "weight_decay", "batch_size", "num_epochs", "seed")
    assert points == {(*decay, b, 10_000, 0): 1 for decay in decays for b in (2, 100)}


def test_sweeps_share_the_trials_they_have_in_common() -> None:
    dynamics, errors = ({c.trial_id for c in find_sweep(name).configs()} for name in ("trace_dynamics", "grid_bsz"))
    assert len(dynamics & errors) == 4


# --- expansion ---


def test_arms_times_axes_times_seeds() -> None:
    points = cells(SMALL, "optimizer", "weight_decay", "batch_size", "learning_rate")
    arms = (("adam", 1e-5), ("adamw", 1e-2))
    assert points == {(*arm, b, eta): 2 for arm in arms for b in (2, 100) for eta in (5e-5, 1e-4)}


def test_the_order_is_seed_by_seed_with_pairs_together() -> None:
    configs = SMALL.configs()
    assert [config.seed for config in configs] == [0] * 8 + [1] * 8
    for adam, adamw in zip(configs[::2], configs[1::2], strict=True):
        assert (adam.optimizer, adamw.optimizer) == ("adam", "adamw")
        assert (adam.batch_size, adam.learning_rate) == (adamw.batch_size, adamw.learning_rate)
    more_seeds = replace(SMALL, seeds=(0, 1, 2)).configs()
    assert more_seeds[: len(configs)] == configs


def test_an_axis_wins_over_an_arm_and_an_arm_over_the_base() -> None:
    base = {"batch_size": 2, "weight_decay": 1.0, "learning_rate": 1.0}
    grid = Grid({"adam": {"weight_decay": 0.5, "learning_rate": 0.5}}, {"learning_rate": (0.1,)}, base)
    config = replace(SMALL, grids=(grid,), seeds=(0,)).configs()[0]
    assert (config.weight_decay, config.learning_rate) == (0.5, 0.1)


def test_grids_that_overlap_count_a_trial_once() -> None:
    assert replace(SMALL, grids=SMALL.grids * 2, seeds=(0, 1, 1)).configs() == SMALL.configs()


def test_values_are_rounded_so_that_equal_points_are_one_trial() -> None:
    grid = Grid({"adam": {}}, {"weight_decay": (1e-5, 10**-5.0, 1e-6 * 10, 1.00000001e-5)}, {"batch_size": 2})
    assert len(replace(SMALL, grids=(grid,), seeds=(0,)).configs()) == 1


def test_a_sweep_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SMALL.name = "other"  # type: ignore[misc]


def test_a_fault_is_said_once_not_once_for_each_cell() -> None:
    with pytest.raises(ConfigError) as caught:
        SMALL.with_overrides(["weight_decay=-1"]).configs()
    line = str(caught.value)
    assert line.count("weight_decay") == 1
    assert "got -1.0" in line
    assert line.startswith("small: ")


def test_several_faults_are_said_together_and_many_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"got B=100, n=50; .*got B=200, n=50$"):
        find_sweep("grid_bsz").with_overrides(["num_train=50"]).configs()
    with pytest.raises(ConfigError, match=r"; and 2 more$"):
        SMALL.with_overrides(["batch_size=201,202,203,204,205"]).configs()


def test_a_sweep_without_trials_is_refused() -> None:
    for empty in (replace(SMALL, seeds=()), replace(SMALL, grids=()), replace(SMALL, grids=(Grid({}),))):
        with pytest.raises(SweepError, match="has no trials"):
            empty.configs()


@pytest.mark.parametrize("axis", [1e-3, "adam"])
def test_an_axis_that_is_no_tuple_is_named(axis: Any) -> None:
    with pytest.raises(SweepError, match="axis weight_decay is a tuple of values"):
        Grid({"adam": {}}, {"weight_decay": axis})


# --- settings ---


def test_a_setting_replaces_an_axis() -> None:
    assert cells(SMALL.with_overrides(["batch_size=4,10,20"]), "batch_size") == {(4,): 8, (10,): 8, (20,): 8}
    assert cells(SMALL.with_overrides(["batch_size=4"]), "batch_size") == {(4,): 8}


def test_a_setting_replaces_a_base_field_and_several_values_make_an_axis() -> None:
    assert values(SMALL.with_overrides(["num_epochs=1e3"]), "num_epochs") == {1000}
    assert cells(SMALL.with_overrides(["num_epochs=10,20"]), "num_epochs") == {(10,): 16, (20,): 16}


def test_a_setting_of_a_field_that_the_sweep_leaves_at_its_default() -> None:
    assert cells(SMALL.with_overrides(["dimension=500,1000"]), "dimension") == {(500,): 16, (1000,): 16}


def test_a_setting_wins_over_what_is_coupled_to_an_arm() -> None:
    changed = SMALL.with_overrides(["weight_decay=0,1e-3"])
    assert cells(changed, "optimizer", "weight_decay") == {(o, w): 8 for o in ("adam", "adamw") for w in (0.0, 1e-3)}


@pytest.mark.parametrize(
    ("setting", "name", "added"),
    [
        ("batch_size+=4,2", "batch_size", {4}),
        ("num_epochs+=20", "num_epochs", {20}),
        ("dimension+=500", "dimension", {500}),
        ("weight_decay+=1e-4", "weight_decay", {1e-4}),
        ("optimizer+=adam", "optimizer", set()),
        ("seed+=7", "seed", {7}),
    ],
)
def test_an_extension_keeps_every_trial_and_adds_to_it(setting: str, name: str, added: set[Any]) -> None:
    extended = SMALL.with_overrides([setting])
    assert set(SMALL.configs()) <= set(extended.configs())
    assert values(extended, name) == values(SMALL, name) | added


def test_a_value_given_twice_is_one_in_whatever_way_it_is_written() -> None:
    assert SMALL.with_overrides(["seed=0,0"]).seeds == (0,)
    assert SMALL.with_overrides(["seed+=1,7,7"]).seeds == (0, 1, 7)
    assert replace(SMALL, seeds=(2, 2)).seeds == (2,)
    for once, more in (("weight_decay=1e-3", "0.001,1.0000001e-3"), ("batch_size=10", "10,1e1")):
        assert SMALL.with_overrides([f"{once},{more}"]).cells() == SMALL.with_overrides([once]).cells()


def test_extensions_of_two_fields_are_crossed() -> None:
    extended = SMALL.with_overrides(["batch_size+=4", "num_epochs+=20"])
    assert cells(extended, "batch_size", "num_epochs") == {(b, t): 8 for b in (2, 100, 4) for t in (10, 20)}


def test_an_optimizer_chooses_arms_with_their_fields() -> None:
    assert cells(SMALL.with_overrides(["optimizer=adamw"]), "optimizer", "weight_decay") == {("adamw", 1e-2): 8}


def test_an_optimizer_without_an_arm_needs_its_own_weight_decay() -> None:
    with pytest.raises(ConfigError, match=r"^small: signsgd has no weight_decay in this.*--set weight_decay=VALUE$"):
        SMALL.with_overrides(["optimizer=signsgd"]).configs()
    for sets in (["optimizer=signsgd", "weight_decay=1e-4"], ["weight_decay=1e-4", "optimizer=signsgd"]):
        chosen = SMALL.with_overrides(sets)
        assert cells(chosen, "optimizer", "weight_decay", "beta1", "epsilon") == {("signsgd", 1e-4, None, None): 8}


def test_an_optimizer_joins_every_grid_of_a_sweep_whose_decay_is_an_axis() -> None:
    made = find_sweep("grid_wd").with_overrides(["optimizer=signsgdw", "weight_decay=0,1"])
    assert cells(made, "optimizer", "batch_size", "weight_decay") == {
        ("signsgdw", b, w): 5 for b in (2, 100) for w in (0.0, 1.0)
    }


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("num_epochs=1e4", "num_epochs", 10_000),
        ("learning_rate=1", "learning_rate", 1.0),
        ("bias_correction=false", "bias_correction", False),
        ("bias_correction=True", "bias_correction", True),
        ("precision=float64", "precision", "float64"),
        ("epsilon_rule=lambda_eta", "epsilon", None),
        ("noise_std=none", "noise_std", 0.1),
        ("seed=12", "seed", 12),
    ],
)
def test_values_are_read_by_the_fields_type(setting: str, name: str, value: Any) -> None:
    found = values(SMALL.with_overrides([setting]), name)
    assert found == {value}
    assert [isinstance(item, type(value)) for item in found] == [True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["batch_sise=2"], "unknown field 'batch_sise'; did you mean 'batch_size'"),
        (["workload=two_layer_cnn"], "unknown field 'workload'"),
        (["batch_size=two"], "batch_size is an integer, got 'two'"),
        (["batch_size=2.5"], "batch_size is an integer, got '2.5'"),
        (["batch_size=inf"], "batch_size is an integer, got 'inf'"),
        (["weight_decay=small"], "weight_decay is a number, got 'small'"),
        (["weight_decay=none"], "weight_decay is a number, got 'none'"),
        (["weight_decay=1e-3,"], "weight_decay is a number, got ''"),
        (["bias_correction=1"], "bias_correction is true or false, got '1'"),
        (
            ["optimizer=adm"],
            r"unknown optimizer 'adm'; did you mean 'adam'\? \(known: adam, adamw, signsgd",
        ),
        (["precision=float16"], "unknown precision 'float16'; did you mean"),
        (["batch_size"], "a setting is field=value"),
        (["batch_size="], "a setting is field=value"),
        (["=2"], "a setting is field=value"),
        (["batch_size=2", "batch_size=4"], "batch_size is set twice"),
    ],
)
def test_a_setting_that_cannot_be_read_is_one_clear_line(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SMALL.with_overrides(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["weight_decay=-1e-3"], "weight_decay: input should be greater than or equal to 0, got -0.001"),
        (["weight_decay=nan"], "weight_decay: input should be a finite number"),
        (["seed=-1"], "seed: input should be greater than or equal to 0"),
        (["beta1=0.9", "beta2=0.81"], r"beta1\^2 < beta2 is required, got beta1=0.9, beta2=0.81"),
        (["noise_sparsity=1000"], "noise_sparsity < dimension is required, got s=1000, d=1000"),
        (["batch_size=201"], "batch_size <= num_train is required, got B=201, n=200"),
        (["weight_decay=0", "epsilon_rule=lambda_eta"], "epsilon_rule=lambda_eta needs weight_decay > 0"),
    ],
)
def test_a_value_out_of_range_is_one_clear_line(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SMALL.with_overrides(settings).configs()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0,3,5-7", (0, 3, 5, 6, 7)), ("3,1-3", (3, 1, 2)), (" 1 , 2 ", (1, 2))],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds
    assert SMALL.with_overrides(seeds=text).seeds == seeds


def test_integers_that_no_column_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_test: integers must be below 2\^63"):
        SMALL.with_overrides([f"num_test={10**20}"]).configs()
    with pytest.raises(ConfigError, match="batch_size: expected a number or a name, not a truth value"):
        replace(SMALL, grids=(replace(SMALL.grids[0], base={"batch_size": np.True_}, axes={}),)).configs()


def test_every_fault_of_a_cell_is_named() -> None:
    grid = Grid({"adm": {"wd": 1e-3}}, base={"batch_size": 0})
    with pytest.raises(ConfigError) as caught:
        replace(SMALL, grids=(grid,)).configs()
    assert all(part in str(caught.value) for part in ("unknown field 'wd'", "optimizer: ", "batch_size: "))


def test_numbers_of_numpy_are_those_of_python() -> None:
    wanted = SMALL.with_overrides(["weight_decay=1e-3,1e-2"]).configs()
    for kind in (np.float32, np.float64):
        axes = {**SMALL.grids[0].axes, "weight_decay": tuple(np.logspace(-3, -2, 2, dtype=kind))}
        grid = Grid({"adam": {}, "adamw": {}}, axes, SMALL.grids[0].base)
        assert set(replace(SMALL, grids=(grid,)).configs()) == set(wanted)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"best_over": ("lr",)}, "small: best_over: unknown field 'lr'"),
        ({"error": "tst_error"}, "small: unknown error 'tst_error'; did you mean 'test_error'"),
        ({"error": "precise_test_error"}, "small: unknown error 'precise_test_error'"),
    ],
)
def test_columns_that_are_read_at_the_end_are_checked_at_the_start(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        replace(SMALL, **wrong).configs()


def test_what_has_another_shape_is_one_clear_line() -> None:
    grid = SMALL.grids[0]
    with pytest.raises(SweepError, match="grids of small is a tuple"):
        replace(SMALL, grids=grid)  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="seeds of small is a tuple, got 3"):
        replace(SMALL, seeds=3)  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="figures of small is a tuple, got 'error_vs_batch_size'"):
        replace(SMALL, figures="error_vs_batch_size")  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="arms map each optimizer to its fields"):
        Grid(("adam", "adamw"))  # type: ignore[arg-type]
    for fields in ({"axes": {"seed": (1, 2)}}, {"base": {"seed": 1}}, {"arms": {"adam": {"seed": 1}}}):
        with pytest.raises(SweepError, match="seed is not a field of a grid"):
            replace(grid, **fields)  # type: ignore[arg-type]


def test_seeds_of_both_options_are_added_or_refused() -> None:
    assert SMALL.with_overrides(["seed+=7"], seeds="0-1").seeds == (0, 1, 7)
    with pytest.raises(SweepError, match="seed is set twice"):
        SMALL.with_overrides(["seed=7"], seeds="0-1")


@pytest.mark.parametrize("text", ["0-1000000", f"0-{10**30}", "0-600000,600001-1200000"])
def test_more_seeds_than_anyone_means_are_refused(text: str) -> None:
    with pytest.raises(SweepError, match="at most 1,000,000 seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "0..4", "1.5", "1,,2", "²"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(SweepError, match="seeds are numbers and rising ranges"):
        parse_seeds(text)


# --- a user's own sweeps ---


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's current folder with modules of their own; what these register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(SWEEPS)
    yield tmp_path
    SWEEPS.clear()
    SWEEPS.update(before)


def own_module(folder: Path, module: str, function: str, name: str) -> None:
    (folder / f"{module}.py").write_text(
        "from orchestrator.sweeps.value import Grid, Sweep\n"
        "from orchestrator.sweeps.registry import sweep\n\n"
        "@sweep\n"
        f"def {function}() -> Sweep:\n"
        "    grid = Grid({'adam': {}, 'adamw': {}}, {'weight_decay': (1e-3, 1e-2)}, {'batch_size': 2})\n"
        f"    return Sweep(name='{name}', title='mine', grids=(grid,), seeds=(0, 1, 2))\n"
    )


def test_a_users_own_sweep_is_found_in_the_current_folder(module_folder: Path) -> None:
    own_module(module_folder, "own_found", "mine", "mine")
    assert len(find_sweep("mine", "own_found").configs()) == 12
    assert {"mine", "grid_bsz"} <= load_sweeps().keys()


def test_a_users_own_sweep_cannot_take_a_known_name(module_folder: Path) -> None:
    own_module(module_folder, "own_taken", "grid_bsz", "grid_bsz")
    with pytest.raises(SweepError, match=r"'grid_bsz' is registered by orchestrator\.sweeps\.named_grids"):
        load_sweeps("own_taken")


def test_a_function_and_its_sweep_have_one_name(module_folder: Path) -> None:
    own_module(module_folder, "own_misnamed", "mine", "grid_bsz")
    with pytest.raises(SweepError, match="function mine returns a sweep named 'grid_bsz'"):
        find_sweep("mine", "own_misnamed")


def test_an_absent_module_is_named_and_a_broken_one_keeps_its_traceback(module_folder: Path) -> None:
    with pytest.raises(SweepError, match="no module 'own_absent'"):
        load_sweeps("own_absent")
    (module_folder / "own_broken.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        load_sweeps("own_broken")


@pytest.mark.parametrize("module", ["own.py", "./own_sweeps.py", "", "own-sweeps", "own..sweeps", "."])
def test_a_module_is_given_by_its_name(module_folder: Path, module: str) -> None:
    with pytest.raises(SweepError, match=r"no module|--module is a module's name"):
        load_sweeps(module)


@pytest.mark.parametrize("made", [None, [SMALL], "grid_bsz"])
def test_a_function_that_makes_no_sweep_is_named(module_folder: Path, made: Any) -> None:
    def small() -> Any:
        return made

    sweep(small)
    with pytest.raises(SweepError, match="the function small must return a Sweep, got "):
        find_sweep("small")


def test_an_unknown_sweep_gets_the_nearest_name() -> None:
    with pytest.raises(
        SweepError, match=r"unknown sweep 'grid_bzs'; did you mean 'grid_bsz'\? \(known: grid_betas, grid_bsz"
    ):
        find_sweep("grid_bzs")


def test_the_decorator_returns_the_function(module_folder: Path) -> None:
    def made() -> Sweep:
        return SMALL

    assert sweep(made) is made
    assert SWEEPS["made"] is made
