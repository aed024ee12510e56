"""The table of figures: `@figure` enters what draws one, of which sweeps it is and what it reads.

What a sweep cannot have is thus known before anything is trained (`FigureSpec.fault_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from orchestrator.analysis.error_rates import PLAIN, ErrorKind
from orchestrator.errors import SweepError
from orchestrator.sweeps.map_search import MapSearch
from trainables.registry import workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from orchestrator.sweeps.value import Sweep


@dataclass(frozen=True, slots=True)
class FigureInput:
    """What a figure is drawn of.

    `trials` has one row a trial (`TrialResult.trial_row`), `traces` one row a trial and epoch
    (`TrialResult.trace_rows`); a figure's function gets those of settled trials, and never none. Of the `chosen` fields
    the trials have the best value of each point. `error` is what `test_error` and `train_error` of the trials are.
    """

    trials: pd.DataFrame
    traces: pd.DataFrame
    sweep: Sweep
    chosen: Sequence[str] = ()
    error: ErrorKind = PLAIN


FigureFunction = Callable[[FigureInput], "Figure | None"]
"""Draws a figure; None where there is nothing to be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A figure by its name: `fields` and `traces` are the columns that it reads and not every workload has.

    One `of_maps` is for maps alone, any other for all other sweeps. `rule` says what else keeps it from a sweep.
    """

    name: str
    function: FigureFunction
    error: ErrorKind
    of_maps: bool
    fields: tuple[str, ...]
    traces: tuple[str, ...]
    rule: Callable[[Sweep], str | None]

    def fault_of(self, sweep: Sweep) -> str | None:
        """Why the sweep cannot have this figure, or None."""
        is_map = isinstance(sweep.search, MapSearch)
        if self.of_maps and not is_map:
            return f"{self.name} is a figure of maps, and {sweep.name} is none"
        if is_map and not self.of_maps:
            return f"{self.name} is no figure of maps, and {sweep.name} is one"
        found = workload(sweep.workload)
        known = {*found.config_type.model_fields, *(column.name for column in fields(found.trace_point_type))}
        lacking = [name for name in (*self.fields, *self.traces, self.error.test) if name not in known]
        if lacking:
            return f"{self.name} shows {', '.join(lacking)}, and trials of {sweep.workload} have none"
        return self.rule(sweep)


FIGURES: dict[str, FigureSpec] = {}
"""Figures by the name that a sweep calls them: `error_vs_batch_size`, `top5_error_vs_batch_size`, ..."""


def _any_sweep(sweep: Sweep) -> str | None:
    return None


def figure(
    *,
    errors: Sequence[ErrorKind] = (PLAIN,),
    of_maps: bool = False,
    fields: Sequence[str] = (),
    traces: Sequence[str] = (),
    rule: Callable[[Sweep], str | None] = _any_sweep,
) -> Callable[[FigureFunction], FigureFunction]:
    """Enter the function that follows under its name: once for each kind of error, with that kind's prefix."""

    def enter(function: FigureFunction) -> FigureFunction:
        for error in errors:
            name = f"{error.prefix}{function.__name__}"
            if name in FIGURES and FIGURES[name].function.__module__ != function.__module__:
                raise SweepError(f"a figure named {name!r} is entered by {FIGURES[name].function.__module__}")
            FIGURES[name] = FigureSpec(
                name=name,
                function=function,
                error=error,
                of_maps=of_maps,
                fields=tuple(fields),
                traces=tuple(traces),
                rule=rule,
            )
        return function

    return enter
