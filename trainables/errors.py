"""Exceptions for what the user can fix, which are shown as one clear line; all others keep their traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from trainables.redaction import redacted


class UserError(Exception):
    """A mistake the user can fix: one line that names the rule, the given value and the known ones; without secrets."""

    def __init__(self, line: str) -> None:
        super().__init__(redacted(line))


class ConfigError(UserError):
    """A trial's configuration breaks a rule."""


class DataError(UserError):
    """Images that are missing, partial, corrupt or of the wrong shape."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> str:
    """One line for an unknown name: the nearest known name, then all known names."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {given!r}{hint} (known: {', '.join(names)})"


def first_line(error: BaseException) -> str:
    """First line of an exception's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(text: str) -> str:
    """Last line of a traceback, which names the exception."""
    return text.strip().splitlines()[-1]
