"""A sampler of each kind, as a user's module would add them: points spread evenly, whatever is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_spaces.samplers.registry import Observation, boundary_sampler, sampler
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


@boundary_sampler("even")
def even_boundary(
    space: Mapping[str, Any],
    history: Sequence[tuple[Mapping[str, Any], Sequence[float | None]]],
    pending: Sequence[Mapping[str, Any]],
    num: int,
    seed: int,
    number: int,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, number])
    return [
        {name: axis.low * math.exp(rng.random() * math.log(axis.high / axis.low)) for name, axis in space.items()}
        for _ in range(num)
    ]
