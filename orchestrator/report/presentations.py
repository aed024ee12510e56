"""Chooses what a launch shows at its end, for each kind of sweep: the trials, and the tables made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from orchestrator.schedulers.scheduler import Scheduler
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Sweep
from trainables.config import TrialConfig
from trainables.registry import workload

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.schedulers.halving import HalvingScheduler


@dataclass(frozen=True, slots=True)
class Selection:
    """The trials that tables and figures show.

    Args:
        configs: The trials.
        chosen: Fields that were searched: each trial has the best value found in its cell, so they split no curves.
        notes: Lines to print under the tables.
    """

    configs: tuple[TrialConfig, ...]
    chosen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Tables = list[tuple[str, "pd.DataFrame"]]
"""Tables with their titles."""


def selection_of(sweep: Sweep, scheduler: Scheduler) -> Selection:
    """The trials that the sweep's tables and figures show, as far as its scheduler knows them."""
    select, _ = _PRESENTATIONS[type(sweep.search)]
    return select(sweep, scheduler)


def tables_of(sweep: Sweep, trials: pd.DataFrame) -> Tables:
    """The sweep's tables of its trials (one row for each, `TrialResult.trial_row`)."""
    _, make_tables = _PRESENTATIONS[type(sweep.search)]
    return make_tables(sweep, trials)


def _all_trials(sweep: Sweep, scheduler: Scheduler) -> Selection:
    return Selection(scheduler.configs())


def _best_points(sweep: Sweep, scheduler: Scheduler) -> Selection:
    """The trials of each cell's best point with the sweep's seeds; every trial while no best point is known."""
    search, halving = cast(HalvingSearch, sweep.search), cast("HalvingScheduler", scheduler)
    configs, finals = halving.configs(), halving.finals()
    notes = [f"search: {len(configs)} trials, {halving.num_stopped} of them pruned; tried with seed {search.seed}"]
    shared = workload(sweep.workload).shared_test_data
    if shared is not None:
        notes.append(
            f"points are chosen by their error on the same test {shared} that the table reports: only the training "
            "seeds are fresh"
        )
    chosen = _searched_everywhere(sweep, search) if finals else ()
    return Selection(finals or configs, chosen, (*notes, *halving.edges()))


def _searched_everywhere(sweep: Sweep, search: HalvingSearch) -> tuple[str, ...]:
    """The searched fields, without those that other cells give a value: these tell trials apart."""
    cells = sweep.cells()
    searched = dict.fromkeys(name for cell in cells for name in search.axes(cell))
    return tuple(name for name in searched if not any(name in cell for cell in cells))


def _cell_tables(sweep: Sweep, trials: pd.DataFrame) -> Tables:
    from orchestrator.report.cell_tables import result_table
    from orchestrator.report.paper_tables import paper_table

    of_paper = paper_table(trials)
    beside = [("The paper's tables 1 and 2", of_paper)] if len(of_paper) else []
    return [(sweep.title, result_table(trials, sweep.error)), *beside]


def _map_tables(sweep: Sweep, trials: pd.DataFrame) -> Tables:
    from orchestrator.report.map_tables import map_tables

    return map_tables(trials, sweep)


_PRESENTATIONS: dict[type, tuple[Callable[[Sweep, Scheduler], Selection], Callable[[Sweep, Any], Tables]]] = {
    type(None): (_all_trials, _cell_tables),
    HalvingSearch: (_best_points, _cell_tables),
    MapSearch: (_all_trials, _map_tables),
}
