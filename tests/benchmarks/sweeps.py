"""Times whole sweeps, in one run: `python tests/benchmarks/sweeps.py [--only grid|many]`.

- grid_bsz (70 trials of the paper's 10^4 epochs) against the same trials as ordinary Ray Tune function trainables with
  torch.optim: those are timed on a sample (a short run for each batch size and optimizer, and Tune's own time for each
  trial) and extrapolated.
- 1,000 trials of 100 steps (200 values of lambda x 5 seeds, default test set, full rows and traces) through Ray,
  including Ray's start, with a cold and a warm compilation cache, against Tune's own time for as many function trials.
- A second launch of a finished sweep, which starts no trial.

Launches are whole processes, as a user starts them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.sweeps.registry import find_sweep
from trainables.provenance import provenance
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.trace import trace_epochs

SAMPLE_SECONDS = 3.0
OVERHEAD_TRIALS = 12
CORES = os.cpu_count() or 1


def main() -> None:
    """Print every figure with its baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("grid", "many"))
    only = parser.parse_args().only
    where = provenance("fused-cpu")
    print(f"{where.device_name}, {CORES} cores, python {where.python_version}, torch {where.torch_version}, ", end="")
    print(f"numba {where.numba_version}, numpy {where.numpy_version}; n = 1 run of each figure")
    baseline = FunctionTrials()
    with tempfile.TemporaryDirectory() as folder:
        if only != "many":
            bench_grid(Path(folder), baseline)
        if only != "grid":
            bench_many(Path(folder), baseline)


def bench_grid(folder: Path, baseline: FunctionTrials) -> None:
    """grid_bsz and its second launch."""
    ours = launch("grid_bsz", "--out", str(folder / "grid"))
    theirs = baseline.extrapolate(find_sweep("grid_bsz", None).configs())
    print(f"grid_bsz, 70 trials: {ours:.0f} s, function trainables {theirs:.0f} s (extrapolated): {theirs / ours:.0f}x")
    again = launch("grid_bsz", "--out", str(folder / "grid"))
    print(f"grid_bsz again (nothing to run): {again:.1f} s")


def bench_many(folder: Path, baseline: FunctionTrials) -> None:
    """1,000 short trials, cold and warm."""
    plain = 1000 * baseline.seconds_per_trial
    (folder / "bench_many.py").write_text(MANY_TRIALS)
    environment = {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "numba-cache")}
    for batch_size, num_epochs in ((2, 1), (20, 10), (200, 100)):
        for cache in ("cold", "warm") if batch_size == 2 else ("warm",):
            out = folder / f"many-{batch_size}-{cache}"
            seconds = launch(
                "many_trials", "--module", "bench_many", "--out", str(out), "--no-mlflow", "--no-figures",
                "--set", f"batch_size={batch_size}", "--set", f"num_epochs={num_epochs}", **environment,
            )  # fmt: skip
            points = len(trace_epochs(num_epochs))
            print(
                f"1,000 trials of 100 steps, B={batch_size}, {points} trace points, {cache} cache: {seconds:.1f} s; "
                f"Tune's own time for 1,000 function trials {plain:.0f} s (extrapolated): {plain / seconds:.0f}x"
            )
    seconds = launch("many_trials", "--module", "bench_many", "--out", str(folder / "many-2-warm"), **environment)
    print(f"the same again with the MLflow view of 1,000 runs (no trial runs): {seconds:.1f} s")


MANY_TRIALS = """
import numpy as np
from orchestrator.sweeps.value import Grid, Sweep
from orchestrator.sweeps.registry import sweep

@sweep
def many_trials() -> Sweep:
    lambdas = tuple(float(x) for x in np.geomspace(1e-6, 1e-1, 200))
    grid = Grid(base={"batch_size": 2, "num_epochs": 1}, arms={"adam": {}}, axes={"weight_decay": lambdas})
    return Sweep(
        name="many_trials", title="1,000 short trials", workload="two_layer_cnn", grids=(grid,),
        figures=(), seeds=(0, 1, 2, 3, 4),
    )
"""


