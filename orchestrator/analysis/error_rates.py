"""The errors that a table or a figure may show: top-1 or top-5, and of images the precise ones too.

Precise errors have BatchNorm's statistics of the final weights: see `trainables.image_classifier.precise_batchnorm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
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

PLAIN = ErrorKind(test="test_error", train="train_error", label="")

KINDS = (
    PLAIN,
    ErrorKind(test="test_top5_error", train="train_top5_error", label="top-5 ", prefix="top5_"),
    ErrorKind(
        test="precise_test_error",
        train="precise_train_error",
        label="precise ",
        meaning=_PRECISE,
        prefix="precise_",
    ),
    ErrorKind(
        test="precise_test_top5_error",
        train="precise_train_top5_error",
        label="precise top-5 ",
        meaning=_PRECISE,
        prefix="precise_top5_",
    ),
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
