"""Tiny trials of the image classifier, on images that `tests.support.images` makes."""

from __future__ import annotations

from tests.support.examples import Example

EXAMPLE = Example(
    base={
        "dataset": "tiny8",
        "architecture": "resnet8",
        "optimizer": "adam",
        "weight_decay": 1e-3,
        "learning_rate": 1e-3,
        "batch_size": 16,
        "num_epochs": 6,
        "seed": 0,
    },
    members=[
        {},
        {"optimizer": "adamw"},
        {"seed": 1, "batch_size": 20},
        {"optimizer": "signsgdw", "num_epochs": 8, "augment_flip": True, "augment_crop": 1},
    ],
    diverging={"optimizer": "signsgd", "learning_rate": 1e30, "seed": 2, "batch_size": 48},
    engines=("eager-cpu",),
    seed_draws_data=False,
)
