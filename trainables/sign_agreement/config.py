"""The config and the trace point of a trial that is compared with sign descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import model_validator

from trainables.config import SIGN_DESCENTS
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint


class SignAgreementConfig(TwoLayerCNNConfig):
    """A trial of the synthetic workload whose updates are compared with SignSGD's during training."""

    workload: Literal["sign_agreement"] = "sign_agreement"  # type: ignore[assignment]

    @model_validator(mode="after")
    def _has_a_sign_descent(self) -> Self:
        if self.optimizer not in SIGN_DESCENTS:
            raise ValueError(f"sign_agreement compares adam or adamw with sign descent, got {self.optimizer}")
        return self


@dataclass(frozen=True, slots=True)
class SignAgreementTracePoint(TwoLayerCNNTracePoint):
    """How far Adam's updates agree with SignSGD's over the steps of the next epoch, and how far both runs have moved.

    A weight's gradient is large in a step if |g| >= eta; `large_share` is the share of large ones among all weights and
    steps. Among large (`_large`) and other gradients (`_small`), `same_sign` is the share whose update has SignSGD's
    sign, and `same_size` the share whose update is also within a factor of 2 of SignSGD's size (nan without gradients).
    `travelled` is ||W - W_0||. `sign_*` are measured on SignSGD (SignSGDW beside AdamW), run from the same W_0 on the
    same batches. `sign_distance` is ||W - W_sign||.
    """

    large_share: float
    same_sign_large: float
    same_sign_small: float
    same_size_large: float
    same_size_small: float
    travelled: float
    sign_distance: float
    sign_train_error: float
    sign_test_error: float
    sign_weight_norm: float
