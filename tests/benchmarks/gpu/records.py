"""Writes and reads the parts' results: one JSON line each, on standard output and in a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE_VARIABLE = "LAMBDA_ATLAS_GPU_RESULTS"
"""Names the file that the parts append to."""


def say(part: str, **values: object) -> None:
    """Print one result, and append it to the file of results."""
    line = json.dumps({"part": part, **values})
    print(line, flush=True)
    if file := os.environ.get(FILE_VARIABLE):
        with Path(file).open("a") as out:
            out.write(line + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All results in a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
