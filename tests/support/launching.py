"""Real launches in real processes, for the tests of the runner and the executors."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from orchestrator.ledger.ledger import Ledger
from tests.support.warm_python import run_python
from trainables.atomic_files import open_root, write_whole
from trainables.contract import Member
from trainables.packs.saved_states import DIGEST, with_digest
from trainables.packs.state_store import StateStore
from trainables.registry import config_from_values, workload

ROOT = Path(__file__).resolve().parents[2]
WORKLOAD = "two_layer_cnn"

SWEEPS = """
from orchestrator import Grid, Sweep, sweep

DECAYS = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
SMALL = {"num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4, "num_epochs": 30}

@sweep
def small() -> Sweep:
    return Sweep("small", "12 short trials", (Grid(DECAYS, {"batch_size": (2, 7, 40)}, SMALL),), seeds=(0, 1))

@sweep
def overlapping() -> Sweep:
    return Sweep("overlapping", "partly small", (Grid(DECAYS, {"batch_size": (7, 20)}, SMALL),), seeds=(1, 2))

@sweep
def longer() -> Sweep:
    sizes = {"num_test": 500, "num_epochs": NUM_EPOCHS, "batch_size": 2}
    return Sweep("longer", "six trials of some seconds", (Grid(DECAYS, {}, sizes),), seeds=(0, 1, 2))

@sweep
def diverging() -> Sweep:
    grid = Grid(DECAYS, {"learning_rate": (1e-3, 1e18)}, {**SMALL, "batch_size": 4})
    return Sweep("diverging", "two trials that end non-finite beside two that do not", (grid,), seeds=(0,))
"""

BRIEF_MAP = """
from dataclasses import replace

from orchestrator import Sweep, sweep
from orchestrator.sweeps.named_maps import map_wd

@sweep
def brief_map(workload: str = "two_layer_cnn") -> Sweep:
    whole = map_wd(workload)
    search = replace(whole.search, rounds=2, line_rounds=2)
    return replace(whole, name=whole.name.replace("map_wd", "brief_map"), search=search)
"""
"""`map_wd`, with two rounds of each search for boundaries instead of eight to twelve."""

# What a trial's row may differ in between two runs of the same config; everything else is equal to the bit.
CIRCUMSTANCES = {
    "train_seconds", "finished_at", "pack_id", "attempt", "driver_id", "hostname", "git_sha", "git_dirty",
}  # fmt: skip


PLANTED_SECONDS = 1000.0
"""Longer than any trial here trains."""

LONGER_SECONDS = 2.0
"""A trial of the sweep `longer`: several reports and saved states, on whatever machine this is."""


def make_folder(folder: Path) -> Path:
    """A user's current folder with a module of sweeps."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_sweeps.py").write_text(SWEEPS.replace("NUM_EPOCHS", str(longer_num_epochs())))
    return folder


@cache
def longer_num_epochs() -> int:
    """Epochs that a trial of `longer` trains in `LONGER_SECONDS` on this machine."""
    values = {"workload": WORKLOAD, "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 0}
    config = config_from_values({**values, "num_test": 500})
    run = workload(WORKLOAD).open([Member(config, config.num_epochs)])
    (begun,) = run.advance(0.0)
    while not begun.epochs_done:  # the first slice measures the initial weights, the next one compiles
        (begun,) = run.advance(0.0)
    (moved,) = run.advance(1.0)
    return round(LONGER_SECONDS * (moved.epochs_done - begun.epochs_done))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.launch", *arguments]


def run_launch(*arguments: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "orchestrator.launch", *arguments, cwd=cwd, env=env)


def environment(**more: str) -> dict[str, str]:
    """The environment of a launch that sees no GPU: only on the CPU are equal bits promised, which tests compare."""
    plain = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return {**plain, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def heed_signals() -> None:
    """Make a new process heed signals that a shell's `&` or `nohup` ignores: so would the processes of its tests."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


_started: list[subprocess.Popen[str]] = []


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start a launch, which ends with its test at the latest."""
    process = subprocess.Popen(
        command(*arguments, "--module", "my_sweeps"),
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )
    _started.append(process)
    return process


@contextmanager
def launches_ended() -> Iterator[None]:
    """At the end of the block no launch runs, or is stopped, that was started in it."""
    num_before = len(_started)
    try:
        yield
    finally:
        for process in _started[num_before:]:
            if process.returncode is None:
                kill_tree(process)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        del _started[num_before:]


@contextmanager
def session(folder: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A launch that leads a session, with what it says in the folder's files `stdout` and `stderr`."""
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=environment(**more),
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=heed_signals,
        )
    try:
        yield process
    finally:
        kill_tree(process)
        print((folder / "stderr").read_text())  # which pytest shows if the test fails


def launch(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run_launch(*arguments, "--module", "my_sweeps", cwd=folder, env=environment(**more))


def checked(folder: Path, *arguments: str, **more: str) -> str:
    done = launch(folder, *arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(out: Path, workload: str = WORKLOAD) -> dict[str, dict[str, Any]]:
    """The ledger's trials without their circumstances, by trial_id; nan as text, so that equal rows compare equal."""
    return {row["trial_id"]: _numbers(row) for row in Ledger(str(out)).trials(workload).to_pylist()}


def traces(out: Path, workload: str = WORKLOAD) -> list[dict[str, Any]]:
    return [_numbers(row) for row in Ledger(str(out)).traces(workload).to_pylist()]


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if v != v else v for k, v in row.items() if k not in CIRCUMSTANCES}


def half_done(out: str | Path, workload: str = WORKLOAD) -> set[str]:
    """The trials that have a saved state and no row."""
    return StateStore(f"{out}/states").index().keys() - Ledger(str(out)).settled(workload)


def plant_seconds(out: str | Path, workload: str = WORKLOAD) -> dict[str, int]:
    """Let each saved state under `out` say that its trial has trained `PLANTED_SECONDS` longer; nobody saves meanwhile.

    A trial that starts from its beginning ends with the same numbers as one that resumes: only these seconds tell them
    apart. Returns what `check_went_on` needs: how far each of these trials is recorded, -1 for not at all.
    """
    files, folder = open_root(f"{out}/states")
    trial_ids: set[str] = set()
    for info in files.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if not info.base_name.endswith(".npz"):
            continue
        with files.open_input_file(info.path) as file, np.load(io.BytesIO(file.read())) as archive:
            arrays: dict[str, Any] = dict(archive)
        owners = {name.partition("/")[0] for name in arrays if "/" in name}
        for owner in owners:
            state = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{owner}/")}
            state["train_seconds"] = state["train_seconds"] + PLANTED_SECONDS
            if DIGEST in state:  # states of earlier versions have none
                state = with_digest({name: array for name, array in state.items() if name != DIGEST})
            arrays |= {f"{owner}/{name}": array for name, array in state.items()}
        trial_ids |= owners
        planted = io.BytesIO()
        np.savez(planted, allow_pickle=False, **arrays)
        write_whole(files, info.path, pa.py_buffer(planted.getbuffer()))
    rows = Ledger(str(out)).trials(workload, trial_ids=trial_ids, columns=("trial_id", "epochs_done")).to_pylist()
    return {**dict.fromkeys(trial_ids, -1), **{row["trial_id"]: row["epochs_done"] for row in rows}}


def check_went_on(out: str | Path, *plantings: Mapping[str, int], workload: str = WORKLOAD) -> None:
    """Assert that the trials further than at a planting (at least one) resumed from it, and that no others did."""
    columns = ("trial_id", "epochs_done", "train_seconds")
    found = Ledger(str(out)).trials(workload, columns=columns).to_pylist()
    further = Counter(
        row["trial_id"]
        for row in found
        for epochs in plantings
        if row["epochs_done"] > epochs.get(row["trial_id"], math.inf)
    )
    carried = Counter({row["trial_id"]: int(row["train_seconds"] // PLANTED_SECONDS) for row in found})
    assert further, "no trial had a state to go on from"
    assert carried == further, f"of {dict(further)} went on: {dict(+carried)}"


def parts(out: Path) -> dict[str, bytes]:
    """Every Parquet file's bytes."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    """Wait, while the process runs, for the condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, "".join(filter(None, process.communicate()))
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to a launch and all its descendants."""
    for pid in (process.pid, *[pid for pid, _ in descendants(process.pid)]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """(pid, command line) of the processes that stem from `pid`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
        if parent == pid:
            yield int(entry.name), line
            yield from descendants(int(entry.name))
