"""How a trial that ran to its last epoch, or diverged, is classed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainables.result import Outcome, TracePoint

STUCK_LOSS_TOLERANCE, STUCK_LOSS_EXCESS = 1e-3, 0.05
"""By at most these shares a stuck trial's training loss lies below and above the trivial one, ln(number of classes)...

Collapsed weights give ln 2 to the last digit. Small ones that decoupled decay holds at about 1 / lambda do not: they
may classify without error at a loss only 1% below it, and are not stuck.
"""
STUCK_NORM_SHARE = 0.5
"""... and its weight norm below this share of the initial one."""
TRAINED_ERROR = 0.01
"""Training error about 0."""


def is_finite(point: TracePoint) -> bool:
    """Whether training loss and weights are still numbers: if not, training on changes nothing."""
    return math.isfinite(point.train_loss) and math.isfinite(point.weight_norm)


def trivial_loss(num_classes: int) -> float:
    """The cross-entropy of equal outputs."""
    return math.log(num_classes)


def outcome(trace: Sequence[TracePoint], num_classes: int) -> Outcome:
    """The class of a trial that ended.

    Stuck is judged by loss and norm together: after a collapse the weights are near zero and the error is arbitrary.
    A trained network whose test error is nearer to chance, 1 - 1/classes, than to 0 has memorized.
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
