"""Counts the CPUs that this process may use: a machine may have more than a container, a job or `taskset` gives it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Number of CPUs that this process may use, at least 1: those it may run on, and no more than its cgroups pay for.

    Half a CPU counts as one, as the kernel then runs one thread part of the time.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(cgroups, membership))]))


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """CPUs that this process's cgroup and those around it allow, where they have a limit (cgroup versions 2 and 1)."""
    for line in _text(membership).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "":
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / "cpu"
        else:
            continue
        group = root / own.lstrip("/")
        for folder in (group, *group.parents):
            files = ("cpu.max",) if root == cgroups else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            match " ".join(_text(folder / name) for name in files).split():
                case [most, period] if most.isdigit() and period.isdigit():  # not "max" or -1: no limit
                    yield int(most) / int(period)
            if folder == root:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
