"""The toy optimizer in torch: imported only to train, never to plan."""

from __future__ import annotations

from typing import Any

import torch

from trainables.config import TrialConfig


class ToyLion(torch.optim.Optimizer):
    """w <- (1 - eta lambda) w - eta sign(beta1 m + (1 - beta1) g), then m <- beta2 m + (1 - beta2) g."""

    def __init__(self, params: list[torch.Tensor], config: TrialConfig, **variant: Any) -> None:
        super().__init__(params, {})
        self._config = config

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        c = self._config
        for w in self.param_groups[0]["params"]:
            m, g = self.state[w]["exp_avg"], w.grad
            w.mul_(1 - c.learning_rate * c.weight_decay)
            w.sub_(c.learning_rate * (c.beta1 * m + (1 - c.beta1) * g).sign())
            m.copy_(c.beta2 * m + (1 - c.beta2) * g)
