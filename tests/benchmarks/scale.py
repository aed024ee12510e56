"""Simulates the driver of a sweep of any size: `python -m tests.benchmarks.scale [--trials N ...] [--devices N ...]`.

Planner, packer, recorder, ledger and the loop around them (`Training`) are the product's own; only the executor is
simulated (`simulated_cluster`), one device a node. The trials are a map's, of a second each: the shortest that a sweep
has, so the heaviest load for a driver. Every row is a separate process. A driver's seconds are the CPU time
of all its threads without the simulation's, so that other load on the machine adds little.

Ray is not in it: Tune's own CPU time is added from the two constants below, and placement, the object store and the
network are left out. So are MLflow, tables and figures.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from rich.console import Console

from orchestrator.driver import loop
from orchestrator.executors.pack_queue import PackQueue, PackSettings
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.plan import Plan, ledger_of, plan_sweep
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.space import decades
from tests.benchmarks.simulated_cluster import SimulatedCluster, SimulatedRecorder
from tests.benchmarks.simulated_pack import seconds_of
from trainables.contract import Report
from trainables.packs.orders import MemberOrder
from trainables.packs.worker import REPORT_SECONDS, TUNE_STEP_SECONDS
from trainables.provenance import provenance
from trainables.result import Outcome

TUNE_SECONDS_PER_PACK = 0.0066
"""Tune's own CPU time in the driver for a trial of one step: 450 on two workers with reused actors, Ray 2.60."""
TUNE_SECONDS_PER_STEP = 0.00125
"""The same for a step after which a trial goes on: 1,800 of them."""
CHECKPOINT_SECONDS = 30.0

SIZES = ((2, 1000), (4, 2000), (20, 10_000), (200, 10_000))
"""Batch sizes and epochs of the trials: 10^4 to 10^5 steps."""
DECAYS = decades(1e-6, 1e2, per_decade=3)
TRIALS_PER_SEED = 2 * len(SIZES) * len(DECAYS)

T = TypeVar("T")

HEADS = (
    "trials", "devices", "nodes lost an hour", "packs (lost)", "makespan", "over the bound",
    "plan: nothing, half, all done", "driver a trial", "driver busy, with Tune", "memory: plan, run, compaction",
    "parts", "ledger a trial", "compaction",
)  # fmt: skip


def main() -> None:
    """Print a Markdown table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=whole_seeds, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--loss", type=float, nargs="+", default=[0.0, 0.05], help="share of the nodes lost an hour")
    parser.add_argument("--until", type=float, default=math.inf, help="interrupt after that many simulated seconds")
    parser.add_argument("--unrecorded", action="store_true", help="packs and makespan only: no traces, no ledger")
    args = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "pydantic", "numpy"))
    print(f"{provenance('none').device_name}, Python {platform.python_version()}, {versions}; n = 1 run of each row\n")
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    spawn = multiprocessing.get_context("spawn")
    for trials in args.trials:
        for devices in args.devices:
            for loss in args.loss:
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    make_row = partial(row_of, trials, devices, loss, args.until, args.unrecorded)
                    print(process.submit(make_row).result(), flush=True)


def row_of(trials: int, devices: int, loss: float, until: float, unrecorded: bool) -> str:
    """The table's line of a launch, whose ledger is deleted."""
    cluster = SimulatedCluster(devices, loss, until, has_traces=not unrecorded)
    if unrecorded:
        bound = schedule(sweep_of(trials), cluster)
        return f"| {' | '.join([f'{trials:,}', *cluster_cells(cluster, bound)])} |{' |' * 7}"
    with tempfile.TemporaryDirectory() as out:
        return simulate(trials, cluster, out).row()


def whole_seeds(text: str) -> int:
    """A number of trials; argparse's error for one that no number of seeds gives."""
    trials = int(float(text))
    if trials < TRIALS_PER_SEED or trials % TRIALS_PER_SEED:
        raise argparse.ArgumentTypeError(f"a multiple of {TRIALS_PER_SEED} is required, got {text}")
    return trials


