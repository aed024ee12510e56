"""The command line, `python -m orchestrator.launch SWEEP`: holds its commands and turns failures into exit codes.

Each command imports what it needs when it is called, so that `--help` and `plan` start fast.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from orchestrator.commands import data, export, run, show
from orchestrator.commands.options import EXIT_INTERRUPTED, EXIT_USER_ERROR
from orchestrator.errors import UserError, unknown_name


class _SweepIsRun(TyperGroup):
    """`launch SWEEP ...` means `launch run SWEEP ...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            from orchestrator.sweeps.registry import load_sweeps

            if args[0] not in load_sweeps() and not _names_module(args):
                raise UserError(unknown_name("sweep or command", args[0], {*load_sweeps(), *self.commands}))
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_SweepIsRun,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Map where Adam's coupled weight decay works against where only AdamW's does.",
    epilog="`launch SWEEP` means `launch run SWEEP`. Running the same command again runs only what is missing.",
)
app.command()(run.run)
app.command()(run.submit)
app.command()(show.plan)
app.command(name="list")(show.list_sweeps)
app.command()(show.status)
app.command()(export.export_mlflow)
app.command()(export.export_optuna)
app.command()(data.data)


def main() -> None:
    """Run the command line: a user's mistake ends as one line and exit code 2, Ctrl-C as exit code 130."""
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
        typer.echo("interrupted: the same command resumes where this one stopped", err=True)
    sys.exit(code)


def _fault(error: Exception) -> str | None:
    """The line to print for a mistake that the user can correct; None for any other exception."""
    if isinstance(error, UserError):
        return str(error)
    # Typer's own usage errors: their base class has moved between its releases, this method has not.
    describe = getattr(error, "format_message", None)
    return " ".join(describe().split()) if describe else None


def _names_module(args: list[str]) -> bool:
    return any(arg == "--module" or arg.startswith("--module=") for arg in args)


if __name__ == "__main__":
    main()
