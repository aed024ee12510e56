"""Finds the processes that stem from a test by a text in their environment, whoever their parent is now."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process, its command line, and when it was started in clock ticks, since ids are used again."""

    pid: int
    started: int
    line: str

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return _started(self.pid) == self.started

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def is_running(pid: int) -> bool:
    """Whether a process has not ended, even if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def marked(*marks: str) -> list[Process]:
    """The other running processes whose environment, which children inherit, contains all these texts; oldest first."""
    found = _marked([mark.encode() for mark in marks])
    return sorted(found, key=lambda process: (process.started, process.pid))


def kill_marked(*marks: str) -> None:
    """Send SIGKILL to all of them, also to those that are being started meanwhile."""
    for _ in range(100):
        found = marked(*marks)
        if not found:
            return
        for process in found:
            process.send(signal.SIGKILL)
        time.sleep(0.1)


def _marked(marks: list[bytes]) -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = (entry / "environ").read_bytes()
            started = _started(int(entry.name))
            if started is not None and all(mark in environment for mark in marks):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield Process(int(entry.name), started, line.strip())


def _started(pid: int) -> int | None:
    """When a process was started; None if it has ended, although its parent may not have asked for its exit code."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
