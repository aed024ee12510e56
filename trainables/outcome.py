"""Classifies a trial that ran to its last epoch or diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainables.result import Outcome, TracePoint

STUCK_LOSS_TOLERANCE, STUCK_LOSS_EXCESS = 1e-3, 0.05
"""A stuck trial's training loss is at most these shares below and above the trivial loss, ln(number of classes)...

Collapsed weights give ln 2 to the last digit. Small weights that decoupled decay holds at about 1 / lambda do not: they
may classify without errors at a loss only 1% below ln 2, and are not stuck.
"""
STUCK_NORM_SHARE = 0.5
"""... and its weight norm is below this share of the initial norm."""
TRAINED_ERROR = 0.01
"""The largest training error that counts as about 0."""


def is_finite(point: TracePoint) -> bool:
    """Whether training loss and weights are still finite; if not, further training changes nothing."""
    return math.isfinite(point.train_loss) and math.isfinite(point.weight_norm)


def trivial_loss(num_classes: int) -> float:
    """The cross-entropy if all outputs are equal."""
    return math.log(num_classes)


def outcome(trace: Sequence[TracePoint], num_classes: int) -> Outcome:
    """The outcome of a trial that ended.

    Loss and norm together decide whether it is stuck: after a collapse the weights are near zero and the error is
    arbitrary. A trained network has memorized if its test error is nearer to chance, 1 - 1/classes, than to 0.
    """
    first, last = trace[0], trace[-1]
    if not (is_finite(last) and all(map(math.isfinite, last.losses))):
        return Outcome.DIVERGED
    excess = last.train_loss / trivial_loss(num_classes) - 1
    loss_is_trivial = -STUCK_LOSS_TOLERANCE <= excess <= STUCK_LOSS_EXCESS
    if loss_is_trivial and last.weight_norm < STUCK_NORM_SHARE * first.weight_norm:
        return Outcome.STUCK
    if last.train_error > TRAINED_ERROR:
        return Outcome.UNDERFIT
    return Outcome.MEMORIZED if last.test_error >= (1 - 1 / num_classes) / 2 else Outcome.LEARNED
