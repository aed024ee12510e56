"""A trial that ends every worker, an address where nothing listens, and the trainable in a user's own Tuner."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.support.launching import (
    ROOT,
    WORKLOAD,
    descendants,
    environment,
    launch,
    longer_num_epochs,
    make_folder,
    rows,
    wait_for,
)
from trainables.config import TrialConfig
from trainables.contract import Member
from trainables.registry import config_from_values, workload
from trainables.two_layer_cnn.trace import trace_epochs

PLAIN = ("--no-figures", "--no-mlflow")


def workers(pid: int) -> list[int]:
    """The processes of a launch that train packs."""
    return [child for child, line in descendants(pid) if "ResourceTrainable" in line or "PackTrainable" in line]


DEADLY = """
import os
from typing import Literal

from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.registry import register_workload
from trainables.two_layer_cnn.workload import TwoLayerCNN

class DeadlyConfig(TwoLayerCNNConfig):
    workload: Literal["deadly"] = "deadly"

@register_workload("deadly")
class Deadly(TwoLayerCNN):
    config_type = DeadlyConfig

    def last_engine(self, device):
        return "reference"

    def open(self, members, device="cpu", engine=None, num_threads=1):
        seeds = {member.config.seed for member in members}
        if 1 in seeds or (2 in seeds and engine is None):
            os._exit(1)
        return super().open(members, device, engine, num_threads)

