"""A process that requests the lease of the sweep `sweep`, and holds it until it is ended."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from functools import cached_property

from orchestrator.errors import SweepError
from orchestrator.ledger import liveness
from orchestrator.ledger.lease import lease
from tests.support.launching import environment

HELD = "held"


class Holder:
    """Starts the process; `said` waits for its answer: `HELD`, or why it was refused.

    `kind` is `locks`, or the name of the error that a file system without locks raises. The process writes a lease
    every `beat` seconds, and takes another for dead after `silent` seconds.
    """

    def __init__(self, out: str, kind: str = "locks", *, beat: float, silent: float) -> None:
        command = [sys.executable, "-m", __name__, out, kind, str(beat), str(silent)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())

    @cached_property
    def said(self) -> str:
        """The first line that the process printed."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Let it give the lease back and end."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.communicate()


def _hold(out: str, kind: str, beat: str, silent: str) -> None:
    def flock(*_: object) -> None:
        raise OSError(getattr(errno, kind), "no locks here")

    liveness.BEAT_SECONDS, liveness.SILENT_SECONDS = float(beat), float(silent)
    if kind != "locks":
        fcntl.flock = flock  # as a file system without it
    try:
        with lease(out, "sweep"):
            print(HELD, flush=True)
            sys.stdin.read()
    except SweepError as error:
        print(error, flush=True)


if __name__ == "__main__":
    _hold(*sys.argv[1:])
