"""The commands that copy results from the ledger into MLflow and Optuna."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command
from orchestrator.commands.options import Data, Module, Out, Seeds, Sets, SweepName, Workload, chosen_sweep


@command()
def export_mlflow(
    name: SweepName,
    sets: Sets = None,
    seeds: Seeds = None,
    out: Out = "results",
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Write the runs of a sweep that MLflow lacks, from the Parquet results."""
    sweep = chosen_sweep(name, module=module, sets=sets, seeds=seeds, workload=workload, data=data)

    from orchestrator.driver.mlflow_export import export_mlflow as export

    typer.echo(f"{sweep.name}: {export(sweep, out)} runs written to MLflow")


@command()
def export_optuna(
    name: SweepName,
    sets: Sets = None,
    out: Out = "results",
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL (default: sqlite:///OUT/optuna.db)")] = None,
    module: Module = None,
    workload: Workload = None,
    data: Data = None,
) -> None:
    """Write a map's trials as Optuna studies, for optuna-dashboard and Optuna's own plots."""
    sweep = chosen_sweep(name, module=module, sets=sets, workload=workload, data=data)

    from orchestrator.driver.exports import export_optuna as export

    url, written = export(sweep, out, storage)
    for study, num_trials in written.items():
        typer.echo(f"{study}: {num_trials} trials")
    typer.echo(f"optuna   {url}")
