"""A sweep of two packs that do not end by themselves, for the tests of what ends them."""

from __future__ import annotations

from pathlib import Path

from trainables.packs.state_store import StateStore

_MODULE = """
import os, subprocess, time
from pathlib import Path
from typing import Literal

from orchestrator.sweeps.registry import sweep
from orchestrator.sweeps.value import Grid, Sweep
from trainables.registry import register_workload
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.workload import TwoLayerCNN

class EndlessConfig(TwoLayerCNNConfig):
    workload: Literal["endless"] = "endless"

class Told:
    "A pack that leaves a file in $LAMBDA_ATLAS_ENDLESS when it has trained for the first time."
    def __init__(self, run, name):
        self._run, self._name = run, name

    def __getattr__(self, name):
        return getattr(self._run, name)

    def advance(self, seconds):
        if "-batch-3-" in self._name:
            child = subprocess.Popen(["sleep", "1000"])
            Path(os.environ["LAMBDA_ATLAS_ENDLESS"], f"training-{child.pid}").touch()
            time.sleep(1000)
        reports = self._run.advance(seconds)
        if any(report.epochs_done for report in reports):
            Path(os.environ["LAMBDA_ATLAS_ENDLESS"], self._name).touch()
        return reports

@register_workload("endless")
class Endless(TwoLayerCNN):
    "With a batch size of 3 a pack hangs, beside a child process."
    config_type = EndlessConfig

    def open(self, members, device="cpu", engine=None, num_threads=1):
        run = super().open(members, device, engine, num_threads=num_threads)
        config = members[0].config
        return Told(run, f"training-batch-{config.batch_size}-{config.optimizer}")

@sweep
def endless() -> Sweep:
    sizes = {"num_train": 20, "num_test": 50, "dimension": 30, "noise_sparsity": 5, "num_filters": 2}
    base = {**sizes, "weight_decay": 1e-3, "num_epochs": 10**9}
    grid = Grid({"adam": {}, "adamw": {}}, {"batch_size": (2,)}, base)
    return Sweep("endless", "two packs that do not end", (grid,), seeds=(0,), workload="endless")
"""


def make_endless(folder: Path) -> Path:
    """A user's current folder with the module `endless_sweeps`; in the environment it is `LAMBDA_ATLAS_ENDLESS`."""
    (folder / "endless_sweeps.py").write_text(_MODULE)
    return folder


def saved(folder: Path) -> dict[str, str]:
    """The file of each trial's saved state under `results`."""
    return StateStore(f"{folder}/results/states").index()
