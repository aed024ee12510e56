"""The command line, `python -m orchestrator.launch SWEEP`: imports its commands and turns failures into exit codes.

Each command imports what it needs when it is called, so that `--help` and `plan` start fast.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from orchestrator.commands.app import app
from orchestrator.commands.options import EXIT_INTERRUPTED, EXIT_USER_ERROR
from orchestrator.errors import UserError
from trainables.redaction import guard_output

# Importing a module adds its commands; `--help` shows them in this order.
from orchestrator.commands import run, show, verify, export, data  # isort: skip  # noqa: F401


def main() -> None:
    """Run the command line: a user's mistake ends as one line and exit code 2, Ctrl-C as exit code 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without ± or · must not end a sweep
    guard_output()
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


if __name__ == "__main__":
    main()
