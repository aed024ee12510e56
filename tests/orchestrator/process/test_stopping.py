"""How signals stop a launch, in real processes: what is saved, what is said, and the exit code."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.process.stopping import SIGNALS
from tests.orchestrator.endless import make_endless, saved
from tests.support.cases import rest_slow
from tests.support.launching import environment
from tests.support.warm_python import run_python

ASKED = """
import os, signal, sys, threading, time
from pathlib import Path

# A shell's `&` or `nohup` ignores them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def ask():
    while not any(Path.cwd().glob(os.environ["WHEN"])):
        time.sleep(0.01)
    for word in os.environ["SIGNALS"].split():
        name, _, delay = word.partition(":")
        time.sleep(float(delay or 0.2))
        os.kill(os.getpid(), signal.Signals[name])

threading.Thread(target=ask, daemon=True).start()
"""
MAIN = "from orchestrator.launch import main\nmain()\n"
RUN = ("endless", "--executor", "inline", "--module", "endless_sweeps", "--checkpoint-seconds", "1000", "--no-figures")
RESUMES = ": the same command resumes where this one stopped"
SAYS = {
    name: "interrupted" if name == "SIGINT" else f"interrupted by {name}"
    for name in (number.name for number in SIGNALS)
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_endless(tmp_path)


def asked(
    folder: Path, *arguments: str, signals: str, when: str = "training-*", setting: str = "", main: str = MAIN
) -> subprocess.CompletedProcess[str]:
    """Run a command that gets the signals once a file exists: names with the seconds before each, 0.2 unless given."""
    program = f"{ASKED}{setting}\n{main}"
    return run_python(
        "-c",
        program,
        *arguments,
        cwd=folder,
        env=environment(SIGNALS=signals, WHEN=when, LAMBDA_ATLAS_ENDLESS=str(folder)),
        timeout=60,
    )


@pytest.mark.parametrize("name", rest_slow(("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")))
def test_a_signal_saves_the_states_and_is_one_line(name: str, folder: Path) -> None:
    done = asked(folder, *RUN, "--no-mlflow", signals=name)
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr == f"{SAYS[name]}{RESUMES}\n"
    assert "0/2 trials" in done.stdout
    assert len(saved(folder)) == 1, "its first state was due in 1000 s, and the other trial has not begun"


@pytest.mark.slow
def test_a_signal_closes_the_run_in_mlflow(folder: Path) -> None:
    assert asked(folder, *RUN, signals="SIGTERM:4").returncode == 143
    (status,) = sqlite3.connect(folder / "results" / "mlflow.db").execute("select status from runs").fetchall()
    assert status == ("KILLED",)


def test_a_second_signal_ends_it_and_its_children_at_once(folder: Path) -> None:
    done = asked(folder, *RUN, "--no-mlflow", "--set", "batch_size=3", signals="SIGTERM SIGINT:1.2")
    assert done.returncode == 143
    assert done.stderr == "stopped at once: the same command resumes from what was saved last\n"
    assert_child_is_gone(folder)


def test_a_launch_that_cannot_drain_is_ended_in_time(folder: Path) -> None:
    sooner = "import orchestrator.process.stopping\norchestrator.process.stopping.DRAIN_SECONDS = 0.5"
    done = asked(folder, *RUN, "--no-mlflow", "--set", "batch_size=3", signals="SIGTERM", setting=sooner)
    assert done.returncode == 143
    assert done.stderr == "stopped after 0 s: the same command resumes from what was saved last\n"
    assert_child_is_gone(folder)


def assert_child_is_gone(folder: Path) -> None:
    (pid,) = (int(path.name.removeprefix("training-")) for path in folder.glob("training-*"))
    with suppress(FileNotFoundError):  # nobody may have noticed its end
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_signal_that_a_parent_passes_on_counts_once(folder: Path) -> None:
    done = asked(folder, *RUN, "--no-mlflow", signals="SIGINT SIGINT:0.01 SIGTERM:0.01")
    assert (done.returncode, done.stderr) == (130, f"interrupted{RESUMES}\n")
    assert len(saved(folder)) == 1


def test_a_signal_that_is_ignored_from_the_start_stays_so(folder: Path) -> None:
    """`nohup` ignores SIGHUP, a shell's `&` SIGINT."""
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = asked(folder, *RUN, "--no-mlflow", signals="SIGHUP SIGINT SIGTERM", setting=nohup)
    assert (done.returncode, done.stderr) == (143, f"interrupted by SIGTERM{RESUMES}\n")


IMPORTING = """
class Signal:
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGTERM)
for module in [m for m in sys.modules if m.partition(".")[0] in ("orchestrator", "matplotlib")]:
    del sys.modules[module]
sys.meta_path.insert(0, Signal)
"""


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (("plan", "grid_bsz"), "orchestrator.report.plan_table"),
        (("status", "all"), "orchestrator.driver.status"),
        (("verify",), "orchestrator.ledger.inspection"),
        (("export-mlflow", "grid_bsz"), "orchestrator.driver.mlflow_export"),
        (("grid_bsz", "--executor", "inline"), "orchestrator.driver.run"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_signal_to_any_command_is_one_line(arguments: tuple[str, ...], module: str, folder: Path) -> None:
    setting = IMPORTING.format(module=module)
    done = asked(folder, *arguments, signals="", when="never", setting=setting)
    assert (done.returncode, done.stderr) == (143, f"interrupted by SIGTERM{RESUMES}\n")


PROGRAM = """
import threading
from orchestrator import RunOptions, run_sweep
from orchestrator.sweeps.registry import find_sweep

def taken(number, frame):
    print("the program's own", signal.Signals(number).name)

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, taken)
options = RunOptions(out="results", executor="inline", mlflow=False, figures=False, checkpoint_seconds=1000.0)
sweep = find_sweep("endless", "endless_sweeps")
"""


@pytest.mark.parametrize(("name", "own"), rest_slow((("SIGTERM", "the program's own SIGTERM\n"), ("SIGINT", ""))))
def test_a_program_that_runs_a_sweep_gets_its_handlers_back(name: str, own: str, folder: Path) -> None:
    last = """
print("interrupted", run_sweep(sweep, options).interrupted)
print(all(signal.getsignal(number) is taken for number in (signal.SIGTERM, signal.SIGINT)))
"""
    done = asked(folder, signals=name, main=PROGRAM + last)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{own}interrupted True\nTrue\n")
    assert len(saved(folder)) == 1


def test_in_another_thread_a_sweep_leaves_the_signals_alone(folder: Path) -> None:
    last = """
threading.Thread(target=run_sweep, args=(sweep, options), daemon=True).start()
while not any(Path.cwd().glob("training-*")):
    time.sleep(0.01)
print(all(signal.getsignal(number) is taken for number in (signal.SIGTERM, signal.SIGINT)))
sys.stdout.flush()
os._exit(0)
"""
    done = asked(folder, signals="", when="never", main=PROGRAM + last)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "True")
