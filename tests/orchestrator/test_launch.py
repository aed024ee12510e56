"""The command line in real processes: what it refuses, what it loads, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.registry import find_sweep
from tests.support.launching import heed_signals, run_launch
from trainables.config import TrialConfig
from trainables.provenance import provenance
from trainables.result import Outcome, TrialResult

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("ray", "torch", "mlflow", "matplotlib", "numba")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
OWN_SWEEP = """
from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep

@sweep
def tiny() -> Sweep:
    sizes = {"num_train": 8, "num_test": 20, "dimension": 16, "noise_sparsity": 4, "num_filters": 2, "num_epochs": 2}
    grid = Grid({"adam": {}, "adamw": {}}, {"weight_decay": (0.0, 1e-3)}, {"batch_size": 4, **sizes})
    return Sweep(name="tiny", title="four short trials", grids=(grid,), seeds=(0,))
"""
RUN_TINY = ("--module", "my_sweeps", "--executor", "inline", "--no-mlflow", "--no-figures")


def launch(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run_launch(*arguments, cwd=cwd, env=ENVIRONMENT | more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's current folder, with a module of their own sweeps."""
    (tmp_path / "my_sweeps.py").write_text(OWN_SWEEP)
    return tmp_path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in {"my_sweeps.py", "__pycache__"})


