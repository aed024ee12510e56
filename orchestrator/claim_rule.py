"""When a trial works, and how surely a cell of a map is judged; planning reads this without any statistics."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UserError


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """When a trial works (error rates at most these), and how surely and from how many seeds a cell is judged.

    `alpha` bounds the false share of all verdicts, `confidence` is each interval's. Raises `UserError` for nonsense.
    """

    max_train_error: float = 0.01
    max_test_error: float = 0.1
    alpha: float = 0.05
    confidence: float = 0.95
    min_seeds: int = 8
    max_seeds: int = 32

    def __post_init__(self) -> None:
        for name in ("max_train_error", "max_test_error"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be an error rate from 0 to 1, not {getattr(self, name)}")
        for name in ("alpha", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not 1 <= self.min_seeds <= self.max_seeds:
            raise UserError(f"seeds must grow from min_seeds >= 1 to max_seeds, not {self.min_seeds}-{self.max_seeds}")
