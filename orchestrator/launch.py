"""The command line: `python -m orchestrator.launch SWEEP`. Parsing only.

What a command needs is imported by the command, so that `--help` is quick and `plan` loads nothing heavy.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.command_options import (
    Data,
    MaxTrials,
    Module,
    Out,
    Seeds,
    Sets,
    SweepName,
    Workload,
    chosen_sweep,
    is_from_environment,
    set_data_folder,
)
from orchestrator.errors import DataError, UserError, unknown_name

EXIT_FAILED_TRIALS, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130
ALL_SWEEPS = "all"
SHOWN_ERRORS, SHOWN_KINDS_OF_ERROR = 20, 5


class _SweepIsRun(TyperGroup):
    """`launch SWEEP ...` means `launch run SWEEP ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            from orchestrator.sweeps import load_sweeps

            if args[0] not in load_sweeps() and not _names_module(args):
                raise UserError(unknown_name("sweep or command", args[0], {*load_sweeps(), *self.commands}))
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_SweepIsRun,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Map where Adam's coupled weight decay works against where only AdamW's does.",
    epilog="`launch SWEEP` is `launch run SWEEP`. Running the same command again runs only what is missing.",
)


@app.command()
def run(
    ctx: typer.Context,
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    executor: Annotated[str, typer.Option(help="ray, or inline: in this process")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="HOST:PORT of a Ray cluster; else a local Ray is started"),
    ] = None,
    max_trials: MaxTrials = None,
    module: Module = None,
    mlflow: Annotated[bool, typer.Option(help="write the MLflow view")] = True,
    figures: Annotated[bool, typer.Option(help="draw the figures")] = True,
    checkpoint_seconds: Annotated[float, typer.Option(min=0.0, help="time between saves of half-done trials")] = 30.0,
    workload: Workload = None,
    data: Data = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the fastest that is there")] = "auto",
    cpus_per_trial: Annotated[int, typer.Option(min=1, help="threads of a trial that trains on the CPU")] = 1,
    max_nodes: Annotated[
        int | None, typer.Option(min=1, help="let the cluster at --address grow to so many worker nodes")
    ] = None,
    slots_per_node: Annotated[
        int | None, typer.Option(min=1, help="trials that such a node runs at once (default: seen from the first)")
    ] = None,
) -> None:
    """Run what is missing of a sweep; end with table, figures, Parquet and MLflow in place."""
    sweep = chosen_sweep(name, module, sets, seeds, workload, data)
    sweep.configs()  # a fault ends here, before anything is created
    if executor == "inline" and is_from_environment(ctx, "address"):
        address = None  # it is of this machine, not of this launch

    from orchestrator.runner import RunOptions, run_sweep

    options = RunOptions(
        out,
        executor,
        address,
        max_trials,
        mlflow,
        figures,
        checkpoint_seconds,
        device,
        cpus_per_trial,
        max_nodes,
        slots_per_node,
    )
    summary = run_sweep(sweep, options)
    if summary.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if summary.failed:
        typer.echo(f"{summary.failed} trials failed; column `error` of the trials has their tracebacks:", err=True)
        for error, count in list(summary.errors.items())[:SHOWN_KINDS_OF_ERROR]:
            typer.echo(f"  {count} with {error}", err=True)
        if len(summary.errors) > SHOWN_KINDS_OF_ERROR:
            typer.echo(f"  and {len(summary.errors) - SHOWN_KINDS_OF_ERROR} other errors", err=True)
        raise typer.Exit(EXIT_FAILED_TRIALS)


@app.command()
def submit(
    name: SweepName,
    overlay: Annotated[str, typer.Option(help="where to: an overlay of k8s/overlays", metavar="NAME")],
    component: Annotated[
        list[str] | None, typer.Option(help="of k8s/components: gpu, gpu-spot, ...; repeatable", metavar="NAME")
    ] = None,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Annotated[str | None, typer.Option(help="results: a URI or a path on a shared volume")] = None,
    workload: Workload = None,
    max_nodes: Annotated[int | None, typer.Option(min=1, help="worker nodes at most (default: the overlay's)")] = None,
    cpus_per_trial: Annotated[int, typer.Option(min=1, help="threads of a trial that trains on the CPU")] = 1,
    image: Annotated[
        str | None, typer.Option(help="REPOSITORY:TAG (default: the overlay's, tagged with this commit)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the job instead of creating it")] = False,
) -> None:
    """Run a sweep on Kubernetes: make it a RayJob, and create that with kubectl."""
    from orchestrator import submit as kubernetes

    sweep = chosen_sweep(name, None, sets, seeds, workload, None)
    num_trials = None
    with suppress(DataError):  # images are there, not here
        sweep.configs()
        num_trials = sweep.num_trials
    arguments = kubernetes.run_arguments(name, sets or (), seeds, workload)
    job = kubernetes.job_of(
        kubernetes.Submission(
            sweep, arguments, num_trials, overlay, tuple(component or ()), cpus_per_trial, max_nodes, out, image
        )
    )
    if beside := kubernetes.needs(overlay, component or ()):
        typer.echo(f"needs {', '.join(beside)} in the cluster: see k8s/README.md, Components", err=True)
    typer.echo(kubernetes.as_yaml(job) if dry_run else kubernetes.create(job))


@app.command()
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
    """Show what a run would do; starts nothing, and writes nothing but the cache of decoded images."""
    from rich.console import Console

    from orchestrator.plan import ledger_of, plan_sweep
    from orchestrator.plan_table import plan_table

    sweep = chosen_sweep(name, module, sets, seeds, workload, data)
    Console().print(plan_table(plan_sweep(sweep, ledger_of(sweep, out), max_trials)))


@app.command(name="list")
def list_sweeps(module: Module = None) -> None:
    """Name the sweeps."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from orchestrator.sweeps import find_sweep, load_sweeps

    table = Table("sweep", "trials", "what it shows", box=None)
    for name in load_sweeps(module):
        try:
            sweep = find_sweep(name)
            table.add_row(name, str(sweep.num_trials), Text(sweep.title))
        except UserError as fault:  # of a user's own: the others are there all the same
            table.add_row(name, "-", Text(str(fault)))
    Console().print(table)


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="a sweep of `launch list`, or all", metavar="SWEEP")],
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Show how far a sweep is, from its results alone; of all with --workload, those that take one."""
    from orchestrator.plan import ledger_of
    from orchestrator.runner import sweep_status
    from orchestrator.sweeps import load_sweeps, takes_workload

    names = [name]
    if name == ALL_SWEEPS:
        names = [one for one, make in load_sweeps(module).items() if workload is None or takes_workload(make)]
    states, refusals = {}, {}
    for one in names:
        try:
            sweep = chosen_sweep(one, module, sets, seeds, workload, data)
            states[sweep.name] = sweep_status(sweep, ledger_of(sweep, out))
        except UserError as refusal:
            refusals[one] = refusal
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
            typer.echo(f"  and {len(state.errors) - SHOWN_ERRORS} more: column `error` of the trials has all")


@app.command()
def export_mlflow(
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Write to MLflow what it lacks of a sweep, from the Parquet results."""
    sweep = chosen_sweep(name, module, sets, seeds, workload, data)
    sweep.configs()

    from orchestrator import runner

    typer.echo(f"{sweep.name}: {runner.export_mlflow(sweep, out)} runs written to MLflow")


@app.command()
def export_optuna(
    name: SweepName,
    sets: Sets = None,
    out: Out = "results",
    storage: Annotated[str | None, typer.Option(help="an Optuna storage URL; default OUT/optuna.db")] = None,
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Write a map's trials as Optuna studies, for optuna-dashboard and Optuna's own plots."""
    sweep = chosen_sweep(name, module, sets, None, workload, data)

    from orchestrator.map_studies import export_optuna as export

    url, written = export(sweep, out, storage)
    for study, num_trials in written.items():
        typer.echo(f"{study}: {num_trials} trials")
    typer.echo(f"optuna   {url}")


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="a data set: cifar10, cifar100, fashion_mnist, or a folder of images")],
    sets: Sets = None,
    data: Data = None,
    download: Annotated[
        bool, typer.Option("--download", help="let torchvision fetch it into the data folder", is_eager=True)
    ] = False,
) -> None:
    """Decode images into the cache, check them and name their digest; --set num_train=... as in a sweep."""
    from orchestrator.image_sweeps import check_images

    set_data_folder(data)
    typer.echo(check_images(name, sets or (), download=download))


def main() -> None:
    """Run the command line; a mistake of the user is one line and exit code 2, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without ± or · must not end a sweep
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except Exception as error:
        fault = _fault(error)
        if fault is None:
            raise
        typer.echo(f"error: {fault}", err=True)
        code = EXIT_USER_ERROR
    if code == EXIT_INTERRUPTED:
        typer.echo("interrupted: the same command goes on where this one stopped", err=True)
    sys.exit(code)


def _fault(error: Exception) -> str | None:
    """One line for a mistake that the user can mend; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    # Typer's own usage errors: their base class has moved between its releases, this method has not.
    describe = getattr(error, "format_message", None)
    return " ".join(describe().split()) if describe else None


def _names_module(args: list[str]) -> bool:
    return any(arg == "--module" or arg.startswith("--module=") for arg in args)


if __name__ == "__main__":
    main()
