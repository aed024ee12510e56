"""The command `verify`: reads every file of a results folder and says which are sound; changes nothing."""

from __future__ import annotations

from collections import Counter

import typer

from orchestrator.commands.app import command
from orchestrator.commands.options import EXIT_DAMAGED, Out


@command()
def verify(out: Out = "results") -> None:
    """Read every result, question and saved state in a folder, and name what is damaged, foreign or not used."""
    from orchestrator.errors import UserError
    from orchestrator.ledger.inspection import Verdict, inspect
    from orchestrator.ledger.storage import Storage

    storage = Storage(out)
    counts = Counter[Verdict]()
    for found in inspect(storage):
        counts[found.verdict] += 1
        if found.why:
            typer.echo(f"{found.verdict}: {found.path} ({found.why})")
    if not counts:
        raise UserError(f"{storage.root!r} has no results")
    typer.echo(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]))
    if counts[Verdict.DAMAGED]:
        raise typer.Exit(EXIT_DAMAGED)
