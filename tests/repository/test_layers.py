"""Who may import whom: pyproject.toml's contracts hold, and planning in a fresh interpreter loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "numba", "mlflow", "matplotlib")


def test_the_contracts_of_pyproject_hold() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]  # `-c`: finds this checkout's packages, not installed ones
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_its_contract() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layered = {name for contract in linter["contracts"] for name in contract.get("containers", ())}
    assert layered == set(linter["root_packages"])


def test_planning_a_workload_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from trainables.registry import WORKLOADS, config_from_values, workload\n"
        "values = dict(workload='two_layer_cnn', optimizer='adam', weight_decay=0, batch_size=2, seed=0)\n"
        "config = config_from_values(values)\n"
        "found = workload('two_layer_cnn')\n"
        "assert found.cost(config) > 0 and found.memory(config) > 0 and found.pack_key(config)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "[]\n"
