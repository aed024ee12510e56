"""The options of a launch and its summary, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import SweepError
from orchestrator.executors.registry import place_named

AUTO = "auto"
"""The fastest kind of device that is available and that the workload trains on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How and where a sweep runs; no trial's name depends on these options.

    `device` and `cpus_per_trial` may change numbers by rounding. The other options change no number. `run_sweep` checks
    the options, and raises `SweepError` where they contradict each other.

    Args:
        out: Folder or object-store URI (`s3://bucket/path`) of the results. What it holds is not trained again.
        executor: `ray` trains on a Ray cluster, `inline` in this process, one trial after another.
        address: HOST:PORT of a running Ray cluster. None starts Ray on this machine.
        max_trials: Run at most this many of the missing trials; for grids only. None runs all.
        mlflow: Whether to write the MLflow view.
        figures: Whether to draw the sweep's figures.
        checkpoint_seconds: Seconds between two saves of trials in training; a killed launch loses that much.
        device: `cpu`, `cuda`, or `auto`: the fastest that is available and that the workload trains on.
        cpus_per_trial: Threads of a trial that trains on the CPU.
        max_nodes: Worker nodes that an autoscaled cluster at `address` may grow to. None uses the nodes it has.
        slots_per_node: Packs that such a node runs at once. None takes those of the largest node that exists.
        stall_minutes: A worker under Ray that reports nothing for so long is ended, and its trials go on elsewhere.

    Example:
        >>> from orchestrator import RunOptions
        >>> options = RunOptions(out="results", executor="inline", mlflow=False)
        >>> options.device, options.checkpoint_seconds
        ('auto', 30.0)
    """

    out: str
    executor: str = "ray"
    address: str | None = None
    max_trials: int | None = None
    mlflow: bool = True
    figures: bool = True
    checkpoint_seconds: float = 30.0
    device: str = AUTO
    cpus_per_trial: int = 1
    max_nodes: int | None = None
    slots_per_node: int | None = None
    stall_minutes: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a launch did: trials `planned`, `already_done` before it, and `finished` in it, with their `outcomes`.

    Trials that another launch trained meanwhile are among the finished, and so are the `failed` ones. `errors` counts
    those by the last line of their tracebacks, the most frequent first.
    """

    planned: int
    already_done: int
    finished: int
    failed: int
    outcomes: Mapping[str, int]
    interrupted: bool
    errors: Mapping[str, int]


def check_place(options: RunOptions) -> None:
    """Raise `SweepError` for an executor that does not exist, or for options that mean nothing to it."""
    place = place_named(options.executor)
    if options.max_nodes is not None and (options.address is None or not place.takes_address):
        raise SweepError("--max-nodes is for a Ray cluster that can grow: give its --address as well")
    if options.slots_per_node is not None and options.max_nodes is None:
        raise SweepError("--slots-per-node is how many packs a node of --max-nodes runs at once: give --max-nodes too")
    if options.address is not None and not place.takes_address:
        is_inline = options.executor == "inline"
        raise SweepError(
            f"--address names a Ray cluster, and --executor {options.executor} "
            f"{'runs in this process' if is_inline else 'joins no cluster'}: give one of them"
        )
