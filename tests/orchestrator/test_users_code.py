"""What a user's own code raises is one line that names its file and line, and exit code 2: not our whole stack."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from orchestrator.commands.users_code import users_fault
from tests.support.launching import environment, run_launch
from tests.support.product_copy import copy_product, patch
from tests.support.warm_python import run_python

HEAD = """
from orchestrator import Grid, HalvingSearch, Sweep, sweep
from orchestrator.executors.registry import executor
from orchestrator.figures.registry import figure
from orchestrator.sweeps.setups import setup
from search_spaces import LogUniform
from search_spaces.samplers.registry import boundary_sampler, sampler
from trainables.registry import register_workload

SIZES = {"num_train": 8, "num_test": 20, "dimension": 16, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 2}

def made(**more):
    grid = Grid({"adam": {"weight_decay": 1e-5}}, {"batch_size": (4,)}, SIZES)
    return Sweep("mine", "one short trial", (grid,), seeds=(0,), **more)
"""
SWEEP = """
@sweep
def mine():
    return made()
"""
DRAWN = """
@sweep
def mine():
    return made(figures=("broken", "whole"))

@figure
def whole(given):
    from matplotlib.figure import Figure
    return Figure()
"""
BROKEN_IMPORTS = {
    "x = 1\n1 / 0\n": "2: ZeroDivisionError: division by zero",
    "def f(:\n    pass\n": "1: SyntaxError: invalid syntax",
    "import no_such_package\n": "1: ModuleNotFoundError: No module named 'no_such_package'",
    "from os import no_such_name\n": "1: ImportError: cannot import name 'no_such_name' from 'os'",
    "raise ValueError\n": "1: ValueError",
    "raise ValueError('two\\n\\nlines')\n": "1: ValueError: two lines",
    "def f(d):\n    return d['seed']\nf({})\n": "2: KeyError: 'seed'",
}


DECORATORS = ("sampler", "boundary_sampler", "executor", "setup", "register_workload")


def slow(value: str) -> ParameterSet:
    return pytest.param(value, marks=pytest.mark.slow)


def but_first_slow(values: Iterable[str]) -> list[str | ParameterSet]:
    """All of the values, of which only the first is tried by default: one way through the product serves them all."""
    first, *others = values
    return [first, *map(slow, others)]


def launched(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "my_own.py").write_text(module)
    return run_launch(*arguments, "--module", "my_own", "--out", "out", cwd=folder, env=environment())


def ran(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("--no-mlflow", *(arguments or ("--executor", "inline")))
    return launched(folder, module, "run", "mine", *options)


def line_of(module: str, code: str) -> int:
    return 1 + module.splitlines().index(next(line for line in module.splitlines() if code in line))


@pytest.mark.parametrize("module", but_first_slow(BROKEN_IMPORTS))
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path: Path, module: str) -> None:
    done = launched(tmp_path, module, "plan", "grid_bsz")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"error: my_own.py:{BROKEN_IMPORTS[module]}")


def test_the_file_is_named_that_a_module_imports(tmp_path: Path) -> None:
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "numbers_of_mine.py").write_text("\n\nlimit = int('many')\n")
    done = launched(tmp_path, "from helpers import numbers_of_mine\n", "plan", "grid_bsz")
    assert done.returncode == 2
    told = "error: helpers/numbers_of_mine.py:3: ValueError: invalid literal for int() with base 10: 'many'\n"
    assert done.stderr == told


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    done = launched(tmp_path, "x = 1\0\n", "plan", "grid_bsz")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line[:13]) == (2, "error: --modu")
    assert "null bytes" in line


FAULTY = {
    "figure": DRAWN + "\n@figure()\ndef broken(given):\n    return given.trials['no_such_column']  # here\n",
    "sweep": "@sweep\ndef mine():\n    return int('many')  # here\n",
    "setup": '@setup("odd")\ndef odd():\n    return {}["experiments"]  # here\n' + SWEEP,
    "sampler": """
@sampler("odd")
def odd(space, observations, num, seed):
    return [{}][num]  # here

