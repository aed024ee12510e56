"""What `launch plan` shows."""

from __future__ import annotations

import os

from rich.table import Table
from rich.text import Text

from orchestrator.map_search import MapSearch
from orchestrator.plan import Plan
from orchestrator.sweep import Sweep


def plan_table(planned: Plan) -> Table:
    """Cells by arm, seeds, trials, and the forecast for this machine's cores."""
    sweep = planned.sweep
    cores = os.cpu_count() or 1
    table = Table(title=Text(f"{sweep.name}: {sweep.title}"), show_header=False, title_justify="left")
    for grid in sweep.grids:
        axes = {axis: ", ".join(map(_short, values)) for axis, values in grid.axes.items()}
        for arm, coupled in grid.arms.items():
            fields = {**grid.base, **coupled, **axes}
            searched = sweep.search.space.get(arm, {}) if sweep.search else {}
            lines = [f"{field} = {_short(value)}" for field, value in fields.items()]
            lines += [f"{f} {axis}" for f, axis in searched.items() if f not in fields]
            table.add_row(arm, Text("\n".join(lines)))
    table.add_row("seeds", _seeds_text(sweep))
    table.add_row("trials", f"{planned.num_trials}: {planned.num_done} done, {planned.num_pending} to run")
    seconds = planned.forecast_core_seconds
    table.add_row("forecast", f"{seconds / 3600:.2f} core hours, {seconds / 60 / cores:.1f} minutes on {cores} cores")
    if planned.stale_rows:
        table.add_row("other versions", f"{planned.stale_rows} rows of another workload version are left behind")
    return table


def _seeds_text(sweep: Sweep) -> str:
    if isinstance(sweep.search, MapSearch):
        rule = sweep.search.rule
        return f"{rule.min_seeds} to {rule.max_seeds} of each cell's own, as its verdict needs"
    return ", ".join(map(str, sweep.seeds))


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
