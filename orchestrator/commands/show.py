"""The commands that show sweeps and start nothing: `plan`, `list` and `status`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.commands.app import command
from orchestrator.commands.options import (
    ALL_SWEEPS,
    SHOWN_ERRORS,
    Data,
    MaxTrials,
    Module,
    Out,
    Seeds,
    Sets,
    SweepName,
    Workload,
    chosen_sweep,
)
from orchestrator.errors import UserError


@command()
def plan(
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    max_trials: MaxTrials = None,
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Show what a run would do; train nothing, and write only the cache of decoded images."""
    from orchestrator.report.plan_table import plan_table
    from orchestrator.report.text import plain_console
    from orchestrator.schedulers.plan import ledger_of, plan_sweep

    sweep = chosen_sweep(name, module=module, sets=sets, seeds=seeds, workload=workload, data=data)
    plain_console().print(plan_table(plan_sweep(sweep, ledger_of(sweep, out), max_trials)))


@command("list")
def list_sweeps(module: Module = None) -> None:
    """List the sweeps, with their numbers of trials and what they show."""
    from rich.table import Table
    from rich.text import Text

    from orchestrator.report.text import plain_console
    from orchestrator.sweeps.registry import find_sweep, load_sweeps

    table = Table("sweep", "trials", "what it shows", box=None)
    for name in load_sweeps(module):
        try:
            sweep = find_sweep(name)
            table.add_row(name, str(sweep.num_trials), Text(sweep.title))
        except Exception as fault:  # a faulty sweep of the user's does not hide the others
            table.add_row(name, "-", Text(str(fault)))
    plain_console().print(table)


@command()
def status(
    name: Annotated[str, typer.Argument(help="name of a sweep (see `launch list`), or all", metavar="SWEEP")],
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Show a sweep's progress, from its results alone; `all` with --workload shows the sweeps that take one."""
    from orchestrator.driver.status import sweep_status
    from orchestrator.schedulers.plan import ledger_of
    from orchestrator.sweeps.registry import load_sweeps, takes_workload

    names = [name]
    if name == ALL_SWEEPS:
        names = [one for one, make in load_sweeps(module).items() if workload is None or takes_workload(make)]
    states: dict[str, Any] = {}
    refusals: dict[str, Exception] = {}
    for one in names:
        try:
            sweep = chosen_sweep(one, module=module, sets=sets, seeds=seeds, workload=workload, data=data)
            states[sweep.name] = sweep_status(sweep, ledger_of(sweep, out))
        except UserError as refusal:
            refusals[one] = refusal
        except Exception as fault:  # a faulty sweep of the user's does not hide the others
            if name != ALL_SWEEPS:
                raise
            refusals[one] = fault
    if not states:
        raise next(iter(refusals.values()))
    for one, why in refusals.items():
        typer.echo(f"{one} cannot have these options: {why}", err=True)
    for sweep_name, state in states.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in state.outcomes.items())
        typer.echo(f"{sweep_name}: {state.settled}/{state.total} trials done" + (f" ({outcomes})" if outcomes else ""))
        for trial_id, error in list(state.errors.items())[:SHOWN_ERRORS]:
            typer.echo(f"  failed {trial_id}: {error}")
        if len(state.errors) > SHOWN_ERRORS:
            typer.echo(f"  and {len(state.errors) - SHOWN_ERRORS} more: column `error` of the trials has them all")
