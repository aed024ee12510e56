"""The error rates that a table or figure may show: top-1 or top-5, and for images also precise ones.

Precise errors use BatchNorm statistics of the final weights: see `trainables.image_classifier.precise_batchnorm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """One kind of error: its columns of test and train errors, and how tables and figures name it.

    `label` precedes the error's name, `prefix` the name of a figure that shows it; `meaning` explains it below one.
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
    """The kind with that column of test errors; `PLAIN` if no kind has it."""
    return next((kind for kind in KINDS if kind.test == error), PLAIN)


def precise(error: str) -> ErrorKind | None:
    """The precise kind of an error, or None if there is none."""
    return next((kind for kind in KINDS if kind.test == f"precise_{error}"), None)


def judged_by(trials: pd.DataFrame, kind: ErrorKind) -> pd.DataFrame:
    """The trials, with that kind's errors in the columns `test_error` and `train_error`."""
    return trials if kind == PLAIN else trials.assign(test_error=trials[kind.test], train_error=trials[kind.train])
