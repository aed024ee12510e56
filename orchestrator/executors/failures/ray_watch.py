"""Notices within a second that a local Ray is gone: its own calls would wait for minutes, or end this process."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Iterator

from ray._private import ray_constants, worker

from orchestrator.process.parent import start_anew

_LOOK_SECONDS = 0.5
_END_SECONDS = 15.0
"""How long Tune may take to end and the recorder to write, once Ray is gone."""
_NEEDED = {
    ray_constants.PROCESS_TYPE_GCS_SERVER: "its control service",
    ray_constants.PROCESS_TYPE_RAYLET: "its raylet",
}


class RayWatch:
    """Looks after the processes that this one has started for Ray; `lost` says which ended first, and how."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self._closed = threading.Event()
        self._processes = list(_processes())
        threading.Thread(target=self._look, name="watch-ray", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> None:
        while (lost := self._first_ended()) is None:
            if self._closed.wait(_LOOK_SECONDS):
                return
        logging.getLogger("ray").error("Ray has ended: %s", lost)
        self.lost = lost
        if not self._closed.wait(_END_SECONDS):  # a call of Ray's does not return
            start_anew(lost)

    def _first_ended(self) -> str | None:
        return next((_how(name, process) for name, process in self._processes if process.poll() is not None), None)


def _processes() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    node = worker._global_node
    for kind, name in _NEEDED.items():
        for info in () if node is None else node.all_processes.get(kind, ()):
            yield name, info.process


def _how(name: str, process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"{name} was ended by {signal.Signals(-code).name}" if code < 0 else f"{name} ended with exit code {code}"
