"""The errors that a table or a figure may show: top-1 or top-5, and of images the precise ones too.

Precise errors have BatchNorm's statistics of the final weights: see `trainables.image_precise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """The columns of one error, what stands before its name, and a line that explains it below a figure."""

    test: str
    train: str
    label: str
    meaning: str = ""


_PRECISE = "precise: after the last epoch, with BatchNorm's statistics taken anew for its weights"

PLAIN = ErrorKind("test_error", "train_error", "")

KINDS = {
    "precise_top5_": ErrorKind("precise_test_top5_error", "precise_train_top5_error", "precise top-5 ", _PRECISE),
    "precise_": ErrorKind("precise_test_error", "precise_train_error", "precise ", _PRECISE),
    "top5_": ErrorKind("test_top5_error", "train_top5_error", "top-5 "),
    "": PLAIN,
}
"""Kinds by what begins the name of a figure that shows them."""


def kind_of(error: str) -> ErrorKind:
    """The kind with that column of test errors; the plain one if no other has it."""
    return next((kind for kind in KINDS.values() if kind.test == error), PLAIN)


def precise(error: str) -> ErrorKind | None:
    """The precise kind of an error, if it has one."""
    return next((kind for kind in KINDS.values() if kind.test == f"precise_{error}"), None)


def error_of_figure(name: str) -> str | None:
    """The column of test errors that the name of a figure asks for."""
    return next((kind.test for prefix, kind in KINDS.items() if prefix and name.startswith(prefix)), None)


def judged_by(trials: pd.DataFrame, kind: ErrorKind) -> pd.DataFrame:
    """The trials with that kind's errors as their `test_error` and `train_error`."""
    return trials if kind == PLAIN else trials.assign(test_error=trials[kind.test], train_error=trials[kind.train])
