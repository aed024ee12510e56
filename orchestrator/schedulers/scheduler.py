"""What to train next: the seam between a launch and its kinds of scheduler, and the table of them."""

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
    """A trial to be trained until that epoch."""

    config: TrialConfig
    until_epoch: int


class Scheduler(Protocol):
    """Hands out tasks; `advance` takes what was recorded and may hand out more."""

    settled: frozenset[str]
    """Ids of its trials that needed no more training when it was made."""

    @property
    def num_trials(self) -> int:
        """Trials in all, those to come included."""
        ...

    @property
    def num_stopped(self) -> int:
        """Trials that it has stopped for good before their last epoch."""
        ...

    @property
    def forecast_core_seconds(self) -> float:
        """The cost model's guess for what is left."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether no task will come any more."""
        ...

    def configs(self) -> tuple[TrialConfig, ...]:
        """The trials that are known so far."""
        ...

    def advance(self, results: Sequence[TrialResult] = ()) -> tuple[list[Task], list[str]]:
        """New tasks, and ids of trials that are stopped for good."""
        ...


# By name: the searches' schedulers load Optuna and pandas.
_SCHEDULERS = {
    type(None): "orchestrator.schedulers.grid:GridScheduler",
    HalvingSearch: "orchestrator.schedulers.halving:HalvingScheduler",
    MapSearch: "orchestrator.schedulers.map:MapScheduler",
}


def scheduler_of(sweep: Sweep, ledger: Ledger) -> Scheduler:
    """The sweep's scheduler, as far as the ledger's rows and recorded asks have brought it."""
    module, _, name = _SCHEDULERS[type(sweep.search)].partition(":")
    make = cast(Callable[[Sweep, Ledger], Scheduler], getattr(import_module(module), name))
    return make(sweep, ledger)
