"""When a trial works, and how surely a cell of a map is judged; planning reads this without any statistics."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UserError


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """When a trial works, and how surely and from how many seeds a cell is judged.

    It works if it trained and generalizes: error rates at most these, and a training loss of at most `max_loss_share`
    times that of equal outputs. By errors alone AdamW would work with weights so small that nothing is fitted: decay
    holds them at about 1 / lambda, of the right signs, at a loss of ln 2.
    `alpha` bounds the false share of all verdicts, `confidence` is each interval's. Raises `UserError` for nonsense.
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
