"""What the READMEs say works: their commands and code run, their numbers of trials are right, what they name exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from orchestrator.analysis.cells import cell_summary
from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.registry import find_sweep, load_sweeps
from tests.support.images import make_images
from tests.support.launching import ROOT, WORKLOAD, checked, environment, make_folder, run_launch
from tests.support.manifests import COMPONENTS, K8S, OVERLAYS, development, rendering
from tests.support.readmes import (
    LAUNCH,
    NAMES,
    TEXTS,
    blocks,
    commands,
    headings,
    inline_code,
    links,
    parsed,
    shell_lines,
    words,
)
from tests.support.warm_python import run_python
from trainables.config import TrialConfig
from trainables.registry import workload as find_workload
from trainables.result import Outcome

FRONT = TEXTS["README.md"]
LAUNCHES = commands(*LAUNCH)
SNIPPETS = [code for text in TEXTS.values() for code in blocks(text, "python")]
TESTED = ("Member(config", "def sparsity", "duckdb.sql", "tune.Tuner(", "BoundarySampler(")
"""Text that identifies each snippet that is run below."""
PACKAGES = ("orchestrator", "trainables", "search_spaces")
BENCHMARKS = ROOT / "tests" / "benchmarks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGE = TEXTS["tests/benchmarks/README.md"]
WRITTEN = {"my_sweeps.py", "results/", "data/", ".leases/", ".claims/", "mlflow-views/", "mlflow-artifacts/"}
"""Files and folders that a user or a launch makes."""


def snippet(containing: str) -> str:
    (found,) = (code for code in SNIPPETS if containing in code)
    return found


def printed_by(code: str, folder: Path) -> str:
    done = run_python("-c", code, cwd=folder, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The pages


def test_every_readme_of_ours_is_read_here() -> None:
    folders = (*PACKAGES, "tests", "k8s")
    found = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("README.md")}
    assert found | {"README.md"} == set(NAMES)


def test_the_front_page_is_short() -> None:
    assert len(FRONT.encode()) <= 9000


@pytest.mark.parametrize("name", NAMES)
def test_links_and_images_lead_somewhere(name: str) -> None:
    for path, heading in links(name):
        assert path.exists(), path
        if heading:
            assert heading in headings(path.read_text()), f"{path.relative_to(ROOT)}#{heading}"


@pytest.mark.parametrize("name", NAMES)
def test_tests_and_manifests_that_it_names_exist(name: str) -> None:
    for path in re.findall(r"(?<![\w/.])(?:tests|k8s)/[\w./-]*\w", TEXTS[name]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", NAMES)
def test_modules_and_folders_that_it_names_exist(name: str) -> None:
    folders = ((ROOT / name).parent, *(ROOT / package for package in PACKAGES))
    for path in inline_code(TEXTS[name]):
        if re.fullmatch(r"[\w./-]+(?:\.py|/)", path) and path not in WRITTEN:
            places = (place for folder in folders if folder != ROOT for place in folder.rglob(path.removesuffix("/")))
            assert (ROOT / path).exists() or any(places), path


@pytest.mark.parametrize("workload", ["two_layer_cnn", "sign_agreement", "image_classifier"])
def test_the_fields_of_each_workload_are_listed(workload: str) -> None:
    page = TEXTS["trainables/README.md"].partition("## The fields of a trial")[2].partition("\n## ")[0]
    before, _, table = page.partition("| workload | fields |")
    (row,) = (line for line in table.splitlines() if f"`{workload}`" in line.partition(" | ")[0])
    own = find_workload(workload).config_type.model_fields.keys() - TrialConfig.model_fields.keys()
    assert set(re.findall(r"`(\w+)`", row.partition(" | ")[2])) == own
    assert set(re.findall(r"`(\w+)`", before)) >= TrialConfig.model_fields.keys() - {"workload"}


@pytest.mark.parametrize("package", ["orchestrator", "trainables"])
def test_the_layers_are_those_of_the_contracts(package: str) -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == [package])
    assert layers == blocks(TEXTS[f"{package}/README.md"], "")[0].splitlines()


def test_the_front_pages_results_are_those_of_the_findings() -> None:
    rows = re.findall(r"^\| Adam.+$", FRONT, flags=re.MULTILINE)
    assert len(rows) == 5
    assert set(rows) <= set(TEXTS["orchestrator/sweeps/README.md"].splitlines())


def test_the_table_of_sweeps_has_all_and_their_numbers_of_trials() -> None:
    table = re.findall(r"^\| `(\w+)` \| (\d+)( and more)? \|", FRONT, flags=re.MULTILINE)
    ours = {name for name, made in load_sweeps().items() if made.__module__.startswith("orchestrator.")}
    assert {name for name, _, _ in table} == ours
    for name, trials, _ in table:
        assert find_sweep(name).num_trials == int(trials)


# Launches

STARTED = ("list", "status")
ONLY_PARSED = ("data", "export-mlflow", "export-optuna", "submit")
PLACES = ("--executor", "--address", "--max-nodes", "--slots-per-node", "--out")


@pytest.mark.parametrize("line", LAUNCHES)
def test_each_launch_is_one_that_the_command_line_takes(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()  # the lines say ~/datasets
    parsed(line)


PLANNED = [
    line
    for line in LAUNCHES
    if shlex.split(line)[3] not in (*STARTED, *ONLY_PARSED) and "--module" not in shlex.split(line)
]


@pytest.mark.parametrize("line", PLANNED)
def test_each_launch_can_be_planned(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = shlex.split(line)[3:]
    if "--workload" in arguments:
        arguments = on_few_images(arguments, tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
    for option in PLACES:
        if option in arguments:
            del arguments[arguments.index(option) : arguments.index(option) + 2]
    output = checked(make_folder(tmp_path), *([] if arguments[0] == "plan" else ["plan"]), *arguments)
    assert "to run" in output


@pytest.mark.parametrize("line", [line for line in LAUNCHES if shlex.split(line)[3] in STARTED and "://" not in line])
def test_each_question_is_answered(line: str, tmp_path: Path) -> None:
    assert "grid_bsz" in checked(make_folder(tmp_path), *shlex.split(line)[3:])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl on PATH")
@pytest.mark.parametrize("line", [line for line in LAUNCHES if shlex.split(line)[3] == "submit"])
def test_each_submission_makes_a_job(line: str, tmp_path: Path) -> None:
    done = run_launch(*shlex.split(line)[3:], "--dry-run", cwd=Path.cwd(), env=environment())
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


# Snippets


def test_every_snippet_is_run_below() -> None:
    assert sorted(next(mark for mark in TESTED if mark in code) for code in SNIPPETS) == sorted(TESTED)


def test_one_trial_without_ray(tmp_path: Path) -> None:
    assert printed_by(snippet("Member(config"), tmp_path).startswith("learned ")


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

    output = printed_by(snippet("duckdb.sql") + "\ncurves.to_parquet('curves.parquet')", folder)
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
    output = printed_by(snippet("tune.Tuner(").replace('"num_epochs": 100', '"num_epochs": 20'), tmp_path)
    assert "test_error" in output


def test_the_boundary_sampler_in_ones_own_study(tmp_path: Path) -> None:
    output = printed_by(snippet("BoundarySampler(") + "\nprint(sorted({t.value for t in study.trials}))", tmp_path)
    assert "[0.0, 1.0]" in output  # both sides of the boundary


# Benchmarks and tests

AS_MODULES = {
    line: BENCHMARKS / line.split()[2].split(".")[2] for line in commands("python", "-m") if "benchmarks" in line
}
AS_FILES = {line: ROOT / line.split()[1] for line in commands("python") if line.startswith("python tests/")}


def file_of(line: str) -> Path:
    """The file that a benchmark's command runs."""
    path = AS_MODULES.get(line) or AS_FILES[line]
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("line", [*AS_MODULES, *AS_FILES])
def test_each_benchmark_takes_its_options(line: str) -> None:
    path = file_of(line)
    source = path.read_text()
    options = [word for word in shlex.split(line) if word.startswith("--")]
    if "argparse" not in source:
        compile(source, path, "exec")
        assert "__main__" in source
        assert options == []
        return
    python, *rest = shlex.split(line)
    done = run_python(*rest, "--help", cwd=ROOT, env=environment())
    assert (python, done.returncode) == ("python", 0), done.stderr
    for option in options:
        assert option in done.stdout


