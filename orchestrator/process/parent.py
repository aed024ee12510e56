"""The small process above a launch that trains on Ray: it starts the launch anew if Ray ended it.

A process that uses Ray is ended by Ray's C++ code when Ray's control service is gone: no Python code can go on in it.
So a launch forks before it imports anything. The child runs the sweep; the parent waits, passes signals on, and forks
again if the child ended in no orderly way. The new child trains what the ledger lacks, from the saved states.

A child that was killed (SIGKILL) is not replaced: who does so wants an end, and one that had too little memory would
have too little again.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from orchestrator.process.reaper import ALIVE, TOLD_OF
from orchestrator.process.stopping import SIGNALS, described, exit_code

MOST_STARTS = 3
"""Starts in a row after which Ray ended the launch without a new row or state: then it is given up."""
NOT_TRAINING = frozenset(
    ("all", "data", "export-mlflow", "export-optuna", "list", "plan", "replay", "status", "submit", "verify")
)
"""Commands that train nothing under Ray; the commands themselves are imported later, by the child."""
_WAITED_FOR = {*SIGNALS, signal.SIGCHLD}
_EXIT_LOST, _EXIT_GIVEN_UP = 75, 2
_PR_SET_PDEATHSIG = 1
_SHOW_CURSOR = "\x1b[?25h\n"

_channel: int | None = None
"""In a child: where it tells its parent lines `KEY VALUE`, of which the last one of each key counts."""


def watch(arguments: Sequence[str]) -> None:
    """Fork if the command trains on Ray: returns in the child, while the parent ends with the child's exit code."""
    if not (hasattr(os, "fork") and _trains_on_ray(arguments)):
        return
    standing, starts = "", 0
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    while True:
        parent, (inlet, outlet) = os.getpid(), os.pipe()
        child = os.fork()
        if not child:
            os.close(inlet)
            _begin_child(parent, outlet)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return
        os.close(outlet)
        code, stopped_by = _outcome(child)
        told = _told(inlet)
        if "ended" in told or code in _stopped_codes():
            _end(code)
        if stopped_by is not None:  # while Ray was ending it
            _say(f"{described(stopped_by)}: the same command resumes from what was saved last")
            _end(exit_code(stopped_by))
        starts = starts + 1 if told.get("standing", standing) == standing else 1
        standing = told.get("standing", standing)
        _keep(told.get("log"))
        _say_lost(told, code, is_last=starts >= MOST_STARTS)


def tell(key: str, value: str = "") -> None:
    """Tell the parent process something; without one this does nothing.

    The keys are: `standing`, which differs if a launch has progressed since an earlier start; `log`, the file that
    tells more than one line about what happened; `lost`, how Ray ended; `ended` by `watch` itself.
    """
    if _channel is not None:
        with suppress(OSError):
            os.write(_channel, f"{key} {' '.join(value.split())}\n".encode())


def start_anew(reason: str) -> None:
    """End this process at once, so that its parent starts another; without a parent this does nothing."""
    if _channel is None:
        return
    tell("lost", reason)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_EXIT_LOST)


def _trains_on_ray(arguments: Sequence[str]) -> bool:
    words = list(arguments)
    if not words or words[0].startswith("-") or words[0] in NOT_TRAINING or "--help" in words:
        return False
    follows = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--executor"]
    given = [*follows, *(word.partition("=")[2] for word in words if word.startswith("--executor="))]
    return "inline" not in given


def _begin_child(parent: int, outlet: int) -> None:
    global _channel
    _channel = outlet
    os.set_blocking(outlet, False)
    atexit.register(tell, "ended")  # called last, and not if Ray's C++ ends the process
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)


def _outcome(child: int) -> tuple[int, signal.Signals | None]:
    """The child's exit code, negative for a signal, and the first signal to this process; passes signals on."""
    stopped_by = None
    while True:
        number = signal.sigwait(_WAITED_FOR)
        if number != signal.SIGCHLD:
            stopped_by = stopped_by or signal.Signals(number)
            os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), stopped_by


def _told(inlet: int) -> dict[str, str]:
    """What the child told; it has ended, but a process that it forked may still hold the other end."""
    os.set_blocking(inlet, False)
    data = b""
    with suppress(BlockingIOError):
        while piece := os.read(inlet, 65536):
            data += piece
    os.close(inlet)
    lines = data.decode(errors="replace").splitlines()
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def _stopped_codes() -> set[int]:
    """Exit codes of a child that was stopped or killed by a signal, or that ended itself because of one."""
    return {-signal.SIGKILL, *(sign * number + offset for number in SIGNALS for sign, offset in ((-1, 0), (1, 128)))}


def _end(code: int) -> NoReturn:
    if code == -signal.SIGKILL:
        _say("error: the launch was killed (SIGKILL): the same command resumes from what was saved last")
    sys.exit(code if code >= 0 else 128 - code)


def _say_lost(told: dict[str, str], code: int, *, is_last: bool) -> None:
    """Say how Ray ended, and what follows; ends this process if nothing does."""
    how = told.get("lost") or (f"exit code {code}" if code >= 0 else signal.Signals(-code).name)
    log = ""
    if file := told.get("log"):
        log = f"; log: {file if os.path.exists(file) else os.path.dirname(file)}"  # noqa: PTH110, PTH120
    if is_last:
        _say(f"error: Ray ended {MOST_STARTS} times without progress of the sweep (at last: {how}){log}")
        sys.exit(_EXIT_GIVEN_UP)
    _say(f"Ray ended ({how}): starting it again{log}")


def _say(line: str) -> None:
    if sys.stderr.isatty():  # a progress bar may have been cut off
        line = f"{_SHOW_CURSOR}{line}"
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def _keep(log: str | None) -> None:
    """Keep the folder of a log that is told of: from the reaper for good, from later launches while this process runs.

    Those delete what is unlocked.
    """
    if log is None:
        return
    import fcntl

    folder = os.path.dirname(log)  # noqa: PTH120
    with suppress(OSError):
        os.close(os.open(os.path.join(folder, TOLD_OF), os.O_CREAT))  # noqa: PTH118
        alive = os.open(os.path.join(folder, ALIVE), os.O_RDONLY)  # noqa: PTH118
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
