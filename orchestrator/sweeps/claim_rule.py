"""`ClaimRule`: when a trial works, and how a cell is judged. Planning reads it without loading any statistics."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRule:
    """A claim rule says when a trial works, and from how many seeds and how surely a cell of a map is judged.

    A trial works if it trained and generalizes. Its loss must have fallen too: decoupled decay can hold weights at
    about 1 / lambda, so small that the loss stays at ln 2 although the outputs' signs make no errors. An optimizer
    works in a cell if more than half of all possible seeds would.

    Args:
        max_train_error: Largest training error rate of a trial that works, from 0 to 1.
        max_test_error: Largest test error rate of a trial that works, from 0 to 1.
        max_loss_share: Largest training loss of a trial that works, as a share of the loss if all outputs were equal.
        alpha: Largest expected share of false verdicts among a map's verdicts, between 0 and 1.
        confidence: Confidence level of each interval, between 0 and 1.
        min_seeds: Number of seeds that every cell gets.
        max_seeds: Largest number of seeds that an undecided cell may get.

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
            raise UserError(f"a rule needs 1 <= min_seeds <= max_seeds, got {self.min_seeds} and {self.max_seeds}")
