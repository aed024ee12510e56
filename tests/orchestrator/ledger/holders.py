"""Processes that hold something in a results folder until they are ended: a sweep's lease, or claims to trials."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
from functools import cached_property

from orchestrator.errors import LedgerError, SweepError
from orchestrator.ledger import liveness
from orchestrator.ledger.lease import lease
from orchestrator.ledger.ledger import Ledger
from tests.support.launching import environment

HELD = "held"


class _Holder:
    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", __name__, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())

    @cached_property
    def said(self) -> str:
        """The first line that the process printed; waits for it."""
        return self._line()

    def end(self) -> None:
        """Let it give back what it holds and end."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


class Holder(_Holder):
    """Requests the lease of the sweep `sweep`; `said` is `HELD`, or why it was refused.

    `kind` is `locks`, or the name of the error that a file system without locks raises. The process writes a lease
    every `beat` seconds, and takes another for dead after `silent` seconds.
    """

    def __init__(self, out: str, kind: str = "locks", *, beat: float, silent: float) -> None:
        super().__init__("lease", beat, silent, out, kind)


class ClaimsHolder(_Holder):
    """Claims these trials; `said` are those that it got."""

    def __init__(self, out: str, *trial_ids: str, beat: float, silent: float) -> None:
        super().__init__("claims", beat, silent, out, *trial_ids)

    def ask(self) -> str:
        """What its ledger says before it records something: nothing, or why it does not."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def stop(self) -> None:
        """Let it be silent."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


def _hold_lease(out: str, kind: str) -> None:
    def flock(*_: object) -> None:
        raise OSError(getattr(errno, kind), "no locks here")

    if kind != "locks":
        fcntl.flock = flock  # as a file system without it
    try:
        with lease(out, "sweep"):
            print(HELD, flush=True)
            sys.stdin.read()
    except SweepError as error:
        print(error, flush=True)


def _hold_claims(out: str, *trial_ids: str) -> None:
    claims = Ledger(out).claims
    with claims.held():
        print(*sorted(claims.claim(trial_ids)), flush=True)
        for _ in sys.stdin:
            try:
                claims.check()
                print(flush=True)
            except LedgerError as error:
                print(error, flush=True)


if __name__ == "__main__":
    what, beat, silent, *arguments = sys.argv[1:]
    liveness.BEAT_SECONDS, liveness.SILENT_SECONDS = float(beat), float(silent)
    {"lease": _hold_lease, "claims": _hold_claims}[what](*arguments)
