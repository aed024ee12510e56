"""Carries out one fault at a launch."""

from __future__ import annotations

import resource
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tests.chaos.launches import Launch
from tests.chaos.schedule import Fault
from tests.support.processes import Process
from tests.support.servers import free_port

FULL_SECONDS = 5.0
LOCKED_SECONDS = 3.0

_NAMES = {
    Fault.EXCHANGE: "ray::PackExchange",
    Fault.RAYLET: "raylet/raylet",
    Fault.GCS: "gcs/gcs_server",
}
_TRAINS = ("ray::PackTrainable", "ray::ResourceTrainable")


def strike(fault: Fault, launch: Launch) -> bool:
    """Carry out the fault; False if the launch has no such process or file now."""
    return _CARRY_OUT.get(fault, _kill)(fault, launch)


def settings_after(fault: Fault) -> dict[str, str]:
    """Environment variables of the launch that follows."""
    return {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"} if fault is Fault.CLOSED_MLFLOW else {}


def _kill(fault: Fault, launch: Launch) -> bool:
    targets = _targets(fault, launch.processes())
    for process in targets:
        process.send(signal.SIGKILL)
    return bool(targets)


def _terminate(fault: Fault, launch: Launch) -> bool:
    targets = _targets(Fault.PARENT, launch.processes())
    for process in targets:
        process.send(signal.SIGTERM)
    return bool(targets)


def _targets(fault: Fault, processes: list[Process]) -> list[Process]:
    started = [process for process in processes if "orchestrator.launch" in process.line]
    match fault:
        case Fault.EVERYTHING:
            return processes
        case Fault.PARENT:
            return started[:1]
        case Fault.DRIVER | Fault.CLOSED_MLFLOW:
            return started[-1:]
        case Fault.WORKER:
            return [process for process in processes if process.line.startswith(_TRAINS)][:1]
    return [process for process in processes if _NAMES[fault] in process.line][:1]


def _fill_disk(fault: Fault, launch: Launch) -> bool:
    """Let the driver and workers write to no file until the launch ends or some seconds have passed.

    Their writes fail as on a full disk, but with another number, EFBIG. Ray's own servers would be killed by that, as
    they do not ignore the signal that comes with it.
    """
    struck = [process for process in launch.processes() if _ignores(process, signal.SIGXFSZ)]
    for process in struck:
        _limit_files(process, 0)
    launch.wait_for(lambda: False, FULL_SECONDS)
    for process in struck:
        _limit_files(process, resource.RLIM_INFINITY)
    return bool(struck)


def _ignores(process: Process, number: int) -> bool:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored, 16) >> (number - 1) & 1)


def _limit_files(process: Process, size: int) -> None:
    with suppress(OSError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _lock_mlflow(fault: Fault, launch: Launch) -> bool:
    path = launch.folder.out / "mlflow.db"
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        time.sleep(LOCKED_SECONDS)
    return True


def _delete_mlflow(fault: Fault, launch: Launch) -> bool:
    paths = list(launch.folder.out.glob("mlflow.db*"))
    for path in paths:
        path.unlink(missing_ok=True)
    return bool(paths)


_CARRY_OUT: dict[Fault, Callable[[Fault, Launch], bool]] = {
    Fault.TERMINATE: _terminate,
    Fault.FULL_DISK: _fill_disk,
    Fault.LOCKED_MLFLOW: _lock_mlflow,
    Fault.DELETED_MLFLOW: _delete_mlflow,
}
