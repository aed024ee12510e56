"""When a trial works, and how surely a cell of a map is judged; planning reads this without any statistics."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRule:
    """A claim rule says when a trial works, and how surely and from how many seeds a cell of a map is judged.

    A trial works if it trained and generalizes. It must also have fitted something: decoupled decay can hold weights at
    about 1 / lambda, so small that the loss stays at ln 2, with signs that make no errors. An optimizer works in a cell
    if more than half of its seeds would.

    Args:
        max_train_error: Largest training error rate of a trial that works, from 0 to 1.
        max_test_error: Largest test error rate of a trial that works, from 0 to 1.
        max_loss_share: Largest training loss of a trial that works, as a share of the loss of equal outputs.
        alpha: Largest expected share of false ones among a map's verdicts, between 0 and 1.
        confidence: Coverage of each interval, between 0 and 1.
        min_seeds: Seeds that every cell is judged from.
        max_seeds: Seeds that an undecided cell may get.

    Raises:
        UserError: A number is outside of its range, or `max_seeds` is below `min_seeds`.

    Example:
        >>> from orchestrator import ClaimRule
        >>> ClaimRule(min_seeds=6, max_seeds=12).alpha
        0.05
        >>> ClaimRule(alpha=5)
        Traceback (most recent call last):
        trainables.errors.UserError: alpha must lie between 0 and 1, not 5
    """

    max_train_error: float = 0.01
    max_test_error: float = 0.1
    max_loss_share: float = 0.95
    alpha: float = 0.05
    confidence: float = 0.95
    min_seeds: int = 8
    max_seeds: int = 32

    def __post_init__(self) -> None:
        for name in ("max_train_error", "max_test_error"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be an error rate from 0 to 1, not {getattr(self, name)}")
        if not self.max_loss_share > 0:
            raise UserError(f"max_loss_share must be positive, not {self.max_loss_share}")
        for name in ("alpha", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not 1 <= self.min_seeds <= self.max_seeds:
            raise UserError(f"seeds must grow from min_seeds >= 1 to max_seeds, not {self.min_seeds}-{self.max_seeds}")
