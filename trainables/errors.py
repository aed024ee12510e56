"""The error tree: what a user can mend is one clear line, anything else keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can mend: one line that names the rule, what was given and what is known."""


class ConfigError(UserError):
    """A trial's configuration breaks a rule."""


class DataError(UserError):
    """Images that are missing, partial, corrupt or of the wrong shape."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> str:
    """One line for an unknown name, with the nearest known ones first."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {given!r}{hint} (known: {', '.join(names)})"


def first_line(error: BaseException) -> str:
    """What an exception says first, or its type's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(text: str) -> str:
    """The end of a traceback, which says what went wrong."""
    return text.strip().splitlines()[-1]
