"""What the README says can be done, done: its commands, its code, its numbers of trials."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.analysis.cells import cell_summary
from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.registry import find_sweep
from tests.support.images import make_images
from tests.support.launching import ROOT, WORKLOAD, checked, command, environment, make_folder
from trainables.result import Outcome

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python -m orchestrator\.launch (.+?)(?:\s+#.*)?$", README, flags=re.MULTILINE)
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def snippet(containing: str) -> str:
    (found,) = (code for code in SNIPPETS if containing in code)
    return found


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


NO_LAUNCHES = {"list", "status", "export-mlflow", "export-optuna", "data", "submit"}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.split()[0] not in NO_LAUNCHES])
def test_each_launch_can_be_planned(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = shlex.split(line)
    if "--workload" in arguments:
        arguments = on_few_images(arguments, tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))  # the lines say ~/datasets
    for option in ("--executor", "--address"):
        if option in arguments:
            del arguments[arguments.index(option) : arguments.index(option) + 2]
    output = checked(make_folder(tmp_path), *([] if arguments[0] == "plan" else ["plan"]), *arguments)
    assert "to run" in output


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl on PATH")
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.split()[0] == "submit"])
def test_each_submission_makes_a_job(line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(*shlex.split(line), "--dry-run"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "kind: RayJob" in done.stdout


def on_few_images(arguments: list[str], home: Path) -> list[str]:
    """The same launch on a data set of that name with 48 images."""
    dataset, _, _ = arguments[arguments.index("--workload") + 1].rpartition("_")
    make_images(home / "datasets", dataset, size=32)
    fewer = {"batch_size": "16", "num_train": "48", "num_test": "24", "image_size": "32", "micro_batch_size": "8"}
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument != "--set":
            kept.append(argument)
        elif (setting := next(rest)).partition("=")[0] not in fewer:
            kept += ["--set", setting]
    return kept + [part for name, value in fewer.items() for part in ("--set", f"{name}={value}")]


def test_the_table_of_sweeps_has_their_numbers_of_trials() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", README, flags=re.MULTILINE))
    assert table
    for name, trials in table.items():
        assert find_sweep(name).num_trials == int(trials)


def test_one_trial_without_ray(tmp_path: Path) -> None:
    assert run_python(snippet("Member(config"), tmp_path).startswith("learned ")


def test_a_sweep_of_ones_own(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "my_sweeps.py").write_text(snippet("def sparsity"))
    assert "80: 0 done" in checked(folder, "plan", "sparsity")


def test_results_in_duckdb_and_pandas_are_the_rows_that_the_products_tables_are_of(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    sizes = {"num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4}
    common = {**sizes, "num_epochs": 9, "batch_size": 5, "optimizer": "adam"}
    launched(folder, "tune_wd", common, seeds="0")
    ledger = Ledger(str(folder / "results"))
    pruned = next(row for row in ledger.trials(WORKLOAD).to_pylist() if row["outcome"] == Outcome.PRUNED)
    in_full = {name: pruned[name] for name in ("learning_rate", "weight_decay")}
    launched(folder, "grid_bsz", common | in_full, seeds=str(pruned["seed"]))
    launched(folder, "grid_bsz", common | {"weight_decay": 1e3}, seeds="0")
    files = {table: pd.read_parquet(folder / "results" / table) for table in ("trials", "traces")}
    assert files["trials"].duplicated("trial_id").any()
    assert files["traces"].duplicated(["trial_id", "epoch"]).any()
    assert {"pruned", "stuck"} <= set(files["trials"]["outcome"])

    output = run_python(snippet("duckdb.sql") + "\ncurves.to_parquet('curves.parquet')", folder)
    (cell,) = re.findall(r"│ adam +│ +5 │ +([0-9.]+) │ +([0-9.]+) │ +([0-9]+) │", output)
    (expected,) = cell_summary(ledger.trials(WORKLOAD).to_pandas(), ["optimizer", "batch_size"]).to_dict("records")
    assert [float(number) for number in cell] == pytest.approx(
        [expected[name] for name in ("test_error_mean", "test_error_std", "n")]
    )
    curves = pd.read_parquet(folder / "curves.parquet")
    assert not curves.duplicated(["trial_id", "epoch"]).any()
    assert set(curves["trial_id"]) == set(files["trials"]["trial_id"])
    assert "feature_learning_positive" in curves


def launched(folder: Path, sweep: str, values: Mapping[str, Any], seeds: str) -> None:
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    checked(folder, sweep, *sets, "--seeds", seeds, "--executor", "inline", "--no-mlflow", "--no-figures")


@pytest.mark.slow
def test_the_trainable_in_ones_own_tuner(tmp_path: Path) -> None:
    output = run_python(snippet("tune.Tuner(").replace('"num_epochs": 100', '"num_epochs": 20'), tmp_path)
    assert "test_error" in output