@sweep
def deadly() -> Sweep:
    base = {"num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4}
    grid = Grid({"adam": {"weight_decay": 1e-5}}, {}, {**base, "num_epochs": 30, "batch_size": 4})
    return Sweep("deadly", "two of three trials end their workers", (grid,), seeds=(0, 1, 2), workload="deadly")
"""


@pytest.mark.slow
def test_a_trial_that_ends_every_worker_is_a_failed_row_and_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "my_sweeps.py").write_text(DEADLY)
    done = launch(tmp_path, "deadly", *PLAIN, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 trial failed" in done.stderr
    assert done.stderr.count("are trained by engine reference") == 1, done.stderr
    trials = pd.read_parquet(tmp_path / "results" / "trials")
    found = sorted(zip(trials["seed"], trials["outcome"] == "failed", trials["engine"], strict=True))
    assert found == [(0, False, "fused-cpu"), (1, True, "none"), (2, False, "reference")]
    (error,) = trials["error"][trials["seed"] == 1]
    assert error.startswith("its pack was lost 3 times, the last ones alone: its worker died: Worker unexpectedly")
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_worker_that_cannot_import_something_ends_the_launch_with_one_line(tmp_path: Path) -> None:
    """It is no fault of a trial: no other worker or engine would help, and no row fails."""
    folder = make_folder(tmp_path)
    broken = tmp_path / "broken" / "numba" / "__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise ImportError('libsvml.so: no such file')")
    done = launch(folder, "small", *PLAIN, PYTHONPATH=f"{broken.parents[1]}:{ROOT}")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a worker cannot import what the trials need (ImportError: libsvml.so: no such file)")
    assert Path(line.partition("; log: ")[2]).exists()
    assert rows(folder / "results") == {}


def test_an_address_where_nothing_listens_is_one_line(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused = launch(folder, "small", *PLAIN, "--address", f"127.0.0.1:{port}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in refused.stderr
    assert rows(folder / "results") == {}


@dataclass(frozen=True)
class OwnTuners:
    """A user's program with two tuners that has ended: the trial whose worker was killed, and what was printed."""

    killed: TrialConfig
    killed_worker: int
    printed: str


OWN_TUNER = """
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from trainables.tune_trainable import PackTrainable

space = {
    "workload": "two_layer_cnn", "optimizer": tune.grid_search(["adam", "adamw"]), "weight_decay": 1e-3,
    "batch_size": 10, "seed": tune.grid_search([0, 1]), "num_epochs": 40,
    "num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4,
}
scheduler = ASHAScheduler(time_attr="epoch", metric="test_error", mode="min", max_t=40, grace_period=10)
tuner = tune.Tuner(
    tune.with_resources(PackTrainable, {"cpu": 1}),
    param_space=space,
    tune_config=tune.TuneConfig(scheduler=scheduler),
    run_config=tune.RunConfig(
        storage_path="STORAGE", verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1)
    ),
)
results = tuner.fit()
assert not results.errors, results.errors
table = results.get_dataframe()
print(len(table), "trials", sorted(table["epoch"].unique()))
for result in results:
    print("EPOCHS", *result.metrics_dataframe["epoch"])
    if result.metrics["epoch"] == 40:
        print("FULL", result.metrics["trial_id_atlas"], repr(result.metrics["train_loss"]), result.metrics["outcome"])
"""


KILLED_TUNER = """
from ray import tune
from trainables.tune_trainable import PackTrainable

class Told(tune.Callback):
    "Tells what Tune gets: its own log of a trial that starts again goes back to an older copy."
    def on_trial_result(self, iteration, trials, trial, result, **info):
        print("RESULT", result["pid"], result["epoch"])

tuner = tune.Tuner(
    tune.with_resources(PackTrainable, {"cpu": 1}),
    param_space=SPACE,
    run_config=tune.RunConfig(
        storage_path="STORAGE", name="killed", verbose=0, callbacks=[Told()],
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        failure_config=tune.FailureConfig(max_failures=3),
    ),
)
(result,) = tuner.fit()
assert not result.error, result.error
print("LOSS", repr(result.metrics["train_loss"]))
"""


@pytest.fixture(scope="module")
def own_tuners(tmp_path_factory: pytest.TempPathFactory) -> OwnTuners:
    """A program in which a worker of the first tuner is killed, and then the second one is run."""
    folder = tmp_path_factory.mktemp("tuners")
    values = {"workload": WORKLOAD, "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, "seed": 0}
    values |= {"num_test": 500, "num_epochs": 4 * longer_num_epochs()}
    program = (KILLED_TUNER + OWN_TUNER).replace("SPACE", repr(values)).replace("STORAGE", str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list(folder.glob("killed/PackTrainable_*/checkpoint_000002")), process)
    (worker,) = workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stdout + stderr
    return OwnTuners(config_from_values(values), worker, stdout)


@pytest.mark.slow
def test_the_trainable_in_a_users_own_tuner_with_a_scheduler(own_tuners: OwnTuners) -> None:
    assert "4 trials" in own_tuners.printed
    full = re.findall(r"FULL (\w+) (\S+) (\w+)", own_tuners.printed)
    assert full
    sizes = {"num_train": 40, "num_test": 100, "dimension": 60, "noise_sparsity": 10, "num_filters": 4}
    common = {"workload": "two_layer_cnn", "weight_decay": 1e-3, "batch_size": 10, "num_epochs": 40}
    alone = {}
    for optimizer, seed in itertools.product(("adam", "adamw"), (0, 1)):
        config = config_from_values({**common, **sizes, "optimizer": optimizer, "seed": seed})
        (report,) = workload(config.workload).open([Member(config, 40)]).advance(600)
        assert report.result is not None
        alone[config.trial_id] = (repr(report.result.trace[-1].train_loss), str(report.result.outcome))
    reported = [list(map(int, line.split())) for line in re.findall(r"EPOCHS (.*)", own_tuners.printed)]
    assert len(reported) == 4
    assert all(epochs == list(trace_epochs(40))[: len(epochs)] for epochs in reported), "the scheduler sees every point"
    for trial_id, loss, outcome in full:
        assert alone[trial_id] == (loss, outcome)


@pytest.mark.slow
def test_a_killed_trial_of_a_users_own_tuner_goes_on_from_its_checkpoint(own_tuners: OwnTuners) -> None:
    config, worker = own_tuners.killed, own_tuners.killed_worker
    (report,) = workload(WORKLOAD).open([Member(config, config.num_epochs)]).advance(600)
    assert report.result is not None
    assert f"LOSS {report.result.trace[-1].train_loss!r}\n" in own_tuners.printed
    results = [(int(pid), int(epoch)) for pid, epoch in re.findall(r"RESULT (\d+) (\d+)", own_tuners.printed)]
    assert len({pid for pid, _ in results}) == 2
    epochs = [epoch for _, epoch in results]
    assert set(epochs) == set(trace_epochs(config.num_epochs)), "points that were not reported when it was killed, too"
    restarted = next(i for i, (pid, _) in enumerate(results) if pid != worker)
    assert epochs[restarted] > epochs[restarted - 2] > 0
