"""A sampler as a user's module would add it: points sampled evenly over each axis, whatever is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from search_spaces.samplers.registry import Observation, sampler
from search_spaces.space import Space, round_significant


@sampler("even")
def even(space: Space, history: Sequence[Observation], num: int, seed: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    shares = rng.random((num, len(space)))
    return [
        {
            name: round_significant(axis.low * math.exp(share * math.log(axis.high / axis.low)))
            for (name, axis), share in zip(space.items(), row, strict=True)
        }
        for row in shares
    ]