@sweep
def mine():
    search = HalvingSearch({"adam": {"weight_decay": LogUniform(1e-6, 1e1)}}, num_rungs=1, sampler="odd")
    grid = Grid({"adam": {}}, {"batch_size": (4,)}, SIZES)
    return Sweep("mine", "searched", (grid,), seeds=(0,), search=search)
""",
    "workload": """
from trainables.two_layer_cnn.workload import TwoLayerCNN
TwoLayerCNN.cost = lambda self, config: config.no_such_field  # here
"""
    + SWEEP,
    "exit": DRAWN + "\n@figure()\ndef broken(given):\n    raise SystemExit(0)  # here\n",
}


@pytest.mark.parametrize("what", but_first_slow(FAULTY))
def test_what_a_users_function_raises_is_one_line(tmp_path: Path, what: str) -> None:
    module = HEAD + FAULTY[what]
    if what == "setup":
        done = launched(tmp_path, module, "plan", "grid_bsz", "--workload", "odd")
    else:
        done = ran(tmp_path, module)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: my_own.py:{line_of(module, '# here')}: ")
    if what == "figure":
        assert (tmp_path / "out/figures/mine/whole.png").is_file(), "the others are drawn"
        assert "figures  " in done.stdout


NO_EXECUTOR = {
    "none": ("return None", "must return a context manager, got None"),
    "other": ("return nullcontext(3)", "gives 3, which lacks acknowledge, close, device, num_threads, run, slots"),
    "raises": ("raise OSError('no queue')", "OSError: no queue"),
}


@pytest.mark.parametrize("what", but_first_slow(NO_EXECUTOR))
def test_an_executor_that_is_none_is_one_line(tmp_path: Path, what: str) -> None:
    code, told = NO_EXECUTOR[what]
    own = f'from contextlib import nullcontext\n@executor("own")\ndef connect(settings):\n    {code}\n'
    done = ran(tmp_path, HEAD + own + SWEEP, "--executor", "own")
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("code", ["given", slow("'text'"), slow("(1, 2)")])
def test_what_is_no_figure_is_said(tmp_path: Path, code: str) -> None:
    own = f"\n@figure\ndef broken(given):\n    return {code}\n"
    done = ran(tmp_path, HEAD + DRAWN + own)
    assert done.returncode == 2
    assert done.stderr.startswith("error: figure 'broken' must return a matplotlib Figure or None, got a ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_sweeps_and_figures_are_registered_with_and_without_parentheses(tmp_path: Path) -> None:
    module = HEAD + DRAWN.replace('"broken", ', "", 1).replace('("whole")', '("whole",)').replace("@sweep", "@sweep()")
    for number, own in enumerate((module, module.replace("@figure", "@figure()").replace("@sweep()", "@sweep"))):
        (folder := tmp_path / str(number)).mkdir()
        done = ran(folder, own)
        assert done.returncode == 0, done.stderr
        assert (folder / "out/figures/mine/whole.png").is_file()


@pytest.mark.parametrize("decorator", but_first_slow(DECORATORS))
def test_a_decorator_without_its_name_is_one_line(tmp_path: Path, decorator: str) -> None:
    done = launched(tmp_path, f"{HEAD}\n@{decorator}\ndef own(*given):\n    return None\n", "plan", "grid_bsz")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert '("mine"), got <function own' in line


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    """Also if the user has a module: no line of it took part."""
    product = copy_product(tmp_path / "product")
    patch(product / "orchestrator" / "report" / "plan_table.py", "from __future__ import annotations", "1 / 0")
    (tmp_path / "my_own.py").write_text(HEAD + SWEEP)
    command = ("-m", "orchestrator.launch", "plan", "mine", "--module", "my_own")
    done = run_python(*command, cwd=tmp_path, env=environment(PYTHONPATH=str(product)))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_what_is_installed_is_no_code_of_the_users() -> None:
    with pytest.raises(IndexError) as raised:
        subprocess.run([], check=True)
    here = raised.value.__traceback__
    assert here is not None
    assert "test_users_code.py:" in str(users_fault(raised.value))
    assert users_fault(raised.value.with_traceback(here.tb_next)) is None
