"""The errors that a table or a figure may show: top-1 or top-5, and of images the precise ones too.

Precise errors have BatchNorm's statistics of the final weights: see `trainables.image_classifier.precise_batchnorm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """The columns of one error, what stands before its name, and a line that explains it below a figure.

    `prefix` stands before the name of a figure that shows it.
    """

    test: str
    train: str
    label: str
    meaning: str = ""
    prefix: str = ""


_PRECISE = "precise: after the last epoch, with BatchNorm's statistics taken anew for its weights"

PLAIN = ErrorKind("test_error", "train_error", "")

KINDS = (
    PLAIN,
    ErrorKind("test_top5_error", "train_top5_error", "top-5 ", prefix="top5_"),
    ErrorKind("precise_test_error", "precise_train_error", "precise ", _PRECISE, "precise_"),
    ErrorKind("precise_test_top5_error", "precise_train_top5_error", "precise top-5 ", _PRECISE, "precise_top5_"),
)


def kind_of(error: str) -> ErrorKind:
    """The kind with that column of test errors; the plain one if no other has it."""
    return next((kind for kind in KINDS if kind.test == error), PLAIN)


def precise(error: str) -> ErrorKind | None:
    """The precise kind of an error, if it has one."""
    return next((kind for kind in KINDS if kind.test == f"precise_{error}"), None)


def judged_by(trials: pd.DataFrame, kind: ErrorKind) -> pd.DataFrame:
    """The trials with that kind's errors as their `test_error` and `train_error`."""
    return trials if kind == PLAIN else trials.assign(test_error=trials[kind.test], train_error=trials[kind.train])
