"""Says which line of a user's own module an exception came through: the rest of the stack is ours and tells nothing."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_OURS = [Path(__file__).resolve().parents[2] / name for name in ("orchestrator", "trainables", "search_spaces")]
_LIBRARIES = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
_LONGEST = 300


def users_fault(error: BaseException) -> str | None:
    """FILE:LINE of the user's that was called last, and what was raised; None if no file of a user's took part."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:  # raised by whoever reads that file
        places.append((error.filename, error.lineno or 1))
    of_user = [place for place in places if _is_users(place[0])]
    if not of_user:
        return None
    file, line = of_user[-1]
    said = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:_LONGEST]
    return ": ".join([f"{_shown(file)}:{line}", type(error).__name__, *([said] if said else [])])


def _is_users(file: str) -> bool:
    """Whether this is a file outside of our packages, of Python and of what is installed."""
    path = Path(os.path.realpath(file))
    is_installed = not _PACKAGE_FOLDERS.isdisjoint(path.parts)
    return path.is_file() and not is_installed and not any(path.is_relative_to(f) for f in (*_OURS, *_LIBRARIES))


def _shown(file: str) -> str:
    """The file's path from the current folder, if it lies there."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
