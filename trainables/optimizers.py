"""The update rules in torch, equations (3.1)-(3.6): torch.optim's where torch has them, plain code elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from trainables.config import Optimizer, TrialConfig
from trainables.errors import ConfigError
from trainables.names import TORCH, OptimizerTable

TorchRule = Callable[..., torch.optim.Optimizer]
"""Called with the parameters (a list of tensors), the config, and the `variant` keywords of `make_optimizer`.

A rule with moments keeps them in `state[w]` as `exp_avg` and `exp_avg_sq`, where engines write and read them.
"""


class MomentsWithoutCorrection(torch.optim.Optimizer):
    """Adam (3.4)-(3.5) and AdamW (3.4), (3.6) as the paper's theory has them: no bias correction."""

    def __init__(self, params: Iterable[Tensor], config: TrialConfig) -> None:
        super().__init__(params, {})
        self._config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        config = self._config
        beta1, beta2 = config.beta1 or 0.0, config.beta2 or 0.0
        for w in self.param_groups[0]["params"]:
            m, v = self.state[w]["exp_avg"], self.state[w]["exp_avg_sq"]
            g = w.grad + config.weight_decay * w if config.optimizer.is_coupled else w.grad
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g**2)
            if not config.optimizer.is_coupled:
                w.mul_(1 - config.learning_rate * config.weight_decay)
            w.sub_(config.learning_rate * m / (v.sqrt() + config.epsilon_value))


class SignSGD(torch.optim.Optimizer):
    """SignSGD, w <- w - eta sign(g + lambda w), and SignSGDW, w <- (1 - eta lambda) w - eta sign(g)."""

    def __init__(self, params: Iterable[Tensor], config: TrialConfig) -> None:
        super().__init__(params, {})
        self._config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        config = self._config
        for w in self.param_groups[0]["params"]:
            g = w.grad + config.weight_decay * w if config.optimizer.is_coupled else w.grad
            if not config.optimizer.is_coupled:
                w.mul_(1 - config.learning_rate * config.weight_decay)
            w.sub_(config.learning_rate * g.sign())


def _torchs_own(rule: type[torch.optim.Adam | torch.optim.AdamW]) -> TorchRule:
    """Torch's implementation of Adam or AdamW, or the one above without bias correction, which torch lacks."""

    def make(params: list[Tensor], config: TrialConfig, **variant: Any) -> torch.optim.Optimizer:
        if not config.bias_correction:
            return MomentsWithoutCorrection(params, config)
        return rule(
            params,
            lr=config.learning_rate,
            betas=(config.beta1 or 0.0, config.beta2 or 0.0),
            eps=config.epsilon_value,
            weight_decay=config.weight_decay,
            **variant,
        )

    return make


def _sign_descent(params: list[Tensor], config: TrialConfig, **variant: Any) -> torch.optim.Optimizer:
    return SignSGD(params, config)


RULES = OptimizerTable[TorchRule](
    TORCH,
    "an update rule in torch",
    {
        Optimizer.ADAM: _torchs_own(torch.optim.Adam),
        Optimizer.ADAMW: _torchs_own(torch.optim.AdamW),
        Optimizer.SIGNSGD: _sign_descent,
        Optimizer.SIGNSGDW: _sign_descent,
    },
)
"""The update rule of each optimizer, for all engines on torch."""


def make_optimizer(config: TrialConfig, params: Iterable[Tensor], **variant: Any) -> torch.optim.Optimizer:
    """The update rule that `config` names; `variant` chooses among torch.optim's implementations (`fused=True`, ...).

    If the rule has moments, set them with `set_moments` before the first step.
    """
    return RULES.of(config.optimizer)(list(params), config, **variant)


def set_moments(optimizer: torch.optim.Optimizer, w: Tensor, step: Tensor, first: Tensor, second: Tensor) -> None:
    """Give parameter `w` its moments after `step` steps; the optimizer updates these tensors in place."""
    optimizer.state[w] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def check_state(
    optimizer: torch.optim.Optimizer, config: TrialConfig, moments: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Raise `ConfigError` if a rule has put state where engines do not save it, or has replaced what they save.

    Engines stop and resume between any two epochs. A rule of a user's that kept a momentum buffer of its own would
    start it anew each time, and its numbers would depend on when that was.
    """
    for state in optimizer.state.values():
        others = sorted(set(state) - {"step", "exp_avg", "exp_avg_sq"})
        replaced = [name for name, tensor in moments.items() if state.get(name) is not tensor]
        if others or replaced:
            raise ConfigError(
                f"optimizer {str(config.optimizer)!r} keeps its state in {', '.join(others or replaced)}: engines save "
                "exp_avg and exp_avg_sq only, and a rule must update these tensors in place"
            )
