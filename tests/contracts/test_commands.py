"""A command is one function: nothing but appending it makes `launch` run it, list it and keep sweeps from its name."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from orchestrator.commands.app import command
from orchestrator.commands.command_line import app
from orchestrator.errors import SweepError
from orchestrator.sweeps.registry import SWEEPS, load_sweeps, sweep
from orchestrator.sweeps.reserved import RESERVED
from orchestrator.sweeps.value import Grid, Sweep
from tests.support.launching import ROOT
from tests.support.product_copy import copy_product, launch_copy

HELLO = '''

@command()
def hello_there(to: str = "you") -> None:
    """Greet a user."""
    typer.echo(f"hello {to}")


@command("hi")
def greet() -> None:
    """Greet in short."""
    typer.echo("hi")
'''
SWEEP = """
from orchestrator import Grid, Sweep, sweep

@sweep
def hi() -> Sweep:
    return Sweep("hi", "a sweep of this name", (Grid({"adam": {"weight_decay": 1e-3}}, {}, {"batch_size": 2}),))
"""
COMMANDS = sorted(str(one.name) for one in app.registered_commands)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose module of commands that show has two more functions."""
    made = copy_product(tmp_path_factory.mktemp("product"))
    with (made / "orchestrator/commands/show.py").open("a") as file:
        file.write(HELLO)
    return made


@pytest.mark.parametrize(
    ("arguments", "says"), [("hello-there", "hello you\n"), ("hello-there --to me", "hello me\n"), ("hi", "hi\n")]
)
def test_a_function_is_a_command(arguments: str, says: str, product: Path, tmp_path: Path) -> None:
    done = launch_copy(product, tmp_path, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (0, says, "")


def test_help_lists_it_beside_the_others(product: Path, tmp_path: Path) -> None:
    said, before = (launch_copy(where, tmp_path, "--help").stdout for where in (product, ROOT))
    found = {line.split()[1]: line for line in said.splitlines() if line.startswith("│ ")}
    assert "Greet a user." in found["hello-there"]
    assert "Greet in short." in found["hi"]
    assert [line.split()[1] for line in before.splitlines() if line.startswith("│ ")] == [
        name for name in found if name not in {"hello-there", "hi"}
    ]


def test_no_sweep_of_a_user_has_its_name(product: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SWEEP)
    arguments = ("plan", "grid_bsz", "--module", "mine")
    assert launch_copy(ROOT, tmp_path, *arguments).returncode == 0
    done = launch_copy(product, tmp_path, *arguments)
    line = "error: 'hi' is a command of launch: choose another name for the sweep\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("name", sorted({"all", *COMMANDS}))
def test_a_sweep_cannot_be_named_as_a_command(name: str) -> None:
    def made() -> Sweep:
        return Sweep("made", "", (Grid({"adam": {}}),))

    made.__name__ = name
    with pytest.raises(SweepError, match=f"'{name}' is a command of launch"):
        sweep(made)
    assert name not in SWEEPS


def test_all_commands_are_reserved_and_no_sweep_of_ours_has_a_reserved_name() -> None:
    assert {"run", "submit", "plan", "list", "status", "export-mlflow", "export-optuna", "data"} <= set(COMMANDS)
    assert {"all", *COMMANDS} == RESERVED
    assert not RESERVED & set(load_sweeps())


def test_two_commands_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="the name 'plan' is taken"):
        command("plan")(test_two_commands_cannot_have_one_name)
    assert sorted(str(one.name) for one in app.registered_commands) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_line_of_help(name: str) -> None:
    (entered,) = [one for one in app.registered_commands if one.name == name]
    assert inspect.getdoc(entered.callback)
