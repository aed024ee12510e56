"""Every named sweep expands the same each time, and can be planned, changed and shown: ours, and a user's own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.driver.options import RunOptions
from orchestrator.driver.run import run_sweep
from orchestrator.errors import SweepError, UserError
from orchestrator.figures.drawing import check, figures_of
from orchestrator.ledger.ledger import Ledger
from orchestrator.report.plan_table import plan_table
from orchestrator.report.presentations import tables_of
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.registry import SWEEPS, find_sweep, load_sweeps, sweep
from orchestrator.sweeps.value import Grid, Sweep
from tests.support.launching import ROOT, environment
from tests.support.made_results import frames, made_result
from tests.support.registration import TOYS, registered

MODULE = "tests.contracts.toy.sweeps"
NAMES = [*load_sweeps(), "toys", "toy_rule"]


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    with registered(*TOYS):
        yield


def found(name: str) -> Sweep:
    """As `launch NAME --module` finds it."""
    return find_sweep(name, MODULE)


def check_expansion(name: str) -> None:
    """One name, and the same trials each time, each once."""
    made = found(name)
    ids = [config.trial_id for config in made.configs()]
    assert made.name == name
    assert made.title
    assert found(name) == made
    assert [config.trial_id for config in found(name).configs()] == ids
    assert len(set(ids)) == len(ids) > 0
    assert {config.workload for config in made.configs()} == {made.workload}


@pytest.mark.parametrize("name", NAMES)
class TestEverySweep:
    def test_it_expands_the_same_each_time(self, name: str) -> None:
        check_expansion(name)

    def test_it_may_have_the_figures_that_it_names(self, name: str) -> None:
        made = found(name)
        check(made)
        assert [spec.fault_of(made) for spec in figures_of(made)] == [None] * len(made.figures)

    def test_a_launch_may_change_a_field_and_its_seeds(self, name: str) -> None:
        made = found(name)
        changed = made.with_overrides(["num_epochs=2"])
        assert {config.num_epochs for config in changed.configs()} == {2}
        assert (changed.name, changed.figures, changed.seeds) == (made.name, made.figures, made.seeds)
        if isinstance(made.search, MapSearch):
            with pytest.raises(SweepError, match="its seeds cannot be chosen"):
                made.with_overrides(seeds="7")
        else:
            assert {config.seed for config in made.with_overrides(seeds="7").configs()} == {7}

    def test_a_plan_says_what_it_is(self, name: str, tmp_path: Path) -> None:
        made, text = found(name), io.StringIO()
        plan = plan_sweep(made, Ledger(str(tmp_path)))
        Console(file=text, width=200).print(plan_table(plan))
        said = " ".join(text.getvalue().split())
        assert said.startswith(f"{name}: {made.title} ")
        assert f" {made.num_trials}: 0 done, {made.num_trials} to run " in said

    @pytest.mark.parametrize("num_trials", [1, 30])
    def test_its_tables_are_of_whatever_has_ended(self, name: str, num_trials: int, tmp_path: Path) -> None:
        made = found(name)
        tasks, _ = plan_sweep(made, Ledger(str(tmp_path))).scheduler.advance()
        trials, _ = frames([made_result(task.config) for task in tasks[:num_trials]])
        tables = tables_of(made, trials)
        assert all(title and len(table.columns) for title, table in tables)
        assert any(len(table) for _, table in tables)


EXPAND = """
import json
from orchestrator.sweeps.registry import find_sweep
print(json.dumps({{name: [c.trial_id for c in find_sweep(name, "{module}").configs()] for name in {names}}}))
"""


def test_all_expand_the_same_in_another_process() -> None:
    program = EXPAND.format(module=MODULE, names=NAMES)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {name: [c.trial_id for c in found(name).configs()] for name in NAMES}


def test_the_tables_of_a_launch_are_of_its_rows(tmp_path: Path) -> None:
    made = found("toys").with_overrides(["batch_size=4"], "0")
    run_sweep(made, RunOptions(out=str(tmp_path), executor="inline", mlflow=False, figures=False))
    ((title, table),) = tables_of(made, Ledger(str(tmp_path)).trials("toy").to_pandas())
    assert title == made.title
    assert list(table["optimizer"]) == ["adam", "adamw", "toylion"]


# --- sweeps that break the contract ---


def test_a_sweep_that_is_another_each_time_is_found_out() -> None:
    calls: list[int] = []

    def restless() -> Sweep:
        calls.append(len(calls))
        grid = Grid({"adam": {"weight_decay": 1e-3}}, {}, {"batch_size": 2, "num_epochs": len(calls)})
        return Sweep("restless", "another each time", (grid,), seeds=(0,))

    sweep(restless)
    try:
        with pytest.raises(AssertionError):
            check_expansion("restless")
    finally:
        del SWEEPS["restless"]


@pytest.mark.parametrize(("figure", "workload"), [("gradients", "two_layer_cnn"), ("phase_diagram", "toy")])
def test_a_figure_that_it_may_not_have_is_found_out(figure: str, workload: str) -> None:
    with pytest.raises(UserError, match=f"^{figure} "):
        check(Sweep("wrong", "", (Grid({"adam": {}}),), figures=(figure,), workload=workload))
