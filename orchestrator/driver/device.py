"""Chooses the kind of device that a launch trains on."""

from __future__ import annotations

from orchestrator.driver.options import AUTO, RunOptions
from orchestrator.errors import SweepError
from orchestrator.sweeps.value import Sweep
from trainables.machine.cpus import usable_cpus
from trainables.machine.gpu import gpu_is_here
from trainables.registry import workload


def chosen_device(sweep: Sweep, options: RunOptions) -> str | None:
    """The kind of device to train on, None for what the cluster has; raises `SweepError` where it is not available."""
    here = options.address is None
    cores = usable_cpus()
    if here and options.cpus_per_trial > cores:
        raise SweepError(
            f"--cpus-per-trial is at most the {cores} CPUs that this process may use, got {options.cpus_per_trial}"
        )
    able = workload(sweep.workload).devices
    if options.device == AUTO:
        if "cuda" not in able:
            return "cpu"
        return ("cuda" if gpu_is_here() else "cpu") if here else None
    if options.device not in able:
        raise SweepError(f"{sweep.workload} trains on {' or '.join(able)}, got --device {options.device}")
    if options.device == "cuda" and here and not gpu_is_here():
        raise SweepError("--device cuda: this machine has no GPU that torch can use")
    return options.device
