"""The interface between a launch and its scheduler, and the table of schedulers by kind of search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.result import TrialResult


@dataclass(frozen=True, slots=True)
class Task:
    """A trial, and the epoch to train it to."""

    config: TrialConfig
    until_epoch: int


class Scheduler(Protocol):
    """Hands out tasks; `advance` takes newly recorded results and may hand out more."""

    settled: frozenset[str]
    """Ids of the trials that needed no more training when the scheduler was made."""

    @property
    def num_trials(self) -> int:
        """Total number of trials, including ones not asked yet."""
        ...

    @property
    def num_stopped(self) -> int:
        """Number of trials that the scheduler has stopped for good before their last epoch."""
        ...

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's estimate for the remaining trials."""
        ...

    @property
    def is_finished(self) -> bool:
        """True once no further task will be handed out."""
        ...

    def configs(self) -> tuple[TrialConfig, ...]:
        """The trials known so far."""
        ...

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """Take newly recorded results; return new tasks, and ids of trials that are now stopped for good."""
        ...


# Named by strings and imported on use: the searches' schedulers load Optuna and pandas.
_SCHEDULERS = {
    type(None): "orchestrator.schedulers.grid:GridScheduler",
    HalvingSearch: "orchestrator.schedulers.halving:HalvingScheduler",
    MapSearch: "orchestrator.schedulers.map:MapScheduler",
}


def scheduler_of(sweep: Sweep, ledger: Ledger) -> Scheduler:
    """The sweep's scheduler, in the state that the ledger's rows and recorded asks imply."""
    module, _, name = _SCHEDULERS[type(sweep.search)].partition(":")
    make = cast(Callable[[Sweep, Ledger], Scheduler], getattr(import_module(module), name))
    return make(sweep, ledger)
