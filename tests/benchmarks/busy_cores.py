"""Times the choice of a map's next eight points beside trials on all cores: `python -m tests.benchmarks.busy_cores`.

The baseline has as many threads of OpenBLAS as there are cores, which is its default; the product has one.
"""

from __future__ import annotations

import inspect
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy
from optuna.distributions import FloatDistribution
from threadpoolctl import threadpool_limits

from search_spaces.level_set.model import fit
from search_spaces.samplers import boundary
from search_spaces.samplers.boundary import Outcomes, Params, propose_boundary

ROUNDS = 3
CORES = os.cpu_count() or 1
SPACE = {"weight_decay": FloatDistribution(1e-6, 10, log=True), "batch_size": FloatDistribution(2, 200, log=True)}
TRIAL = """
from trainables.registry import config_from_values, workload
from trainables.contract import Member
config = config_from_values({"workload": "two_layer_cnn", "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 20,
                             "num_epochs": 10**6, "seed": 0})
run = workload("two_layer_cnn").open([Member(config, config.num_epochs)])
print("trains", flush=True)
run.advance(10**6)
"""


def main() -> None:
    """Print medians [min-max] of both, on idle cores and beside a trial on each, and the ratios."""
    versions = f"numpy {np.__version__}, scipy {scipy.__version__}"
    print(f"{platform.processor() or platform.machine()}, {CORES} cores, {versions}; seconds, {ROUNDS} rounds")
    for num_points in (60, 200, 400):
        known = outcomes(num_points)
        report(f"{num_points} points, idle cores", known)
        with trials():
            report(f"{num_points} points, a trial on each core", known)


def report(what: str, known: list[tuple[Params, Outcomes]]) -> None:
    """One line; rounds alternate, and both have to give the same points."""
    propose = {"one thread": propose_boundary, "baseline": propose_with_all_threads}
    seconds: dict[str, list[float]] = {name: [] for name in propose}
    found = []
    for _ in range(ROUNDS):
        for name, function in propose.items():
            with threadpool_limits(CORES, user_api="blas"):
                started = time.perf_counter()
                found.append(function(SPACE, known, [], 8, 0))
                seconds[name].append(time.perf_counter() - started)
    assert all(points == found[0] for points in found)
    texts = (f"{name} {statistics.median(s):.2f} [{min(s):.2f}-{max(s):.2f}]" for name, s in seconds.items())
    ratio = statistics.median(seconds["baseline"]) / statistics.median(seconds["one thread"])
    print(f"{what}: {', '.join(texts)}: {ratio:.1f}x", flush=True)


def propose_with_all_threads(*arguments: Any) -> list[Params]:
    """The product's search without its limit."""
    boundary.fit = inspect.unwrap(fit)
    try:
        return inspect.unwrap(propose_boundary)(*arguments)
    finally:
        boundary.fit = fit


def outcomes(num: int) -> list[tuple[Params, Outcomes]]:
    """Random points of a map whose boundary rises with the batch size, some on the wrong side."""
    rng = np.random.default_rng(0)
    known: list[tuple[Params, Outcomes]] = []
    for _ in range(num):
        decay, size = rng.uniform(-6, 1), rng.uniform(0.31, 2.29)
        works = decay < -2 + 0.3 * size + 0.1 * rng.normal()
        known.append(({"weight_decay": float(10**decay), "batch_size": float(10**size)}, [float(works)]))
    return known


@contextmanager
def trials() -> Iterator[None]:
    """A trial in training on each core."""
    processes = [subprocess.Popen([sys.executable, "-c", TRIAL], stdout=subprocess.PIPE) for _ in range(CORES)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    main()