def launch(*arguments: str, **environment: str) -> float:
    """Wall seconds of one launch."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "orchestrator.launch", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    return time.perf_counter() - started


class FunctionTrials:
    """The same trials as ordinary Tune function trainables with torch.optim, one a core, extrapolated from a sample."""

    def __init__(self) -> None:
        import ray
        from ray import tune

        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=CORES)
        self.seconds_per_trial = self._overhead(tune)
        sample = [(b, o) for b in (2, 4, 10, 20, 40, 100, 200) for o in ("adam", "adamw")]
        results = self._fit(tune, [{"batch_size": b, "optimizer": o, "seconds": SAMPLE_SECONDS} for b, o in sample])
        self._per_step = {
            (r.metrics["batch_size"], r.metrics["optimizer"]): r.metrics["seconds_per_step"] for r in results
        }
        self._per_probe = max(r.metrics["seconds_per_probe"] for r in results)
        ray.shutdown()

    def extrapolate(self, configs: tuple[Any, ...]) -> float:
        """Wall seconds of all these trials."""
        work = 0.0
        for c in configs:
            work += c.num_epochs * c.steps_per_epoch * self._per_step[c.batch_size, c.optimizer.value]
            work += len(trace_epochs(c.num_epochs)) * self._per_probe
        return work / CORES + len(configs) * self.seconds_per_trial

    def _overhead(self, tune: Any) -> float:
        """Wall seconds that Tune itself takes for a function trial that does one step."""
        started = time.perf_counter()
        trials = [{"batch_size": 2, "optimizer": "adam", "seconds": 0.0}] * OVERHEAD_TRIALS
        self._fit(tune, trials)
        return (time.perf_counter() - started) / OVERHEAD_TRIALS

    @staticmethod
    def _fit(tune: Any, trials: list[dict[str, Any]]) -> Any:
        trainable = tune.with_resources(function_trial, {"cpu": 1})
        run_config = tune.RunConfig(verbose=0, storage_path=tempfile.mkdtemp())
        space = {"trial": tune.grid_search(trials)}
        return tune.Tuner(trainable, param_space=space, run_config=run_config).fit()


def function_trial(config: dict[str, Any]) -> None:
    """An ordinary torch.optim loop that reports at the end."""
    import torch
    from ray import tune
    from torch.nn.functional import cross_entropy

    from trainables.optimizers import make_optimizer
    from trainables.two_layer_cnn.patch_data import patch_data
    from trainables.two_layer_cnn.reference import ReferenceEngine, network_outputs
    from trainables.two_layer_cnn.state import epoch_orders, initial_state

    trial = config["trial"]
    c = TwoLayerCNNConfig(optimizer=trial["optimizer"], weight_decay=1e-5, batch_size=trial["batch_size"], seed=0)
    data = patch_data(c)
    x, y = torch.from_numpy(data.train.dense(c.dimension)).float(), torch.from_numpy(data.train.labels < 0).long()
    weights = torch.from_numpy(initial_state(c).weights.T.reshape(2, c.num_filters, -1).copy()).requires_grad_()
    optimizer = make_optimizer(c, [weights])
    batches = torch.from_numpy(epoch_orders(c, 0, 1)[0].astype("int64")).split(c.batch_size)
    steps, started = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - started < trial["seconds"]:
        batch = batches[steps % len(batches)]
        optimizer.zero_grad()
        cross_entropy(network_outputs(weights, x[batch], c.activation_power), y[batch]).backward()
        optimizer.step()
        steps += 1
    seconds_per_step = (time.perf_counter() - started) / steps
    started = time.perf_counter()
    if trial["seconds"]:
        ReferenceEngine(c, data).probe(initial_state(c))
    tune.report(
        {
            "batch_size": c.batch_size,
            "optimizer": c.optimizer.value,
            "seconds_per_step": seconds_per_step,
            "seconds_per_probe": time.perf_counter() - started,
        }
    )


if __name__ == "__main__":
    main()
