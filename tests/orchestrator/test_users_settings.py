"""Settings of matplotlib's and MLflow's that break these libraries: one line, and what does not need them goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.support.launching import ROOT, WORKLOAD, command, environment, make_folder, rows
from tests.support.warm_python import run_python

INLINE = ("small", "--executor", "inline", "--max-trials", "1")
DRAWN = "from orchestrator import Grid, Sweep, sweep\n" + (
    "@sweep\ndef drawn():\n"
    "    grid = Grid({'adam': {'weight_decay': 1e-5}}, {'batch_size': (20, 50)}, {'num_epochs': 2})\n"
    "    return Sweep('drawn', 'two trials', (grid,), seeds=(0,), figures=('error_vs_batch_size',))\n"
)


def in_new_process(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A launch that imports all libraries itself: settings are read then."""
    words, env = command(*arguments, "--module", "my_sweeps"), environment(**variables)
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)


def drawn(folder: Path, settings: bytes) -> subprocess.CompletedProcess[str]:
    (folder / "my_sweeps.py").write_text(DRAWN)
    (folder / "matplotlibrc").write_bytes(settings)
    return in_new_process(folder, "drawn", "--executor", "inline", "--no-mlflow")


def test_matplotlib_settings_that_are_no_text_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    done = drawn(tmp_path, b"# caf\xe9\nfont.size: 12\n")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: matplotlib cannot be imported: Cannot decode configuration file 'matplotlibrc'")
    assert "--no-figures" in line
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [b"font.size: many\nno.such.key: 3\n", b"lines.linewidth\n: : :\n", b""])
def test_matplotlib_settings_that_mean_nothing_are_passed_over(tmp_path: Path, settings: bytes) -> None:
    done = drawn(tmp_path, settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "results/figures/drawn/error_vs_batch_size.png").is_file()


MLFLOW = {
    "MLFLOW_LOGGING_LEVEL": ("NOPE", "MLflow cannot be imported: Unknown level: 'NOPE': see variables MLFLOW_*"),
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": ("abc", "MLflow: Failed to convert 'abc' for MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"),
    "MLFLOW_SQLALCHEMYSTORE_ECHO": ("maybe", "MLflow: MLFLOW_SQLALCHEMYSTORE_ECHO value must be one of"),
    "MLFLOW_TRACKING_URI": (
        "postgresql://u@127.0.0.1:port/x",
        "MLflow: invalid literal for int() with base 10: 'port'",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MLFLOW)
def test_mlflow_settings_that_mean_nothing_cost_only_the_view(tmp_path: Path, name: str) -> None:
    value, told = MLFLOW[name]
    folder = make_folder(tmp_path)
    done = in_new_process(folder, *INLINE, "--no-figures", **{name: value})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(told) == done.stdout.count("export-mlflow") == 1
    assert len(rows(folder / "results")) == 1
    refused = in_new_process(folder, "export-mlflow", "small", **{name: value})
    (line,) = refused.stderr.splitlines()
    assert refused.returncode == 2
    assert line.startswith(f"error: {told}")


SCRIPT = """
from my_sweeps import small
from orchestrator import RunOptions, run_sweep

options = RunOptions(out="results", executor="inline", max_trials=1, mlflow=False, figures=False)
assert run_sweep(small(), options).failed == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/nowhere", "relative"])
def test_a_script_without_a_home_runs_a_sweep_and_creates_none(tmp_path: Path, home: str) -> None:
    folder = make_folder(tmp_path)
    (folder / "script.py").write_text(SCRIPT)
    variables = environment(HOME=home, TMPDIR=str(tmp_path), PYTHONPATH=f"{ROOT}:{folder}")
    variables.pop("NUMBA_CACHE_DIR", None)
    done = run_python("script.py", cwd=folder, env=variables)
    assert done.returncode == 0, done.stderr
    assert len(Ledger(str(folder / "results")).settled(WORKLOAD)) == 1
    assert "home folder" in done.stderr
    assert not (folder / "relative").exists()
    assert not (folder / "~").exists()
