"""The command line: `python -m orchestrator.launch SWEEP`. Parsing only."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from orchestrator.errors import UserError, unknown_name
from orchestrator.sweep import Sweep
from orchestrator.sweeps import find_sweep, load_sweeps

EXIT_FAILED_TRIALS, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130


class _SweepIsRun(TyperGroup):
    """`launch SWEEP ...` means `launch run SWEEP ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            if args[0] not in load_sweeps() and not _names_module(args):
                raise UserError(unknown_name("sweep or command", args[0], {*load_sweeps(), *self.commands}))
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_SweepIsRun,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Map where Adam's coupled weight decay works against where only AdamW's does.",
    epilog="`launch SWEEP` is `launch run SWEEP`. Running the same command again runs only what is missing.",
)

SweepName = Annotated[str, typer.Argument(help="a sweep of `launch list`", metavar="SWEEP")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="field=v1,v2 replaces an axis or a field's value; field+=v1,v2 extends it", metavar="F=V"
    ),
]
Seeds = Annotated[str | None, typer.Option(help="seeds such as 0-9 or 0,3,5-7")]
Out = Annotated[str, typer.Option(help="output folder or URI")]
Module = Annotated[str | None, typer.Option(help="a Python module that registers sweeps of your own")]
MaxTrials = Annotated[int | None, typer.Option(min=1, help="run at most this many of the missing trials")]


@app.command()
def run(
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    executor: Annotated[str, typer.Option(help="ray, or inline: in this process")] = "ray",
    address: Annotated[
        str | None, typer.Option(help="a running Ray cluster; a local Ray is started without it")
    ] = None,
    max_trials: MaxTrials = None,
    module: Module = None,
    mlflow: Annotated[bool, typer.Option(help="write the MLflow view")] = True,
    figures: Annotated[bool, typer.Option(help="draw the figures")] = True,
    checkpoint_seconds: Annotated[float, typer.Option(min=0.0, help="time between saves of half-done trials")] = 30.0,
) -> None:
    """Run what is missing of a sweep; end with table, figures, Parquet and MLflow in place."""
    sweep = _sweep(name, module, sets, seeds)
    sweep.configs()  # a fault ends here, before anything heavy is imported

    from orchestrator.runner import RunOptions, run_sweep

    options = RunOptions(out, executor, address, max_trials, mlflow, figures, checkpoint_seconds)
    summary = run_sweep(sweep, options)
    if summary.interrupted:
        typer.echo("interrupted: the same command goes on where this one stopped", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if summary.failed:
        typer.echo(f"{summary.failed} trials failed: `launch status {name}` shows why", err=True)
        raise typer.Exit(EXIT_FAILED_TRIALS)


@app.command()
def plan(
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    max_trials: MaxTrials = None,
    module: Module = None,
) -> None:
    """Show what a run would do; starts and creates nothing."""
    from orchestrator.ledger import Ledger
    from orchestrator.runner import plan_sweep

    sweep = _sweep(name, module, sets, seeds)
    planned = plan_sweep(sweep, Ledger(out), max_trials)
    cores = os.cpu_count() or 1
    table = Table(title=f"{sweep.name}: {sweep.title}", show_header=False, title_justify="left")
    for grid in sweep.grids:
        for arm, coupled in grid.arms.items():
            fields = {**grid.base, **coupled, **{axis: ", ".join(map(_short, v)) for axis, v in grid.axes.items()}}
            table.add_row(arm, "\n".join(f"{field} = {value}" for field, value in fields.items()))
    table.add_row("seeds", ", ".join(map(str, sweep.seeds)))
    table.add_row("trials", f"{len(planned.configs)}: {len(planned.settled)} done, {len(planned.pending)} to run")
    seconds = planned.forecast_core_seconds
    table.add_row("forecast", f"{seconds / 3600:.2f} core hours, {seconds / 60 / cores:.1f} minutes on {cores} cores")
    if planned.stale_rows:
        table.add_row("other versions", f"{planned.stale_rows} rows of another workload version are left behind")
    Console().print(table)


@app.command(name="list")
def list_sweeps(module: Module = None) -> None:
    """Name the sweeps."""
    table = Table("sweep", "trials", "what it shows", box=None, title_justify="left")
    for name, make in load_sweeps(module).items():
        sweep = make()
        table.add_row(name, str(len(sweep.configs())), sweep.title)
    Console().print(table)


@app.command()
def status(
    name: SweepName, sets: Sets = None, seeds: Seeds = None, out: Out = "results", module: Module = None
) -> None:
    """Show how far a sweep is, from its results alone."""
    from orchestrator.ledger import Ledger
    from orchestrator.runner import sweep_status

    state = sweep_status(_sweep(name, module, sets, seeds), Ledger(out))
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in state.outcomes.items())
    typer.echo(f"{name}: {state.settled}/{state.total} trials done" + (f" ({outcomes})" if outcomes else ""))
    for trial_id, error in state.errors.items():
        typer.echo(f"  failed {trial_id}: {error}")


@app.command()
def export_mlflow(
    name: SweepName, sets: Sets = None, seeds: Seeds = None, out: Out = "results", module: Module = None
) -> None:
    """Write to MLflow what it lacks of a sweep, from the Parquet results."""
    from orchestrator import runner

    sweep = _sweep(name, module, sets, seeds)
    typer.echo(f"{name}: {runner.export_mlflow(sweep, out)} runs written to MLflow")


def main() -> None:
    """Run the command line; a `UserError` is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USER_ERROR)


def _sweep(name: str, module: str | None, sets: list[str] | None, seeds: str | None) -> Sweep:
    return find_sweep(name, module).with_overrides(sets or (), seeds)


def _names_module(args: list[str]) -> bool:
    return any(arg == "--module" or arg.startswith("--module=") for arg in args)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
