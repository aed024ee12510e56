"""Runs several launches in one separate process, which imports once for all of them, and returns what each prints.

What they print then depends on this machine only by its numbers: the number of cores (forecasts divide by it), the name
of the host (rows and file names carry it) and the width of lines are fixed here. No product code is changed.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from runpy import run_module

from tests.golden.product import LAUNCH
from tests.support.launching import environment

NUM_CORES, HOST = 4, "golden"
WIDTH = "120"
# Settings of a shell that the product, Typer or Rich would heed.
_HEEDED = (
    "LAMBDA_ATLAS_", "MLFLOW_", "RAY_ADDRESS", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "LINES",
    "_TYPER_", "TYPER_",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a launch printed, and its exit code."""

    code: int
    out: str
    err: str


def plain_environment(**more: str) -> dict[str, str]:
    """The environment of a launch whose texts are compared."""
    kept = {name: value for name, value in environment().items() if not name.startswith(_HEEDED)}
    return {**kept, "COLUMNS": WIDTH, "TERM": "xterm", "PYTHONUTF8": "1", **more}


def start_launches(folder: Path, commands: Sequence[str], **more: str) -> subprocess.Popen[str]:
    """A new process that launches these in `folder`, one after another, and prints what they said as its last line."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.golden.launches", *commands],
        cwd=folder,
        env=plain_environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launches(folder: Path, commands: Sequence[str], **more: str) -> list[Said]:
    """Launch these in `folder`, and wait for all."""
    process = start_launches(folder, commands, **more)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    return [Said(**said) for said in json.loads(out.splitlines()[-1])]


def checked_launches(folder: Path, commands: Sequence[str], **more: str) -> list[str]:
    """Launch as above and return what each printed; none may fail."""
    said = launches(folder, commands, **more)
    for command, one in zip(commands, said, strict=True):
        assert one.code == 0, f"launch {command}: {one.out}{one.err}"
    return [one.out for one in said]


def _launch(command: str) -> Said:
    out, err = io.StringIO(), io.StringIO()
    sys.argv[1:] = command.split()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_module(LAUNCH, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def _main(commands: Sequence[str]) -> None:
    os.sched_getaffinity = lambda pid: set(range(NUM_CORES))
    socket.gethostname = lambda: HOST
    said = [asdict(_launch(command)) for command in commands]
    print("\n" + json.dumps(said))


if __name__ == "__main__":
    _main(sys.argv[1:])
