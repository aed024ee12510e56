"""Makes the table that `launch plan` shows."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from orchestrator.report.text import value_text
from orchestrator.schedulers.plan import Plan
from trainables.machine.cpus import usable_cpus


def plan_table(planned: Plan) -> Table:
    """Cells by arm, seeds, trials, and the forecast for this machine's cores."""
    sweep = planned.sweep
    cores = usable_cpus()
    table = Table(title=Text(f"{sweep.name}: {sweep.title}"), show_header=False, title_justify="left")
    for grid in sweep.grids:
        axes = {axis: ", ".join(map(value_text, values)) for axis, values in grid.axes.items()}
        for arm, arm_fields in grid.arms.items():
            fields = {**grid.base, **arm_fields, **axes}
            searched = sweep.search.space.get(arm, {}) if sweep.search else {}
            lines = [f"{field} = {value_text(value)}" for field, value in fields.items()]
            lines += [f"{f} {axis}" for f, axis in searched.items() if f not in fields]
            table.add_row(arm, Text("\n".join(lines)))
    seeds = ", ".join(map(str, sweep.seeds)) if sweep.search is None else sweep.search.seeds_text(sweep.seeds)
    table.add_row("seeds", seeds)
    table.add_row("trials", f"{planned.num_trials}: {planned.num_done} done, {planned.num_pending} to run")
    seconds = planned.forecast_core_seconds
    table.add_row("forecast", f"{seconds / 3600:.2f} core hours, {seconds / 60 / cores:.1f} minutes on {cores} cores")
    if planned.stale_rows:
        table.add_row("other versions", f"{planned.stale_rows} rows of other workload versions are not used")
    return table
