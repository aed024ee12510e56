"""The table of figures: `@figure` registers the function that draws one, the sweeps that it fits and what it reads.

So a launch knows before training which figures a sweep cannot have (`FigureSpec.fault_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, overload

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
    """What a figure is drawn from.

    `trials` has one row for each trial (`TrialResult.trial_row`), `traces` one for each trial and measured epoch
    (`TrialResult.trace_rows`); a figure's function gets settled trials only, and at least one. In the `chosen` fields
    the trials have the best value of each point. `error` is the kind of error that the columns `test_error` and
    `train_error` have.
    """

    trials: pd.DataFrame
    traces: pd.DataFrame
    sweep: Sweep
    chosen: Sequence[str] = ()
    error: ErrorKind = PLAIN


FigureFunction = Callable[[FigureInput], "Figure | None"]
"""Draws a figure; returns None if there is nothing to draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A registered figure; `fields` and `traces` are the columns that it reads and that not every workload has.

    If `of_maps`, it is for maps only, else for all other sweeps. `rule` returns why else a sweep cannot have it.
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
            return f"{self.name} is a figure of maps, and {sweep.name} is not a map"
        if is_map and not self.of_maps:
            return f"{self.name} is not a figure of maps, and {sweep.name} is a map"
        found = workload(sweep.workload)
        known = {*found.config_type.model_fields, *(column.name for column in fields(found.trace_point_type))}
        lacking = [name for name in (*self.fields, *self.traces, self.error.test) if name not in known]
        if lacking:
            return f"{self.name} shows {', '.join(lacking)}, which trials of {sweep.workload} do not have"
        return self.rule(sweep)


FIGURES: dict[str, FigureSpec] = {}
"""Figures by the names that sweeps use: `error_vs_batch_size`, `top5_error_vs_batch_size`, ..."""


def _any_sweep(sweep: Sweep) -> str | None:
    return None


@overload
def figure(function: FigureFunction) -> FigureFunction: ...


@overload
def figure(
    *,
    errors: Sequence[ErrorKind] = ...,
    of_maps: bool = ...,
    fields: Sequence[str] = ...,
    traces: Sequence[str] = ...,
    rule: Callable[[Sweep], str | None] = ...,
) -> Callable[[FigureFunction], FigureFunction]: ...


def figure(
    function: FigureFunction | None = None,
    *,
    errors: Sequence[ErrorKind] = (PLAIN,),
    of_maps: bool = False,
    fields: Sequence[str] = (),
    traces: Sequence[str] = (),
    rule: Callable[[Sweep], str | None] = _any_sweep,
) -> FigureFunction | Callable[[FigureFunction], FigureFunction]:
    """Register a function as a figure under its name, once for each kind of error with that kind's prefix.

    `@figure` without arguments and `@figure()` are the same.
    """

    def enter(function: FigureFunction) -> FigureFunction:
        for error in errors:
            name = f"{error.prefix}{function.__name__}"
            if name in FIGURES and FIGURES[name].function.__module__ != function.__module__:
                raise SweepError(
                    f"a figure named {name!r} is registered by {FIGURES[name].function.__module__}: choose another name"
                )
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

    return enter if function is None else enter(function)
