"""The CPUs that a process may use: the kernel's own affinity, and cgroup files as they are in containers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainables.machine.cpus import usable_cpus

PROGRAM = "from trainables.machine.cpus import usable_cpus; print(usable_cpus())"


def test_a_process_that_may_run_on_one_cpu_counts_one() -> None:
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{one}]); {PROGRAM}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/", {"cpu.max": "max 100000\n"}, 64),
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/pods/mine", {"pods/cpu.max": "300000 100000\n", "pods/mine/cpu.max": "max 100000\n"}, 3),
        ("0::/pods/mine", {"pods/cpu.max": "300000 100000\n", "pods/mine/cpu.max": "200000 100000\n"}, 2),
        ("0::/../elsewhere", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "500000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 5),
        ("4:cpu,cpuacct:/a", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 64),
        ("0::/", {"cpu.max": ""}, 64),
        ("", {}, 64),
    ],
)
def test_cgroups_limit_it(
    membership: str, files: Mapping[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "membership").write_text(f"12:pids:/x\n{membership}\n" if membership else "")
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert usable_cpus(tmp_path / "cgroup", tmp_path / "membership") == cpus


def test_this_machine_gives_at_least_one() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
