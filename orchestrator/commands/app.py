"""The typer application of `launch`, and the decorator with which a module of this folder adds a command to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from orchestrator.errors import UserError, unknown_name
from orchestrator.sweeps.reserved import RESERVED

Function = TypeVar("Function", bound=Callable[..., Any])


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


def command(name: str | None = None) -> Callable[[Function], Function]:
    """Add the decorated function to the commands, by default under its own name with `-` for `_`.

    `--help` shows its docstring, and no sweep may have its name.
    """

    def enter(function: Function) -> Function:
        called = name or function.__name__.replace("_", "-")
        if called in RESERVED:
            raise ValueError(f"the name {called!r} is taken: choose another for the command")
        RESERVED.add(called)
        app.command(name=called)(function)
        return function

    return enter


def _names_module(args: list[str]) -> bool:
    return any(arg == "--module" or arg.startswith("--module=") for arg in args)
