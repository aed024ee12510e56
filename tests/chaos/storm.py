"""Runs sweeps under a schedule of strikes, starting the same command again until each is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.process.stopping import DRAIN_SECONDS
from tests.chaos.judge import Judge, differences, mlflow_faults
from tests.chaos.launches import Folder, Launch
from tests.chaos.schedule import Fault, Moment, Strike
from tests.chaos.strikes import settings_after, strike
from tests.chaos.sweeps import LAST, NAMES
from tests.support.processes import kill_marked

ORPHAN_SECONDS = 5.0
PATIENCE_SECONDS = 150.0
"""A launch that records nothing for so long hangs."""
MOST_UNPROVOKED = 3
"""A launch may fail because of what struck the one before it, but not again and again."""


@dataclass(slots=True)
class Hit:
    """A strike that met its launch, and what was seen until the next one."""

    strike: Strike
    at: float
    ended: bool = False
    progress_seconds: float | None = None
    violations: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, found: list[str]) -> None:
        """Take note of violations of one kind."""
        if found:
            self.violations.setdefault(kind, []).extend(found)


class Storm:
    """One results folder, into which sweeps are launched while faults strike them."""

    def __init__(self, folder: Folder, undisturbed: Path, say: Callable[[str], None]) -> None:
        self._folder, self._undisturbed, self._say = folder, undisturbed, say
        self._judge = Judge(folder)
        self._left: set[str] = set()
        self._settings: dict[str, str] = {}
        self._is_struck = False
        self.hits: list[Hit] = []
        self._orphans = ThreadPoolExecutor(4)

    def run(self, strikes: deque[Strike]) -> None:
        """Take strikes from the left until all sweeps are done, and judge the end."""
        for sweep in NAMES:
            self._finish(sweep, strikes)
        for sweep in (*NAMES, LAST):  # tell MLflow what it lacks, and delete what earlier ones have left
            self._launch(sweep, deque())
        self._orphans.shutdown()
        if not self.hits:
            return
        end = self.hits[-1]
        end.add("bits", differences(self._folder.out, self._undisturbed))
        end.add("mlflow", mlflow_faults(self._folder.out))
        end.add("files", sorted(self._folder.temporary_names()))

    def _finish(self, sweep: str, strikes: deque[Strike]) -> None:
        """Launch a sweep until it is done; gives up if it fails again and again without being struck."""
        num_unprovoked = 0
        while (code := self._launch(sweep, strikes)) != 0:
            num_unprovoked = 0 if self._is_struck else num_unprovoked + 1
            if num_unprovoked == MOST_UNPROVOKED:
                self._blame("hangs", [f"{sweep} ends with {code}, {num_unprovoked} times without being struck"])
                return

    def _launch(self, sweep: str, strikes: deque[Strike]) -> int | None:
        """One launch until it ends; its exit code."""
        launch = Launch(self._folder, sweep, **self._settings)
        self._settings = {}
        num_before = len(self.hits)
        self._disturb(launch, strikes)
        while self._progressed(launch):
            pass
        if launch.returncode is None:
            self._blame("hangs", [f"{sweep} did nothing for {PATIENCE_SECONDS:.0f} s"])
            launch.kill()
        self._is_struck = len(self.hits) > num_before
        self._ended(launch)
        return launch.returncode

    def _disturb(self, launch: Launch, strikes: deque[Strike]) -> None:
        while strikes and self._reaches(launch, strikes[0].moment):
            launch.wait_for(lambda: False, strikes[0].delay)
            if not launch.wait_for(lambda: strike(strikes[0].fault, launch), PATIENCE_SECONDS):
                return
            hit = Hit(strikes.popleft(), time.monotonic())
            self.hits.append(hit)
            self._settings = settings_after(hit.strike.fault)
            goes_on = self._progressed(launch)
            self._say(f"{hit.strike.fault} ({hit.strike.moment}): {'goes on' if goes_on else launch.returncode}")
            if not goes_on:
                return

    def _reaches(self, launch: Launch, moment: Moment) -> bool:
        if moment is Moment.BEGIN and not launch.made_progress():
            return launch.returncode is None
        if not launch.wait_for(launch.made_progress, PATIENCE_SECONDS):
            return False
        self._look_for_files(launch)
        return moment is not Moment.WRITING or launch.wait_for(self._folder.is_writing, PATIENCE_SECONDS)

    def _progressed(self, launch: Launch) -> bool:
        """Wait until the launch has recorded something more, or has ended; whether it goes on."""
        known = self._folder.recorded()
        goes_on = launch.wait_for(lambda: bool(self._folder.recorded() - known), PATIENCE_SECONDS)
        if goes_on or launch.returncode == 0:
            self._note_progress()
        return goes_on

    def _note_progress(self) -> None:
        for hit in reversed(self.hits):
            if hit.progress_seconds is not None:
                return
            hit.progress_seconds = time.monotonic() - hit.at

    def _ended(self, launch: Launch) -> None:
        if launch.returncode == 0:
            self._look_for_files(launch)
        lost, twice = self._judge.look()
        self._blame("lost", lost)
        self._blame("twice", twice)
        self._left = self._folder.temporary_names()
        orphans = self._orphans.submit(self._count_orphans, launch, self.hits[-1] if self.hits else None)
        if not self._is_struck:
            return
        self.hits[-1].ended = launch.returncode != 0
        # A driver without its parent stops as at a signal: until then it holds the sweep.
        if not self.hits[-1].strike.at_once or self.hits[-1].strike.fault is Fault.PARENT:
            orphans.result()

    def _count_orphans(self, launch: Launch, hit: Hit | None) -> None:
        """Wait for the launch's processes to end, and end those that do not."""
        drains = hit is not None and hit.strike.fault is Fault.PARENT
        deadline = time.monotonic() + ORPHAN_SECONDS + (DRAIN_SECONDS if drains else 0.0)
        while left := launch.processes():
            if time.monotonic() > deadline:
                if hit is not None:
                    hit.add("orphans", [process.line[:120] for process in left])
                kill_marked(launch.mark)
                return
            time.sleep(0.1)

    def _look_for_files(self, launch: Launch) -> None:
        """What an ended launch left, and a later one, which has begun to train, has not deleted."""
        if not launch.has_begun:
            return
        now = self._folder.temporary_names()
        self._blame("files", sorted(self._left & now))
        self._left = set()

    def _blame(self, kind: str, found: list[str]) -> None:
        if found and self.hits:
            self.hits[-1].add(kind, found)
            self._say(f"{kind} after {self.hits[-1].strike}: {found[:3]}")
