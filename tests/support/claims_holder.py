"""A process that claims trials in a ledger and waits: it can be stopped, killed and asked whether it lost them."""

from __future__ import annotations

import signal
import subprocess
import sys

from orchestrator.errors import LedgerError
from orchestrator.ledger import liveness
from orchestrator.ledger.ledger import Ledger
from tests.support.launching import environment


class ClaimsHolder:
    """Starts the process, which claims these trials; `claimed` are those that it got."""

    def __init__(self, out: str, *trial_ids: str, beat: float, silent: float) -> None:
        command = [sys.executable, "-m", __name__, out, str(beat), str(silent), *trial_ids]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())
        self.claimed = set(self._line().split())

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

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """Let it give its claims back and end."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def _hold(out: str, beat: str, silent: str, *trial_ids: str) -> None:
    liveness.BEAT_SECONDS, liveness.SILENT_SECONDS = float(beat), float(silent)
    claims = Ledger(out).claims
    with claims.held():
        print(*claims.claim(trial_ids), flush=True)
        for _ in sys.stdin:
            try:
                claims.check()
                print(flush=True)
            except LedgerError as error:
                print(error, flush=True)


if __name__ == "__main__":
    _hold(*sys.argv[1:])