def test_the_page_of_benchmarks_names_all() -> None:
    runnable = [path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    for name in (*runnable, "gpu"):
        assert re.search(rf"`python (?:-m tests\.benchmarks\.{name}|tests/benchmarks/{name}\.py)\b", PAGE), name


def test_tests_that_are_to_be_run_exist() -> None:
    named = [word for line in commands("pytest") for word in shlex.split(line) if word.startswith("tests/")]
    assert named
    for path in named:
        assert (ROOT / path).is_file()


# Kubernetes

SHELL = [words(line) for text in TEXTS.values() for line in shell_lines(text)]
DOCKERFILE = (K8S / "Dockerfile").read_text()


def after(line: list[str], *options: str) -> list[str]:
    """The values that follow these options."""
    return [value for option, value in pairwise(line) if option in options]


def lines_of(tool: str) -> list[list[str]]:
    return [line for line in SHELL if line[:1] == [tool]]


def test_what_kubectl_and_helm_are_given_exists() -> None:
    applied = [path for line in lines_of("kubectl") for path in after(line, "-k")]
    assert {*applied} >= {"k8s/overlays/local", "k8s/development"}
    for path in applied:
        assert (ROOT / path / "kustomization.yaml").is_file()
    files = [path for line in lines_of("kubectl") for path in after(line, "-f", "--filename")]
    files += [path for line in lines_of("helm") for path in after(line, "--values", "-f")]
    assert files
    for path in files:
        assert (ROOT / path).is_file()


def test_overlays_and_components_exist() -> None:
    given = [line for line in SHELL if tuple(line[:3]) == LAUNCH]
    overlays = {name for line in given for name in after(line, "--overlay")}
    components = {name for line in given for name in after(line, "--component")}
    assert overlays
    assert overlays <= set(OVERLAYS)
    assert components
    assert components <= set(COMPONENTS)


def test_objects_that_kubectl_is_asked_for_exist() -> None:
    there = {f"{found['kind'].lower()}/{found['metadata']['name']}" for found in [*rendering("local"), *development()]}
    asked = {word for line in lines_of("kubectl") for word in line if re.fullmatch(r"[a-z]+/[a-z-]+", word)}
    assert {"statefulset/database", "deployment/mlflow", "service/mlflow"} <= asked
    assert asked <= there


def test_the_image_is_the_one_that_the_manifests_name() -> None:
    (build,) = (line for line in lines_of("docker") if line[1] == "build")
    (dockerfile,) = after(build, "--file")
    assert (ROOT / dockerfile).is_file()
    for argument in after(build, "--build-arg"):
        assert f"ARG {argument.partition('=')[0]}=" in DOCKERFILE
    (image,) = (line[0].partition("=")[2] for line in SHELL if line[0].startswith("IMAGE="))
    for overlay in OVERLAYS:
        (named,) = yaml.safe_load((K8S / "overlays" / overlay / "kustomization.yaml").read_text())["images"]
        assert named["name"] == image
        assert f"$IMAGE:{named['newTag']}" in after(build, "--tag")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl on PATH")
def test_a_kustomization_of_ones_own_renders(tmp_path: Path) -> None:
    (own,) = blocks(TEXTS["k8s/README.md"], "yaml")
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(own)
    done = subprocess.run(["kubectl", "kustomize", tmp_path / "mine"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kind: RayJob" in done.stdout
