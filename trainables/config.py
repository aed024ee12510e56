"""The config of a trial: a frozen, complete, validated value whose hash is the trial's name.

The hash (`trial_id`) covers every field that is meant to change the numbers, and the workload's numeric version. It
does not cover paths, devices, engines and packs. A field added after the first release is marked `ADDED_LATER` and left
out of the JSON while it has its default value, so that older rows keep their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from trainables.errors import ConfigError, unknown_name
from trainables.names import Optimizer as Optimizer

ADDED_LATER = object()
"""Marks a field (`Annotated[type, ADDED_LATER]`) that joins the hash only when it differs from its default."""


@dataclass(frozen=True, slots=True)
class Follows:
    """Marks a field whose value follows from the named fields: it distinguishes trials only if those are equal."""

    fields: tuple[str, ...]


TRIAL_ID_DIGITS = 16


SIGN_DESCENTS = {Optimizer.ADAM: Optimizer.SIGNSGD, Optimizer.ADAMW: Optimizer.SIGNSGDW}
"""The sign descent of each optimizer: what it would be if its updates were only the signs of the gradients."""


class EpsilonRule(StrEnum):
    """How epsilon is set: a given number, or lambda * eta as in the paper's theory."""

    FIXED = "fixed"
    LAMBDA_ETA = "lambda_eta"


