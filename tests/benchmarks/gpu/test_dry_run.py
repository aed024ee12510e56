"""The benchmark for machines with a GPU runs in miniature on a machine without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu.records import read
from tests.support.launching import ROOT

NOT_NEEDED = ("ray", "mlflow", "optuna", "numba", "scipy")


@pytest.mark.slow
def test_every_part_works_in_a_dry_run_without_the_libraries_that_a_gpu_machine_may_lack(tmp_path: Path) -> None:
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in NOT_NEEDED)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{hidden}")
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--dry", "--out", str(tmp_path / "gpu.jsonl")]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "gpu.jsonl")
    assert not [result for result in results if "failed" in result], done.stderr
    assert {result["part"] for result in results} == {"environment", "engine", "images", "kernels"}
    (pack,) = (result for result in results if result["part"] == "images")
    assert min(pack["images_a_second"]) > 0
    assert all(result.get("is_right", True) for result in results)
    assert "On: none (dry run)" in done.stdout
