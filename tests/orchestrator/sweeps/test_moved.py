"""A user's module that imports an old place gets one line that names the new place; every new place exists."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.sweeps.moved import MODULES, NAMES, place_of
from tests.support.launching import launch


def names_in(module: str) -> set[str]:
    """What a module defines, read without loading it."""
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    found: set[str] = set()
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return found


@pytest.mark.parametrize("new", sorted(set(MODULES.values())))
def test_every_new_module_is_there(new: str) -> None:
    assert find_spec(new) is not None


@pytest.mark.parametrize(("old", "name"), sorted(NAMES), ids=lambda part: part)
def test_every_name_is_in_its_new_module(old: str, name: str) -> None:
    place, _, new_name = NAMES[old, name].partition(" as ")
    assert (new_name or name) in names_in(place)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (
            "from orchestrator.search import HalvingSearch",
            "my_sweeps imports orchestrator.search, which is now orchestrator.sweeps.halving_search",
        ),
        (
            "import orchestrator.claim_rule",
            "my_sweeps imports orchestrator.claim_rule, which is now orchestrator.sweeps.claim_rule",
        ),
        (
            "from orchestrator import runner",
            "my_sweeps imports orchestrator.runner, which is now orchestrator.driver.run; ",
        ),
        (
            "from orchestrator.runner import RunOptions",
            "my_sweeps imports orchestrator.runner, which is now orchestrator.driver.run; ",
        ),
        (
            "from orchestrator.sweeps import sweep",
            "my_sweeps imports sweep of orchestrator.sweeps, whose names are now in orchestrator.sweeps.registry",
        ),
        (
            "from orchestrator.ledger import Ledger",
            "my_sweeps imports Ledger of orchestrator.ledger, whose names are now in orchestrator.ledger.ledger",
        ),
        (
            "from trainables.config import TwoLayerCNNConfig",
            "my_sweeps imports TwoLayerCNNConfig of trainables.config, which is now in trainables.two_layer_cnn.config",
        ),
    ],
    ids=lambda text: text.split()[1] if " import " in text or text.startswith("import") else "",
)
def test_an_old_import_of_a_users_module_is_answered_in_one_line(line: str, answer: str, tmp_path: Path) -> None:
    (tmp_path / "my_sweeps.py").write_text(f"{line}\n")
    done = launch(tmp_path, "list")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {answer}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_what_a_split_module_gave_away_is_named_too() -> None:
    error = ModuleNotFoundError("No module named 'orchestrator.runner'", name="orchestrator.runner")
    assert "RunOptions" in str(place_of(error))
    assert "orchestrator.driver.options" in str(place_of(error))


def test_other_import_errors_are_none_of_ours() -> None:
    assert place_of(ModuleNotFoundError("No module named 'a_library'", name="a_library")) is None
    assert place_of(ImportError("cannot import name 'x' from 'a_library' (a.py)", name="a_library")) is None
    slip = ImportError("cannot import name 'Konfig' from 'trainables.config' (a.py)", name="trainables.config")
    assert place_of(slip) is None
