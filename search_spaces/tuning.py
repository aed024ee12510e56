"""The spaces to search for each optimizer's best (learning rate, weight decay); the paper's values lie well inside."""

from __future__ import annotations

from search_spaces.space import LogUniform, Space

SYNTHETIC: dict[str, Space] = {
    "adam": {"learning_rate": LogUniform(1e-5, 1e-2), "weight_decay": LogUniform(1e-8, 1e-1)},
    "adamw": {"learning_rate": LogUniform(1e-5, 1e-2), "weight_decay": LogUniform(1e-5, 1e2)},
}
IMAGES: dict[str, Space] = {
    "adam": {"learning_rate": LogUniform(1e-5, 1e-2), "weight_decay": LogUniform(1e-7, 1e-1)},
    "adamw": {"learning_rate": LogUniform(1e-5, 1e-2), "weight_decay": LogUniform(1e-4, 1e1)},
}