def sweep_of(num_trials: int, first_seed: int = 0) -> Sweep:
    """A map's trials: both optimizers, four batch sizes, eight decades of weight decay, as many seeds as it takes."""
    grids = tuple(
        Grid({"adam": {}, "adamw": {}}, {"weight_decay": DECAYS}, {"batch_size": b, "num_epochs": t}) for b, t in SIZES
    )
    seeds = range(first_seed, first_seed + num_trials // TRIALS_PER_SEED)
    return Sweep("scale", "A simulated sweep", grids, seeds=tuple(seeds))


@dataclass(frozen=True, slots=True)
class Parts:
    """Files of a ledger."""

    number: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A simulated launch's figures: seconds of CPU time, bytes of memory over the start's."""

    num_trials: int
    num_done: int
    cluster: SimulatedCluster
    work: float
    bound: float
    driver: float
    plan: tuple[float, ...]
    memory: tuple[int, ...]
    grown: Parts
    compact: float
    compacted: Parts

    def row(self) -> str:
        """A line of the table."""
        cluster, is_whole = self.cluster, self.num_done == self.num_trials
        busy = self.driver / cluster.makespan
        num_steps = cluster.num_reports * REPORT_SECONDS / TUNE_STEP_SECONDS
        tune = cluster.num_packs * TUNE_SECONDS_PER_PACK + num_steps * TUNE_SECONDS_PER_STEP
        kilobytes = [parts.num_bytes / self.num_done / 1e3 for parts in (self.grown, self.compacted)]
        cells = (
            f"{self.num_trials:,}" if is_whole else f"{self.num_done:,} of {self.num_trials:,}",
            *cluster_cells(cluster, self.bound if is_whole else None),
            f"{', '.join(f'{seconds:.1f}' for seconds in self.plan)} s",
            f"{1e3 * self.driver / self.num_done:.2f} ms",
            f"{busy:.2f}, {busy + tune / cluster.makespan:.2f}",
            f"{', '.join(f'{num_bytes / 1e6:,.0f}' for num_bytes in self.memory)} MB",
            f"{self.grown.number:,} -> {self.compacted.number:,}",
            f"{kilobytes[0]:.2f} -> {kilobytes[1]:.2f} KB",
            f"{self.compact:.1f} s",
        )
        return f"| {' | '.join(cells)} |"


def cluster_cells(cluster: SimulatedCluster, bound: float | None) -> tuple[str, ...]:
    """What the nodes did; no `bound` for a launch that was interrupted."""
    return (
        f"{cluster.devices:,}",
        f"{cluster.losses_per_hour:.0%}",
        f"{cluster.num_packs:,} ({cluster.num_lost:,})",
        f"{cluster.makespan:,.0f} s",
        f"{cluster.makespan / bound:.3f}" if bound else "interrupted",
    )


def schedule(sweep: Sweep, cluster: SimulatedCluster) -> float:
    """Run a sweep's packs without recording anything; returns the least makespan that there could be."""
    configs = sweep.configs()
    queue = PackQueue(PackSettings("", CHECKPOINT_SECONDS))
    queue.add([MemberOrder(config) for config in configs])
    queue.close()

    def sink(reports: Sequence[Report]) -> None:
        for report in reports:
            if report.result is not None:
                queue.ended(report.result)
        if not reports:
            cluster.acknowledge(())

    cluster.run(queue, sink)
    return cluster.least_makespan([seconds_of(config) for config in configs])


def simulate(num_trials: int, cluster: SimulatedCluster, out: str) -> Launch:
    """Plan, run, compact and plan again, in an empty folder."""
    sweep = sweep_of(num_trials)
    ledger = ledger_of(sweep, out)
    at_start = peak_bytes()
    plan, plan_nothing = timed(lambda: plan_sweep(sweep, ledger))
    planned = peak_bytes()
    seconds = [seconds_of(config) for config in plan.configs]
    num_done, driver = train(plan, ledger, cluster, out)
    trained, grown = peak_bytes(), parts_under(out)
    del plan
    _, compact = timed(ledger.compact)
    compacted = peak_bytes()
    others = sweep_of(num_trials, first_seed=len(sweep.seeds) // 2)  # the ledger has half of these
    again = [timed(partial(plan_sweep, each, ledger)) for each in (others, sweep)]
    assert again[-1][0].num_pending == num_trials - num_done
    return Launch(
        num_trials=num_trials,
        num_done=num_done,
        cluster=cluster,
        work=sum(seconds),
        bound=cluster.least_makespan(seconds),
        driver=driver,
        plan=(plan_nothing, *(plan_seconds for _, plan_seconds in again)),
        memory=tuple(num_bytes - at_start for num_bytes in (planned, trained, compacted)),
        grown=grown,
        compact=compact,
        compacted=parts_under(out),
    )


def train(plan: Plan, ledger: Ledger, cluster: SimulatedCluster, out: str) -> tuple[int, float]:
    """Run what is planned: trials done, and the driver's seconds."""
    with patch.object(loop, "Recorder", SimulatedRecorder):
        launch = loop.Training(plan, ledger, cluster, None, f"{out}/states", CHECKPOINT_SECONDS)
        (outcomes, interrupted), seconds = timed(partial(launch.run, Console(file=io.StringIO())))
    num_done = outcomes[Outcome.LEARNED]
    assert num_done == outcomes.total() == len(ledger.settled(plan.sweep.workload))
    assert interrupted == (num_done < plan.num_pending)
    return num_done, seconds - cluster.simulation_seconds


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its CPU seconds."""
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


def peak_bytes() -> int:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parts_under(out: str) -> Parts:
    """The parts of a ledger."""
    sizes = [path.stat().st_size for path in Path(out).rglob("part-*.parquet")]
    return Parts(len(sizes), sum(sizes))


if __name__ == "__main__":
    main()
