"""The toy's tiny trials."""

from __future__ import annotations

from tests.support.examples import Example

EXAMPLE = Example(
    base={
        "optimizer": "adam",
        "weight_decay": 1e-3,
        "learning_rate": 1e-2,
        "batch_size": 5,
        "num_epochs": 12,
        "seed": 0,
    },
    members=[{}, {"optimizer": "adamw"}, {"seed": 1, "batch_size": 24}, {"optimizer": "toylion", "num_epochs": 20}],
    diverging={"optimizer": "signsgd", "learning_rate": 1e200, "weight_decay": 1e200, "seed": 2},
    engines=("toy-cpu",),
)
