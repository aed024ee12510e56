"""How Ctrl-C, SIGTERM (Kubernetes, systemd), SIGHUP (a closed terminal) and SIGUSR1 (a batch system) stop a command.

The first signal asks. While trials are in training, executors find it in `requested` and have their states saved;
anywhere else it raises `Stopped` in the main thread. A second signal, or `DRAIN_SECONDS` after the first one, ends the
process at once.
"""

from __future__ import annotations

import _thread
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

DRAIN_SECONDS = 25.0
"""Most seconds from the first signal to the end of a launch: Kubernetes kills a pod after 30."""
SAVE_SECONDS = 17.0
"""Most of these that packs may take to save their states; what is left is for the ledger and MLflow."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

_SAME_SECONDS = 1.0
"""Signals within this time are one: a parent may pass on what the terminal has sent to the whole process group."""
_SHOW_CURSOR = b"\x1b[?25h"


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop."""


class _Handlers:
    """The handlers of one command, which owns its process, or of one call of `run_sweep` in a user's program."""

    def __init__(self, *, owns_process: bool) -> None:
        self._owns_process = owns_process
        self.first: signal.Signals | None = None
        self.first_at = math.inf
        self.is_deferred = False
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def install(self) -> None:
        for number in self._before:
            self.take_back(number)

    def take_back(self, number: signal.Signals) -> None:
        is_ignored = self._before[number] in (signal.SIG_IGN, None)  # by nohup, or a shell's `&`
        if not is_ignored and signal.getsignal(number) != self._take:
            signal.signal(number, self._take)

    def restore(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._take:
                signal.signal(number, before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first, self.first_at = signal.Signals(number), time.monotonic()
            if self._owns_process:  # a `threading.Thread` could wait here for a lock that this thread holds
                _thread.start_new_thread(self._end_after, (DRAIN_SECONDS,))
            if not self.is_deferred:
                raise Stopped
        elif time.monotonic() - self.first_at > _SAME_SECONDS:
            if self._owns_process:
                self._end("stopped at once: the same command resumes from what was saved last")
            raise Stopped

    def _end_after(self, seconds: float) -> None:
        time.sleep(seconds)
        self._end(f"stopped after {seconds:.0f} s: the same command resumes from what was saved last")

    def _end(self, line: str) -> None:
        """End the process and its descendants, whatever any thread is doing."""
        assert self.first is not None
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)
        for pid in _descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(exit_code(self.first))


_handlers: _Handlers | None = None


def exit_code(number: int) -> int:
    """The exit code by which shells know that a signal ended a process."""
    return 128 + number


def described(number: signal.Signals) -> str:
    """What a user did, or who did what to the launch."""
    return "interrupted" if number is signal.SIGINT else f"interrupted by {number.name}"


def own_process() -> None:
    """Heed the signals until this process ends; for commands, in the main thread."""
    global _handlers
    _handlers = _Handlers(owns_process=True)
    _handlers.install()


def take_back(number: signal.Signals) -> None:
    """Heed a signal again that a library has taken; in the main thread."""
    if _handlers is not None and threading.current_thread() is threading.main_thread():
        _handlers.take_back(number)


@contextmanager
def heeded() -> Iterator[None]:
    """Heed the signals within this block, in a user's program; later signals are again the user's.

    A program that was asked to end is asked again after the block. Outside of the main thread this does nothing.
    """
    global _handlers
    if _handlers is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _handlers = handlers = _Handlers(owns_process=False)
    handlers.install()
    try:
        yield
    finally:
        handlers.restore()
        _handlers = None
        if handlers.first not in (None, signal.SIGINT):
            signal.raise_signal(handlers.first)


def requested() -> signal.Signals | None:
    """The signal that asked to stop, if one did."""
    return None if _handlers is None else _handlers.first


def seconds_left(of_seconds: float = DRAIN_SECONDS) -> float:
    """What is left of that time since the first signal; infinite if there was none."""
    return math.inf if _handlers is None else _handlers.first_at + of_seconds - time.monotonic()


def defer() -> None:
    """From now on the first signal raises nothing: see `deferred`."""
    if _handlers is not None:
        _handlers.is_deferred = True


@contextmanager
def deferred() -> Iterator[None]:
    """Within this block the first signal raises nothing: whoever works there looks at `requested`."""
    handlers = _handlers
    defer()
    try:
        yield
    finally:
        if handlers is not None:
            handlers.is_deferred = False


def _descendants(pid: int) -> list[int]:
    """The processes that stem from one, on Linux; elsewhere Ray's own notice the end of their driver."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat") as file:  # noqa: PTH123
            parent = int(file.read().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found, open_pids = [], [pid]
    while open_pids:
        found += (new := children.get(open_pids.pop(), []))
        open_pids += new
    return found
