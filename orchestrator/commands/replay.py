"""The command `replay`: trains one recorded trial again, without Ray, and compares every number."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.app import command
from orchestrator.commands.options import EXIT_DIFFERS, Data, Module, Out, set_data_folder

SHOWN_DIFFERENCES = 5


@command()
def replay(
    trial_id: Annotated[str, typer.Argument(help="trial_id of a row of the results", metavar="TRIAL_ID")],
    out: Out = "results",
    module: Module = None,
    data: Data = None,
) -> None:
    """Train one recorded trial again, from its row alone, and say whether every number is the same."""
    from orchestrator.driver.replay import replay as replayed
    from orchestrator.ledger.ledger import Ledger
    from orchestrator.sweeps.registry import load_sweeps

    set_data_folder(data)
    load_sweeps(module)  # a user's module registers its workloads and optimizers
    found = replayed(Ledger(out), trial_id)
    if found.is_identical:
        typer.echo(f"identical: all {found.num_numbers} numbers of {trial_id}")
    else:
        typer.echo(f"different: {len(found.differences)} of {found.num_numbers} numbers of {trial_id}")
        for one in found.differences[:SHOWN_DIFFERENCES]:
            typer.echo(f"  {one.what}: {one.recorded!r} recorded, {one.now!r} now")
        if not found.circumstances and not found.is_on_gpu:
            typer.echo("  code, versions, processor and device are those of the row: they do not explain it")
        elif found.is_on_gpu:
            typer.echo("  on a GPU the last digits depend on what trains beside a trial")
    for one in found.circumstances:
        typer.echo(f"  {one.what} is {one.now}, was {one.recorded}")
    if not found.is_identical:
        raise typer.Exit(EXIT_DIFFERS)
