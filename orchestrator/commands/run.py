"""The commands that start a sweep: `run` here or on a Ray cluster, `submit` on Kubernetes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

import typer

from orchestrator.commands.app import command
from orchestrator.commands.options import (
    EXIT_FAILED_TRIALS,
    EXIT_INTERRUPTED,
    SHOWN_KINDS_OF_ERROR,
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
)
from orchestrator.errors import DataError
from trainables.redaction import unguarded


@command()
def run(
    ctx: typer.Context,
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    executor: Annotated[str, typer.Option(help="where packs run: ray, or inline (in this process)")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="HOST:PORT of a Ray cluster (default: start Ray on this machine)"),
    ] = None,
    max_trials: MaxTrials = None,
    module: Module = None,
    mlflow: Annotated[bool, typer.Option(help="write the MLflow view")] = True,
    figures: Annotated[bool, typer.Option(help="draw the figures")] = True,
    checkpoint_seconds: Annotated[float, typer.Option(min=0.0, help="seconds between saves of running trials")] = 30.0,
    workload: Workload = None,
    data: Data = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the fastest available")] = "auto",
    cpus_per_trial: Annotated[int, typer.Option(min=1, help="threads for each trial that trains on the CPU")] = 1,
    max_nodes: Annotated[
        int | None, typer.Option(min=1, help="let the autoscaled cluster at --address grow to this many worker nodes")
    ] = None,
    slots_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="packs that one such node runs at once (default: seen from the cluster's nodes)"),
    ] = None,
    stall_minutes: Annotated[
        float, typer.Option(min=0.01, help="end a worker of Ray that reports nothing for so long; its trials go on")
    ] = 60.0,
) -> None:
    """Run the missing trials of a sweep, print its table, draw its figures and update MLflow."""
    sweep = chosen_sweep(name, module=module, sets=sets, seeds=seeds, workload=workload, data=data)
    sweep.configs()  # a faulty config is refused here, before anything is created
    from orchestrator.executors.registry import place_named

    if not place_named(executor).takes_address and is_from_environment(ctx, "address"):
        address = None  # RAY_ADDRESS is set for the machine, not for this launch

    from orchestrator.driver.options import RunOptions
    from orchestrator.driver.run import run_sweep

    options = RunOptions(
        out=out,
        executor=executor,
        address=address,
        max_trials=max_trials,
        mlflow=mlflow,
        figures=figures,
        checkpoint_seconds=checkpoint_seconds,
        device=device,
        cpus_per_trial=cpus_per_trial,
        max_nodes=max_nodes,
        slots_per_node=slots_per_node,
        stall_minutes=stall_minutes,
    )
    summary = run_sweep(sweep, options)
    if summary.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if summary.failed:
        _tell_failures(summary.failed, summary.errors)
        raise typer.Exit(EXIT_FAILED_TRIALS)


def _tell_failures(num_failed: int, errors: Mapping[str, int]) -> None:
    trials = "trial" if num_failed == 1 else "trials"
    typer.echo(f"{num_failed} {trials} failed; column `error` of the trials has the tracebacks:", err=True)
    for error, count in list(errors.items())[:SHOWN_KINDS_OF_ERROR]:
        typer.echo(f"  {count} with {error}", err=True)
    if len(errors) > SHOWN_KINDS_OF_ERROR:
        typer.echo(f"  and {len(errors) - SHOWN_KINDS_OF_ERROR} other kinds of failure", err=True)


@command()
def submit(
    name: SweepName,
    overlay: Annotated[str, typer.Option(help="where to run: a folder of k8s/overlays", metavar="NAME")],
    component: Annotated[
        list[str] | None, typer.Option(help="folder of k8s/components: gpu, gpu-spot, ...; repeatable", metavar="NAME")
    ] = None,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Annotated[
        str | None, typer.Option(help="URI of the results, or a path on a shared volume (default: the overlay's)")
    ] = None,
    workload: Workload = None,
    max_nodes: Annotated[int | None, typer.Option(min=1, help="most worker nodes (default: the overlay's)")] = None,
    cpus_per_trial: Annotated[int, typer.Option(min=1, help="threads for each trial that trains on the CPU")] = 1,
    image: Annotated[
        str | None, typer.Option(help="image as REPOSITORY:TAG (default: the overlay's, tagged with this commit)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the job instead of creating it")] = False,
) -> None:
    """Run a sweep on Kubernetes, as a RayJob that kubectl creates."""
    from orchestrator.driver import kubernetes

    sweep = chosen_sweep(name, sets=sets, seeds=seeds, workload=workload)
    num_trials = None
    with suppress(DataError):  # images may be on the cluster alone
        sweep.configs()
        num_trials = sweep.num_trials
    job = kubernetes.job_of(
        kubernetes.Submission(
            sweep=sweep,
            arguments=kubernetes.run_arguments(name, sets or (), seeds, workload),
            num_trials=num_trials,
            overlay=overlay,
            components=tuple(component or ()),
            cpus_per_trial=cpus_per_trial,
            max_nodes=max_nodes,
            out=out,
            image=image,
        )
    )
    if beside := kubernetes.needs(overlay, component or ()):
        typer.echo(f"needs {', '.join(beside)} in the cluster: see k8s/README.md, Components", err=True)
    if dry_run:  # as it is: `job_of` has refused a job that shows a secret
        typer.echo(kubernetes.as_yaml(job), file=unguarded(sys.stdout))
    else:
        typer.echo(kubernetes.create(job))
