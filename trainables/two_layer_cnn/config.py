"""The config and the trace point of the synthetic workload."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from trainables.config import Follows, Precision, TrialConfig
from trainables.result import TracePoint


class TwoLayerCNNConfig(TrialConfig):
    """The synthetic workload of Definitions 3.1 and 3.2; defaults are the paper's experiment."""

    numeric_version: ClassVar[int] = 1
    num_classes: ClassVar[int] = 2

    workload: Literal["two_layer_cnn"] = "two_layer_cnn"
    learning_rate: float = Field(5e-5, gt=0, description="eta")
    num_epochs: int = Field(10_000, ge=1, description="T, passes over the training set")
    num_train: int = Field(200, ge=1, description="n, half of each label")
    num_test: int = Field(10_000, ge=1, description="points that the test error is measured on")
    dimension: int = Field(1000, ge=2, le=2**31, description="d, coordinates of a patch")
    noise_sparsity: int = Field(100, ge=1, description="s, coordinates of the noise patch that are not zero")
    noise_std: Annotated[float | None, Follows(("noise_sparsity",))] = Field(
        None, gt=0, description="sigma_p; 1/sqrt(s) unless given"
    )
    feature_noise: float = Field(0.2, ge=0, lt=1, description="alpha, wrong-signed feature in the noise patch")
    num_filters: int = Field(20, ge=1, le=256, description="m, filters of each class")
    activation_power: int = Field(3, ge=2, le=8, description="q of max(0, z)^q")
    init_std: float = Field(0.01, gt=0, description="sigma_0")

    @field_validator("noise_std", mode="before")
    @classmethod
    def _default_noise_std(cls, value: Any, info: ValidationInfo) -> Any:
        """Fill in sigma_p = 1/sqrt(s), so that the default and the same number given explicitly are one trial."""
        if value is None and "noise_sparsity" in info.data:
            return 1 / math.sqrt(info.data["noise_sparsity"])
        return value

    @model_validator(mode="after")
    def _shape_rules(self) -> Self:
        if self.precision is Precision.BFLOAT16:
            raise ValueError("precision is float32 or float64 for two_layer_cnn, got bfloat16")
        if self.noise_sparsity >= self.dimension:
            raise ValueError(f"noise_sparsity < dimension is required, got s={self.noise_sparsity}, d={self.dimension}")
        if self.batch_size > self.num_train:
            raise ValueError(f"batch_size <= num_train is required, got B={self.batch_size}, n={self.num_train}")
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch; the last one may be smaller."""
        return -(-self.num_train // self.batch_size)


@dataclass(frozen=True, slots=True)
class TwoLayerCNNTracePoint(TracePoint):
    """The quantities of figures 3-6, for class j = +1 (`positive`) and j = -1 (`negative`).

    `feature_learning` is max_r <w_jr, j v>. `noise_min` and `noise_max` are the minimum and the maximum of
    max_r <w_jr, xi_i> over the training samples i with y_i = j, and nan if the class has no samples.
    """

    train_error_positive: float
    train_error_negative: float
    test_error_positive: float
    test_error_negative: float
    feature_learning_positive: float
    feature_learning_negative: float
    noise_min_positive: float
    noise_min_negative: float
    noise_max_positive: float
    noise_max_negative: float
