"""Tiny trials of the two-layer CNN."""

from __future__ import annotations

from typing import Any

from tests.support.examples import Example

SYNTHETIC: dict[str, Any] = {
    "optimizer": "adam",
    "weight_decay": 1e-3,
    "learning_rate": 1e-2,
    "batch_size": 3,
    "num_epochs": 12,
    "seed": 0,
    "num_train": 10,
    "num_test": 20,
    "dimension": 30,
    "noise_sparsity": 4,
    "num_filters": 3,
    "init_std": 0.1,
}

EXAMPLE = Example(
    base=SYNTHETIC,
    members=[
        {},
        {"optimizer": "adamw"},
        {"seed": 1, "batch_size": 10},
        {"optimizer": "signsgdw", "num_epochs": 20},
    ],
    diverging={"optimizer": "signsgd", "learning_rate": 1e30, "seed": 2},
    engines=("fused-cpu", "reference"),
)