# --- refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("grid_bzs", "unknown sweep or command 'grid_bzs'; did you mean 'grid_bsz'?"),
        ("run grid_bzs", "unknown sweep 'grid_bzs'; did you mean 'grid_bsz'? (known: grid_betas, grid_bsz, grid_wd"),
        ("pln grid_bsz", "unknown sweep or command 'pln'; did you mean 'plan'?"),
        ("grid_bsz --module no_sweeps", "no module 'no_sweeps' in the current folder"),
        ("grid_bsz --set batch_sise=2", "unknown field 'batch_sise'; did you mean 'batch_size'? (known: "),
        ("grid_bsz --set batch_size=two", "batch_size is an integer, got 'two'"),
        ("grid_bsz --set optimizer=adm", "unknown optimizer 'adm'; did you mean 'adam'?"),
        ("grid_bsz --set weight_decay=-1", "weight_decay: input should be greater than or equal to 0, got -1.0"),
        ("grid_bsz --set num_train=50", "batch_size <= num_train is required, got B=100, n=50"),
        ("grid_bsz --set beta1=0.99 --set beta2=0.9", "beta1^2 < beta2 is required, got beta1=0.99, beta2=0.9"),
        ("grid_bsz --set noise_sparsity=1000", "noise_sparsity < dimension is required, got s=1000, d=1000"),
        ("grid_bsz --set optimizer=signsgd", "signsgd has no weight_decay in this sweep: add it with --set "),
        ("tune_wd --set optimizer=signsgd", "no search space for optimizer 'signsgd' (known: adam, adamw)"),
        ("map_wd --set optimizer=signsgd", "no space for optimizer 'signsgd' (known: adam, adamw)"),
        ("plan tune_wd --seeds 998-1001", "tune_wd searches with seed 1000 and trains the best points with other "),
        ("tune_wd --set seed=0,1000", "leave 1000 out of the seeds, got 0, 1000"),
        ("grid_bsz --seeds 3-1", "seeds are numbers and rising ranges such as 0-9 or 0,3,5-7, got '3-1'"),
        ("grid_bsz --executor rey", "unknown executor 'rey'; did you mean 'ray'?"),
        (
            "grid_bsz --executor inline --address 10.0.0.1:6379",
            "--address names a Ray cluster, and --executor inline runs in this process: give one of them",
        ),
        ("grid_bsz --max-trials 0", "Invalid value for '--max-trials'"),
        ("grid_bsz --exectuor ray", "No such option: --exectuor"),
        ("plan grid_bsz --seeds a", "seeds are numbers and rising ranges"),
        ("status grid_bzs", "unknown sweep 'grid_bzs'; did you mean 'grid_bsz'?"),
        ("export-mlflow grid_bsz --seeds a", "seeds are numbers and rising ranges"),
        ("run", "Missing argument 'SWEEP'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_started(folder: Path, arguments: str, message: str) -> None:
    done = launch(*arguments.split(), cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert done.stdout == ""
    assert left_behind(folder) == []


def test_an_output_folder_that_cannot_be_is_named(folder: Path) -> None:
    (folder / "results").write_text("a file")
    done = launch("tiny", *RUN_TINY, cwd=folder)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(folder / "results") in line


@pytest.mark.parametrize("name", ["figures", "figures/grid_bsz"])
def test_a_file_in_the_place_of_the_figures_is_said_before_anything_is_trained(name: str, folder: Path) -> None:
    (folder / "results" / name).parent.mkdir(parents=True)
    (folder / "results" / name).touch()
    done = launch("grid_bsz", "--executor", "inline", "--no-mlflow", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {folder}/results/{name} is a file where a folder belongs; move it away\n"


def test_an_output_without_a_name_is_refused(folder: Path) -> None:
    done = launch("tiny", *RUN_TINY, "--out", "", cwd=folder)
    assert (done.returncode, done.stderr) == (2, "error: an output folder or URI is needed, got an empty name\n")
    assert left_behind(folder) == []


@pytest.mark.parametrize("name", ["#1", "why?", "50%41"])
def test_a_folder_that_no_sqlite_uri_can_name_is_refused_before_anything_is_trained(folder: Path, name: str) -> None:
    arguments = ("tiny", "--module", "my_sweeps", "--executor", "inline", "--no-figures", "--out", name)
    done = launch(*arguments, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: a SQLite URI reads #, ? and %41 of ")
    assert not list(folder.rglob("*.parquet"))
    assert launch(*arguments, "--no-mlflow", cwd=folder).returncode == 0


def test_a_figure_that_is_not_there_is_said_before_anything_is_trained(folder: Path) -> None:
    text = OWN_SWEEP.replace("seeds=", 'figures=("error_vs_batchsize",), seeds=')
    assert text != OWN_SWEEP
    (folder / "my_sweeps.py").write_text(text)
    done = launch("tiny", "--module", "my_sweeps", "--executor", "inline", "--no-mlflow", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown figure 'error_vs_batchsize'; did you mean 'error_vs_batch_size'?")
    assert left_behind(folder) == []


def test_one_faulty_sweep_of_a_module_hides_no_other(folder: Path) -> None:
    broken = "\n\n@sweep\ndef empty():\n    return Sweep('empty', 'none', ())\n"
    (folder / "my_sweeps.py").write_text(OWN_SWEEP + broken)
    done = launch("list", "--module", "my_sweeps", cwd=folder)
    assert done.returncode == 0
    assert {"tiny", "grid_bsz", "empty"} <= {line.split()[0] for line in done.stdout.splitlines()}
    assert "empty has no trials" in done.stdout


@pytest.mark.parametrize(
    "encoding",
    ["ascii", pytest.param("latin-1", marks=pytest.mark.slow), pytest.param("utf-8", marks=pytest.mark.slow)],
)
def test_neither_a_small_alphabet_nor_brackets_in_a_title_end_a_launch(folder: Path, encoding: str) -> None:
    title = "of [adam] and [b]others[/b] [/]"
    (folder / "my_sweeps.py").write_text(re.sub(r"title=(['\"]).*?\1", f"title={title!r}", OWN_SWEEP))
    command = [sys.executable, "-m", "orchestrator.launch", "tiny", *RUN_TINY]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    output = done.stdout.decode(encoding)
    assert title in output
    assert ("·" in output) == (encoding != "ascii")
    assert title in launch("plan", "tiny", "--module", "my_sweeps", cwd=folder).stdout


def test_brackets_in_a_path_are_no_markup(folder: Path) -> None:
    out = folder / "x[/b]y" / "[final] :x: 'q'"
    done = launch("tiny", *RUN_TINY, "--max-trials", "1", "--out", str(out), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"parquet  {out}/trials, {out}/traces" in done.stdout.splitlines()


@pytest.mark.parametrize("name", ["search_spaces.py", "trainables/__init__.py"])
def test_a_users_file_in_place_of_a_package_of_ours_is_one_line(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    program = "from orchestrator.launch import main; main()"
    foreign = (folder / name) if name.endswith("s.py") else (folder / name).parent
    for start in (("-m", "orchestrator.launch"), ("-P", "-c", program)):
        command = [sys.executable, *start, "list", "--module", "my_sweeps"]
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        ours = ROOT / Path(name).parts[0].removesuffix(".py")
        assert done.stderr == (
            f"error: {foreign} is imported in place of {ours}: rename it, or start from another folder\n"
        )


@pytest.mark.parametrize("name", ["typer.py", "pydantic.py", "rich/__init__.py"])
def test_a_users_file_in_place_of_a_library_is_one_line(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    command = [sys.executable, "-m", "orchestrator.launch", "plan", "grid_bsz"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    line = f"error: {folder / name} is imported in place of a library: rename it, or start from another folder\n"
    assert done.stderr == line


def test_a_folder_of_that_name_without_modules_is_no_package(folder: Path) -> None:
    (folder / "search_spaces").mkdir()
    command = [sys.executable, "-m", "orchestrator.launch", "--help"]
    assert subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0


def test_a_current_folder_that_was_deleted_is_one_line(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    program = "import os; os.rmdir(os.getcwd()); from orchestrator.launch import main; main()"
    command = [sys.executable, "-c", program, "list", "--module", "my_sweeps"]
    done = subprocess.run(command, cwd=gone, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the current folder has been deleted: start from another one\n"


def test_ctrl_c_while_modules_are_imported_is_one_line(folder: Path) -> None:
    """The program reaches `main`, and is interrupted within what it imports first."""
    program = (
        "import os, signal, sys\n"
        "from orchestrator.launch import main\n"
        "class CtrlC:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, CtrlC)\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "list"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, preexec_fn=heed_signals
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted: the same command resumes where this one stopped\n"


def test_a_module_that_ends_the_process_is_refused(folder: Path) -> None:
    """Else a launch that ran nothing would end with exit code 0."""
    (folder / "my_sweeps.py").write_text("raise SystemExit(0)\n")
    done = launch("tiny", *RUN_TINY, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --module my_sweeps ends the process when it is imported (exit code 0)\n"


def test_a_sweep_that_raises_does_not_hide_the_others(folder: Path) -> None:
    faulty = "\n@sweep\ndef faulty() -> Sweep:\n    raise ValueError('no such thing')\n"
    (folder / "my_sweeps.py").write_text(OWN_SWEEP + faulty)
    listed = launch("list", "--module", "my_sweeps", cwd=folder)
    assert listed.returncode == 0, listed.stderr
    assert {"tiny", "grid_bsz", "faulty"} <= {line.split()[0] for line in listed.stdout.splitlines()}
    assert "no such thing" in listed.stdout
    status = launch("status", "all", "--module", "my_sweeps", cwd=folder)
    assert status.returncode == 0, status.stderr
    assert "tiny: 0/4 trials done" in status.stdout
    assert "faulty cannot have these options: no such thing" in status.stderr


# --- light ---


@pytest.mark.parametrize("arguments", ["--help", "run --help", "list", "plan grid_bsz", "status all"])
def test_what_trains_nothing_loads_nothing_heavy(folder: Path, arguments: str) -> None:
    program = (
        "import sys\n"
        "from orchestrator.launch import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, *arguments.split()]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"
    assert len(done.stdout.splitlines()) > 1
    assert left_behind(folder) == []


def test_help_does_not_wait_for_the_sweeps(folder: Path) -> None:
    program = (
        "import sys\n"
        "from orchestrator.launch import main\n"
        "try:\n    main()\n"
        "finally:\n    print('loaded:', [n for n in ('pydantic', 'numpy', 'pyarrow', 'pandas') if n in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_no_arguments_show_the_help(folder: Path) -> None:
    done, asked = launch(cwd=folder), launch("--help", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == asked.stdout
    assert all(command in done.stdout for command in ("run", "list", "plan", "status", "export-mlflow"))


# --- list, plan, status ---


def test_list_names_the_sweeps_and_the_users_own(folder: Path) -> None:
    done = launch("list", "--module", "my_sweeps", cwd=folder)
    shown = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert shown["grid_bsz"] == "70"
    assert shown["trace_dynamics"] == "8"
    assert shown["tiny"] == "4"


def test_the_console_script_finds_a_module_in_the_current_folder(folder: Path) -> None:
    """A script, unlike `python -m`, does not have the current folder on its path."""
    program = "from orchestrator.launch import main; main()"
    command = [sys.executable, "-P", "-c", program, "list", "--module", "my_sweeps"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "four short trials" in done.stdout


def test_plan_counts_what_is_done_and_creates_nothing(folder: Path) -> None:
    configs = find_sweep("grid_bsz").configs()
    results = [ended(configs[0], Outcome.LEARNED), ended(configs[1], Outcome.FAILED, "Traceback\nValueError: no\n")]
    Ledger(str(folder / "results")).append(results)
    before = sorted(folder.rglob("*"))
    done = launch("plan", "grid_bsz", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "70: 1 done, 69 to run" in done.stdout
    assert "batch_size = 2, 4, 10, 20, 40, 100, 200" in done.stdout
    assert "core hours" in done.stdout
    fewer = launch("plan", "grid_bsz", "--seeds", "0", "--max-trials", "3", cwd=folder)
    assert "14: 1 done, 3 to run" in fewer.stdout
    assert sorted(folder.rglob("*")) == before


def test_status_tells_outcomes_and_why_trials_failed(folder: Path) -> None:
    configs = find_sweep("grid_bsz").configs()
    failed = ended(configs[1], Outcome.FAILED, "Traceback (most recent call last):\n  line\nValueError: no luck\n")
    Ledger(str(folder / "out")).append([ended(configs[0], Outcome.STUCK), failed])
    lines = launch("status", "grid_bsz", "--out", "out", cwd=folder).stdout.splitlines()
    assert lines[0].startswith("grid_bsz: 1/70 trials done (")
    assert "1 stuck" in lines[0]
    assert "1 failed" in lines[0]
    assert lines[1:] == [f"  failed {configs[1].trial_id}: ValueError: no luck"]
    every = launch("status", "all", "--out", "out", "--module", "my_sweeps", cwd=folder).stdout
    assert "tiny: 0/4 trials done" in every
    assert "grid_bsz: 1/70 trials done" in every


def ended(config: TrialConfig, outcome: Outcome, error: str | None = None) -> TrialResult:
    return TrialResult(
        config=config,
        outcome=outcome,
        epochs_done=config.num_epochs,
        trace=(),
        data_digest=None,
        init_digest=None,
        order_digest=None,
        train_seconds=0.1,
        finished_at=1.0,
        provenance=provenance("reference"),
        error=error,
    )


# --- run ---


def test_no_number_of_a_table_is_cut_where_output_is_no_terminal(folder: Path) -> None:
    values = {
        "weight_decay": ("0.00123456", "1.23457e-05"),
        "learning_rate": ("2.34568e-05", "0.000987654"),
        "feature_noise": ("0.123457", "0.234568"),
        "init_std": ("0.0123457", "0.0234568"),
        "beta1": ("0.812346", "0.912346"),
        "epsilon": ("1.23457e-08", "2.34568e-09"),
    }
    sets = [f"{name}={','.join(given)}" for name, given in values.items()]
    configs = find_sweep("grid_bsz").with_overrides(["batch_size=2", *sets], "0").configs()
    Ledger(str(folder / "results")).append([ended(config, Outcome.STUCK) for config in configs])
    arguments = [part for one in ("batch_size=2", *sets) for part in ("--set", one)]
    done = launch("grid_bsz", *arguments, "--seeds", "0", "--no-mlflow", "--no-figures", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "128 trials, 128 done, 0 to run" in done.stdout
    rows = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 128
    assert "…" not in done.stdout
    assert {number for row in rows for number in row} >= {number for given in values.values() for number in given}


def test_the_papers_numbers_stand_below_those_of_its_setting(folder: Path) -> None:
    configs = find_sweep("grid_bsz").with_overrides(["batch_size=20,100"], "0").configs()
    Ledger(str(folder / "results")).append([ended(config, Outcome.MEMORIZED) for config in configs])
    arguments = ["grid_bsz", "--seeds", "0", "--no-mlflow", "--no-figures", "--set"]
    done = launch(*arguments, "batch_size=20,100", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    _, below = done.stdout.split("The paper's tables 1 and 2")
    numbers = [[cell.strip() for cell in line.split("│")] for line in below.splitlines() if line.startswith("│")]
    assert [(row[2], row[7]) for row in numbers] == [("adam", "0.9545"), ("adamw", "0.5485")]
    assert "in the paper" not in launch(*arguments, "batch_size=20", cwd=folder).stdout


@pytest.mark.slow
def test_a_sweep_is_run_with_and_without_the_word_and_only_what_is_missing(folder: Path) -> None:
    first = launch("tiny", *RUN_TINY, "--max-trials", "1", cwd=folder)
    assert (first.returncode, first.stderr) == (0, "")
    assert "1/4 trials" in first.stdout
    rest = launch("run", "tiny", *RUN_TINY, cwd=folder)
    assert "tiny: 4 trials, 1 done, 3 to run" in rest.stdout
    again = launch("tiny", *RUN_TINY, cwd=folder)
    assert "tiny: 4 trials, 4 done, 0 to run" in again.stdout
    assert "tiny: 4/4 trials done" in launch("status", "tiny", "--module", "my_sweeps", cwd=folder).stdout


def test_what_is_shown_of_a_part_of_a_sweep_is_said_to_be_of_a_part(folder: Path) -> None:
    # The address is this machine's, not this launch's: a process of its own needs no cluster.
    part = launch("tiny", *RUN_TINY, "--max-trials", "3", cwd=folder, RAY_ADDRESS="10.0.0.1:6379")
    assert (part.returncode, part.stderr) == (0, "")
    assert "3 of 4 trials done: what follows shows a part of the sweep" in part.stdout.splitlines()
    for _ in range(2):
        whole = launch("tiny", *RUN_TINY, cwd=folder)
        assert "what follows" not in whole.stdout


def test_ctrl_c_ends_with_exit_code_130_and_says_that_the_same_command_goes_on(folder: Path) -> None:
    arguments = ("tiny", *RUN_TINY, "--set", "num_epochs=1000000000", "--checkpoint-seconds", "0.1")
    command = [sys.executable, "-m", "orchestrator.launch", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    ) as process:
        while process.poll() is None and not any((folder / "results" / "states").glob("**/*.npz")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines() == ["interrupted: the same command resumes where this one stopped"]
    assert "0/4 trials" in output
