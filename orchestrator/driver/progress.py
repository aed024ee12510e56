"""Shows how far a sweep is: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from orchestrator.report.text import plain_console
from trainables.result import Outcome

PLAIN_LINE_SECONDS = 10.0
MIN_SHARE = 0.01
"""Before this share of the work is done, no remaining time is shown: it would follow the pace of the start."""


class ProgressDisplay:
    """Shows trials done, outcomes, and the time left by the cost model at the pace seen so far. Thread-safe."""

    def __init__(
        self, title: str, total: int, already_done: int, cost_total: float, console: Console | None = None
    ) -> None:
        self._console = console or plain_console()
        self._title, self._total, self._done = title, total, already_done
        self._cost_total, self._cost_done, self._cost_running = cost_total, 0.0, 0.0
        self._outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._started = self._printed = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=max(cost_total, 1e-9), state="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._print(self._line())

    def trial_done(self, outcome: Outcome, cost: float) -> None:
        """Count one more ended trial; `cost` is what the cost model says of it."""
        with self._lock:
            self._done += 1
            self._outcomes[outcome] += 1
            self._cost_done += cost
            self._cost_running = max(0.0, self._cost_running - cost)  # it included a share of this trial
            self._show()

    def expect(self, total: int, cost_left: float) -> None:
        """Take new totals when a search asked for more: all trials so far, and the cost of those not ended."""
        with self._lock:
            self._total, self._cost_total = total, self._cost_done + cost_left
            if self._console.is_terminal:
                self._bar.update(self._task, total=max(self._cost_total, 1e-9))

    def partial(self, cost_running: float) -> None:
        """Take the cost of what the trials in training have done so far, summed over these trials."""
        with self._lock:
            self._cost_running = cost_running
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._cost_done + self._cost_running, state=self._state())
        elif now - self._printed >= PLAIN_LINE_SECONDS:
            self._printed = now
            self._print(self._line())

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _line(self) -> str:
        return f"{self._title}: {self._state()}"

    def _state(self) -> str:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self._outcomes.most_common())
        elapsed = time.monotonic() - self._started
        parts = [f"{self._done}/{self._total} trials", outcomes, f"{_duration(elapsed)} elapsed"]
        share = (self._cost_done + self._cost_running) / self._cost_total if self._cost_total else 1.0
        if MIN_SHARE <= share < 1:
            parts.append(f"about {_duration(elapsed * (1 - share) / share)} left")
        return " · ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
