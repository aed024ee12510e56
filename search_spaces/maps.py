"""The axes of the maps: weight decays around both optimizers' edges, batch sizes, learning rates, initial scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces.space import Axis, LogIntegers, LogUniform, MixedSpace, decades

SYNTHETIC_DECAY = {"adam": LogUniform(1e-6, 1e1), "adamw": LogUniform(1e-4, 1e3)}
IMAGE_DECAY = {"adam": LogUniform(1e-7, 1e0), "adamw": LogUniform(1e-4, 1e1)}
"""AdamW's range is higher: its edge is expected where lambda eta is large, not where lambda is."""

CLAIMED_DECAYS = decades(1e-5, 1e2)
"""The values of lambda at which Adam and AdamW are compared."""
CLAIMED_BATCH_SIZES = (2, 20, 200)
CLAIMED_RATES = decades(1e-5, 1e-3)

IMAGE_CLAIMED_DECAYS = decades(1e-6, 1e0)
IMAGE_BATCH_SIZES = (16, 64, 256, 1024, 4096)


def decay_by(axis_name: str, decays: Mapping[str, LogUniform], batch_sizes: Sequence[int]) -> dict[str, MixedSpace]:
    """Each optimizer's space for a map of weight decay against `batch_size`, `learning_rate` or `init_std`."""
    axes: dict[str, Axis] = {
        "batch_size": LogIntegers(tuple(batch_sizes)),
        "learning_rate": LogUniform(1e-5, 1e-3),
        "init_std": LogUniform(2e-3, 6e-2),
    }
    return {optimizer: {axis_name: axes[axis_name], "weight_decay": decay} for optimizer, decay in decays.items()}


SPARSITIES = (1, 4, 10, 40, 100, 200, 400)
"""Values of s, each with sigma_p = 1/sqrt(s), so that the noise patch's norm stays near 1."""
