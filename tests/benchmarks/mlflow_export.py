"""Times `export-mlflow` and its memory: `python -m tests.benchmarks.mlflow_export [--trials N ...] [--points N ...]`.

The ledger writes made-up results of a grid; a separate process then exports them into a new SQLite file. Its memory is
its largest resident size, imports and plan included. The baseline is MLflow's own client, which writes the first
`BASELINE_TRIALS` of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version

import numpy as np

from orchestrator.driver.mlflow_export import export_mlflow
from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.value import Grid, Sweep
from trainables.config import TrialConfig
from trainables.provenance import provenance
from trainables.result import Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNTracePoint

NUM_EPOCHS = 1000
BASELINE_TRIALS = 200
WRITTEN_AT_ONCE = 2000


def main() -> None:
    """Print a Markdown table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--points", type=int, nargs="+", default=[40, 4], help="trace points, for each of --trials")
    args = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "pyarrow", "sqlalchemy"))
    device = provenance("none").device_name
    print(f"{device}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; n = 1 run of each row\n")
    print("| trials | trace points of each | export | trials a second | memory | MLflow's client | ratio |")
    print(f"|{'---|' * 7}", flush=True)
    for num_trials, num_points in zip(args.trials, args.points, strict=True):
        print(row_of(num_trials, num_points), flush=True)


def row_of(num_trials: int, num_points: int) -> str:
    """The table's line of an export, whose folder is deleted."""
    with tempfile.TemporaryDirectory() as out:
        write(num_trials, num_points, out)
        seconds, memory = in_new_process(num_trials, out)
        own_database = f"sqlite:///{out}/client.db"
        begun, _ = in_new_process(1, out, own_database)  # a client that writes a single run starts as slowly
        by_client, _ = in_new_process(1 + BASELINE_TRIALS, out, own_database)
    ours, clients = num_trials / seconds, BASELINE_TRIALS / (by_client - begun)
    return (
        f"| {num_trials:,} | {num_points} | {seconds:,.0f} s | {ours:,.0f} | {memory / 1e6:,.0f} MB | "
        f"{clients:,.1f} trials a second | {ours / clients:.0f}x |"
    )


def sweep_of(num_trials: int) -> Sweep:
    """A grid of one optimizer with as many seeds as trials."""
    grid = Grid({"adam": {"weight_decay": 1e-5}}, {"batch_size": (20,)}, {"num_epochs": NUM_EPOCHS})
    return Sweep("exported", "Made-up results", (grid,), seeds=tuple(range(num_trials)))


def write(num_trials: int, num_points: int, out: str) -> None:
    """Append made-up results to the ledger, and compact it as the end of a launch does."""
    ledger = Ledger(out)
    configs = sweep_of(num_trials).configs()
    for start in range(0, num_trials, WRITTEN_AT_ONCE):
        ledger.append(list(results_of(configs[start : start + WRITTEN_AT_ONCE], num_points)))
    ledger.compact()


def results_of(configs: Sequence[TrialConfig], num_points: int) -> Iterator[TrialResult]:
    """A result of each config; equal arguments give equal numbers."""
    made_by = provenance("made-up")
    epochs = np.unique(np.linspace(0, NUM_EPOCHS, num_points).round().astype(int)).tolist()
    for config in configs:
        rng = np.random.default_rng(int(config.trial_id, 16))
        names = [name for name in TwoLayerCNNTracePoint.__dataclass_fields__ if name != "epoch"]
        numbers = rng.uniform(size=(len(epochs), len(names))).tolist()
        yield TrialResult(
            config=config,
            outcome=Outcome.LEARNED,
            epochs_done=NUM_EPOCHS,
            trace=tuple(TwoLayerCNNTracePoint(epoch, *row) for epoch, row in zip(epochs, numbers, strict=True)),
            data_digest="data",
            init_digest=f"{config.trial_id}-init",
            order_digest=f"{config.trial_id}-order",
            train_seconds=float(rng.uniform(1, 100)),
            finished_at=1.7e9 + float(rng.uniform(0, 1e6)),
            provenance=made_by,
        )


def in_new_process(num_trials: int, out: str, tracking_uri: str | None = None) -> tuple[float, int]:
    """Seconds and bytes of an export of the first trials; through MLflow's client if a database is given."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measured, num_trials, out, tracking_uri).result()


def measured(num_trials: int, out: str, tracking_uri: str | None) -> tuple[float, int]:
    """Export in this process."""
    if tracking_uri is not None:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    begun = time.perf_counter()
    assert export_mlflow(sweep_of(num_trials), out) > 0
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
