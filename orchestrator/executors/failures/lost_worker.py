"""Why a worker of Ray ended, in the words of what Tune has written about it."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import last_line

_DEATH = re.compile(r"Worker exit detail: (.*?)(?: Some common causes|$)", re.MULTILINE)
_NEVER_RAN = "The actor never ran"
"""Begins a line that Ray adds to the death of whatever actor: that some call of it was not made."""
_UNKNOWN = "its worker ended"
_IMPORT_FAULTS = (ImportError.__name__, ModuleNotFoundError.__name__)


def why_ended(error_file: str | None) -> str:
    """Traceback of what a worker raised, or one line about its death.

    `Trial.get_error` looks into the storage instead of this file, where Tune copies it only later.
    """
    try:
        _, *lines = Path(error_file or "").read_text(errors="replace").strip().splitlines()  # a headline first
    except (OSError, ValueError):
        return _UNKNOWN
    text = "\n".join(line for line in lines if not line.startswith(_NEVER_RAN))
    death = _DEATH.search(text)
    return f"its worker died: {death[1]}" if death else text or _UNKNOWN


def import_fault(error: str) -> str | None:
    """What a worker could not import, if that is why it ended."""
    cause = last_line(error)
    return cause if cause.startswith(_IMPORT_FAULTS) else None
