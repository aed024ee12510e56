"""The toy's config and trace point, in a separate module so that a pickled config does not name the workload's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from trainables.config import TrialConfig
from trainables.result import TracePoint

NUM_CLASSES = 2


class ToyConfig(TrialConfig):
    """Logistic regression on points of two classes."""

    numeric_version: ClassVar[int] = 1

    workload: Literal["toy"] = "toy"
    num_points: int = Field(24, ge=2, description="points of training and test set each")
    dimension: int = Field(6, ge=1)


@dataclass(frozen=True, slots=True)
class ToyTracePoint(TracePoint):
    """The base's columns and one more."""

    gradient_norm: float
