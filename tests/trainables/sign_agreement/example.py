"""Tiny trials of the comparison with sign descent."""

from __future__ import annotations

from tests.support.examples import Example
from tests.trainables.two_layer_cnn.example import SYNTHETIC

EXAMPLE = Example(
    base=SYNTHETIC,
    members=[
        {},
        {"optimizer": "adamw"},
        {"seed": 1, "batch_size": 10},
        {"optimizer": "adamw", "num_epochs": 20},
    ],
    diverging={"learning_rate": 1e30, "seed": 2},
    engines=("fused-cpu", "reference"),
)
