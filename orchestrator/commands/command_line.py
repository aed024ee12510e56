"""The command line with all its commands, and what it answers to a user's mistake."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from orchestrator.commands.app import app
from orchestrator.commands.options import EXIT_LOST_OUTPUT, EXIT_USER_ERROR
from orchestrator.commands.streams import forgive_output
from orchestrator.errors import RayEndedError, UserError
from orchestrator.process.parent import start_anew
from orchestrator.sweeps.reserved import RESERVED
from trainables.machine.home import ensure_home
from trainables.redaction import guard_output

# Importing a module adds its commands; `--help` shows them in this order.
from orchestrator.commands import run, show, verify, replay, export, data  # isort: skip  # noqa: F401


def exit_code(arguments: Sequence[str]) -> int:
    """Run a command; a user's mistake is one line and exit code 2. Raises `KeyboardInterrupt` for Ctrl-C."""
    output = forgive_output()
    guard_output()
    ensure_home()
    code = _exit_code(arguments)
    sys.stdout.flush()
    if output is None or output.fault is None or _runs_sweep(arguments):
        return code
    typer.echo(f"error: standard output was not written to its end: {output.fault.strerror}", err=True)
    return code or EXIT_LOST_OUTPUT


def _runs_sweep(arguments: Sequence[str]) -> bool:
    """Whether this is a launch that trains: its results are in the ledger, whatever becomes of its output."""
    first = arguments[0] if arguments else "--help"
    return first == "run" or not (first.startswith("-") or first in RESERVED)


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        return app(list(arguments) or ["--help"], standalone_mode=False) or 0
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if isinstance(error, RayEndedError):
            start_anew(error.how)
        fault = _fault(error)
        if fault is None:
            raise
        typer.echo(f"error: {fault}", err=True)
        return EXIT_USER_ERROR


def _fault(error: Exception) -> str | None:
    """The line to print for a mistake that the user can correct; None for any other exception."""
    if isinstance(error, UserError):
        return str(error)
    # Typer's own usage errors: their base class has moved between its releases, this method has not.
    describe = getattr(error, "format_message", None)
    return " ".join(describe().split()) if describe else None
