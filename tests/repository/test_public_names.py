"""The names that each package lists at its root exist, load nothing before they are used, and are documented."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from enum import EnumType
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import orchestrator
import search_spaces
import trainables
from orchestrator.sweeps.registry import SWEEPS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (orchestrator, trainables, search_spaces)
NAMES = [(package, name) for package in PACKAGES for name in package.__all__]
HEAVY = ("pydantic", "torch", "ray", "numba", "mlflow", "matplotlib", "pandas", "numpy", "pyarrow", "optuna")

each_name = pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{p.__name__}.{name}" for p, name in NAMES])


def documentation(package: ModuleType, name: str) -> str:
    return inspect.getdoc(getattr(package, name)) or ""


def parameters(public: Any) -> set[str]:
    """What a caller passes, and what a protocol requires beside methods; nothing for an enumeration."""
    if isinstance(public, EnumType):
        return set()
    if hasattr(public, "model_fields"):  # of pydantic
        return set(public.model_fields)
    if is_dataclass(public):
        return {field.name for field in fields(public) if field.init}
    if isinstance(public, type) and "__new__" in vars(public):
        return set(inspect.signature(public.__new__).parameters) - {"cls"}
    if isinstance(public, type) and "__init__" not in vars(public):
        return set(vars(public).get("__annotations__", ()))
    if isinstance(public, type) and getattr(public, "_is_protocol", False):
        return set(public.__annotations__)
    return set(inspect.signature(public).parameters)


def test_what_a_checker_reads_is_what_there_is() -> None:
    for package in PACKAGES:
        tree = ast.parse(Path(str(package.__file__)).read_text())
        conditions = [node for node in tree.body if isinstance(node, ast.If)]
        (block,) = (node for node in conditions if ast.unparse(node.test) == "TYPE_CHECKING")
        read = {name.asname: one.module for one in block.body for name in one.names}  # type: ignore[attr-defined]
        assert read == package._PLACES


@each_name
def test_a_name_is_where_it_is_defined(package: ModuleType, name: str) -> None:
    public = getattr(package, name)
    assert public.__module__ == package._PLACES[name]
    assert name in dir(package)


@each_name
def test_no_name_is_a_module_beside_it(package: ModuleType, name: str) -> None:
    """An import of that module would replace the name."""
    folder = Path(str(package.__file__)).parent
    assert not (folder / name).exists()
    assert not (folder / f"{name}.py").exists()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.__name__))
def test_a_name_that_is_not_there_is_said_so(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Grids'"):
        package.Grids  # noqa: B018
    assert import_module(package.__name__) is package


@pytest.mark.parametrize(
    "program",
    [
        "import orchestrator, trainables, search_spaces",
        "import sys; sys.argv[1:] = ['--help']; from orchestrator.launch import main; main()",
    ],
    ids=["the packages", "launch --help"],
)
def test_nothing_heavy_is_loaded_before_its_time(program: str) -> None:
    told = f"import atexit, sys; atexit.register(lambda: print([n for n in {HEAVY!r} if n in sys.modules])); {program}"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@each_name
def test_a_name_is_documented(package: ModuleType, name: str) -> None:
    text = documentation(package, name)
    assert text.splitlines()[0].endswith("."), "begins with one full sentence, on one line"
    sections = dict(re.findall(r"^(\w+):\n((?:(?: .*)?\n?)*)", text, flags=re.MULTILINE))
    described = re.findall(r"^    (\w+(?:, \w+)*)[^:\n]*: ", sections.get("Args", ""), flags=re.MULTILINE)
    told = {one for group in described for one in group.split(", ")}
    assert parameters(getattr(package, name)) <= told
    assert "Example" in sections


@each_name
def test_the_example_of_a_name_runs(
    package: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.sweeps.registry.SWEEPS", dict(SWEEPS))
    example = doctest.DocTestParser().get_doctest(
        documentation(package, name), {"__name__": "example"}, name, None, None
    )
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.DocTestRunner(optionflags=flags).run(example, out=said.append)
    assert tried, "an example runs"
    assert not failed, "".join(said)