class Precision(StrEnum):
    """Floating-point type of weights, moments and data."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    """Products in bfloat16; weights and moments in float32."""


SMALLEST_EPSILON = 1e-30
"""Below it 1 / epsilon exceeds the range of float32, and a coordinate that no batch has touched would become nan."""

MOMENT_FIELDS = ("beta1", "beta2", "epsilon", "epsilon_rule", "bias_correction")
"""Fields that only optimizers with moments read; None for other optimizers."""


class TrialConfig(BaseModel):
    """A config describes one training run completely; equal configs are one trial, in every sweep and on every machine.

    Each workload has a subclass with additional fields and other defaults. `config_from_values` makes the right one.
    The hash of all fields and of the workload's version is the trial's name, `trial_id`. Optimizers without moments do
    not read the fields from `beta1` to `bias_correction`, which are then None.

    Args:
        workload: The name of the workload.
        optimizer: The update rule, equations (3.1)-(3.6).
        weight_decay: lambda, at least 0.
        learning_rate: eta, positive.
        batch_size: B, the number of samples in a step.
        num_epochs: T, passes over the training set.
        seed: Determines data, initial weights and batch order. Trials with the same seed share them, whatever the
            optimizer.
        beta1: Decay rate of the first moment. Its square must be below `beta2`, as in the paper.
        beta2: Decay rate of the second moment.
        epsilon: Added to the square root of the second moment. None if `epsilon_rule="lambda_eta"`.
        epsilon_rule: `fixed` uses `epsilon`. `lambda_eta` uses lambda times eta, as the paper's theory does.
        bias_correction: Whether moments are corrected as in torch.optim. The paper's equations have no correction.
        precision: Floating-point type of weights, moments and data. `bfloat16` is the type of products only; weights
            and moments then stay in float32.

    Raises:
        pydantic.ValidationError: A field breaks a rule. `config_from_values` raises `ConfigError` instead, in one line.

    Example:
        >>> from trainables import config_from_values
        >>> config = config_from_values(
        ...     {"workload": "two_layer_cnn", "optimizer": "adam", "weight_decay": 1e-5, "batch_size": 20, "seed": 0}
        ... )
        >>> config.learning_rate, config.num_epochs, config.beta2
        (5e-05, 10000, 0.999)
        >>> len(config.trial_id)
        16
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    numeric_version: ClassVar[int]
    """Increased whenever the same config may give different numbers than before."""

    workload: str
    optimizer: Optimizer = Field(description="update rule")
    weight_decay: float = Field(ge=0, description="lambda")
    learning_rate: float = Field(gt=0, description="eta")
    batch_size: int = Field(ge=1, description="B")
    num_epochs: int = Field(ge=1, description="T, passes over the training set")
    seed: int = Field(ge=0, lt=2**63, description="data, initial weights and batch order derive from it")
    beta1: float | None = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float | None = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    epsilon: float | None = Field(1e-8, gt=0, description="added to sqrt(v); None under epsilon_rule=lambda_eta")
    epsilon_rule: EpsilonRule | None = Field(EpsilonRule.FIXED, description="fixed, or lambda * eta as in the theory")
    bias_correction: bool | None = Field(True, description="as torch.optim; the paper's equations have none")
    precision: Precision = Precision.FLOAT32

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse True/False where a number belongs (pydantic would read them as 1 and 0)."""
        declared = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool | np.bool_) and bool not in (declared, *get_args(declared)):
            raise ValueError("expected a number or a name, not a truth value")
        return value

    @field_validator("*")
    @classmethod
    def _fits_a_column(cls, value: Any) -> Any:
        if isinstance(value, int) and value >= 2**63:
            raise ValueError(f"integers must be below 2^63, about {2**63:.0e}")
        return value

    @field_validator("*")
    @classmethod
    def _no_negative_zero(cls, value: Any) -> Any:
        return 0.0 if isinstance(value, float) and value == 0 else value

    @model_validator(mode="before")
    @classmethod
    def _ignored_fields_are_none(cls, data: Any) -> Any:
        """Set fields that the optimizer does not read to None, so that they cannot give one trial two names."""
        if not isinstance(data, Mapping):
            return data
        values = dict(data)
        optimizer = values.get("optimizer")
        if optimizer in Optimizer and not Optimizer(optimizer).has_moments:
            values.update(dict.fromkeys(MOMENT_FIELDS))
        elif values.get("epsilon_rule") == EpsilonRule.LAMBDA_ETA:
            values["epsilon"] = None
        return values

    @model_validator(mode="after")
    def _optimizer_rules(self) -> Self:
        if not self.optimizer.has_moments:
            return self
        missing = [name for name in MOMENT_FIELDS if name != "epsilon" and getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.optimizer} needs {', '.join(missing)}")
        assert self.beta1 is not None
        assert self.beta2 is not None
        if self.beta1**2 >= self.beta2:
            raise ValueError(f"beta1^2 < beta2 is required, got beta1={self.beta1:g}, beta2={self.beta2:g}")
        if self.epsilon_rule is EpsilonRule.LAMBDA_ETA and self.weight_decay == 0:
            raise ValueError("epsilon_rule=lambda_eta needs weight_decay > 0, got weight_decay=0")
        if self.epsilon_rule is EpsilonRule.FIXED and self.epsilon is None:
            raise ValueError("epsilon_rule=fixed needs an epsilon")
        if self.epsilon_value < SMALLEST_EPSILON:
            raise ValueError(f"epsilon >= {SMALLEST_EPSILON:g} is required, got {self.epsilon_value:g}")
        return self

    @property
    def epsilon_value(self) -> float:
        """The epsilon that the update uses: `epsilon`, or lambda * eta."""
        if self.epsilon_rule is EpsilonRule.LAMBDA_ETA:
            return self.weight_decay * self.learning_rate
        assert self.epsilon is not None, f"{self.optimizer} has no epsilon"
        return self.epsilon

    def canonical_json(self, *, without: tuple[str, ...] = ()) -> str:
        """The fields that name the trial, sorted, as JSON without white space."""
        values = self.model_dump(mode="json", exclude=set(without))
        for name, field in type(self).model_fields.items():
            if ADDED_LATER in field.metadata and name in values and values[name] == field.default:
                del values[name]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def trial_id(self) -> str:
        """Hash of the canonical JSON and the workload's numeric version."""
        return self._digest()

    @cached_property
    def trajectory_id(self) -> str:
        """The hash without `num_epochs`: equal for two trials if the longer one continues the shorter one."""
        return self._digest(without=("num_epochs",))

    def _digest(self, without: tuple[str, ...] = ()) -> str:
        text = f"{type(self).numeric_version}:{self.canonical_json(without=without)}"
        return hashlib.sha256(text.encode()).hexdigest()[:TRIAL_ID_DIGITS]


def make_config(config_type: type[TrialConfig], values: Mapping[str, Any]) -> TrialConfig:
    """Build a config; raises `ConfigError` with every fault of `values` in one line."""
    known = config_type.model_fields
    faults = [unknown_name("field", str(name), known) for name in values if name not in known]
    try:
        config = config_type.model_validate({name: value for name, value in values.items() if name in known})
    except ValidationError as error:
        faults += [_one_fault(fault) for fault in error.errors()]
    if faults:
        raise ConfigError("; ".join(faults))
    return config


def _one_fault(fault: Any) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not fault["loc"]:
        return message
    rule = f"{fault['loc'][0]}: {message[0].lower()}{message[1:]}"
    return rule if fault["type"] == "missing" else f"{rule}, got {fault['input']!r}"
