"""The table of samplers that propose the points of a search, by the name in `HalvingSearch(sampler=NAME)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from search_spaces.space import Space


@dataclass(frozen=True, slots=True)
class Observation:
    """The latest result of a proposed point: its error after `epoch` epochs, its last epoch if `is_complete`."""

    params: dict[str, float]
    error: float
    epoch: int
    is_complete: bool


Propose = Callable[[Space, Sequence[Observation], int, int], list[dict[str, float]]]
"""Maps a space, all observations, a number of points and a seed to points.

Equal arguments must give equal points: a search that was killed has to propose the same points again.
"""

SAMPLERS: dict[str, Propose | str] = {"tpe": "search_spaces.samplers.tpe:propose"}
"""By name a function, or its `module:function`, which loads Optuna only when it is needed."""


def sampler(name: str) -> Callable[[Propose], Propose]:
    """Decorator that registers a function as a sampler, here or in a user's module (`--module`)."""

    def enter(propose: Propose) -> Propose:
        SAMPLERS[name] = propose
        return propose

    return enter


def sampler_named(name: str) -> Propose:
    """The sampler of that name; raises `KeyError` for an unknown one."""
    found = SAMPLERS[name]
    if isinstance(found, str):
        module, _, function = found.partition(":")
        loaded: Propose = getattr(import_module(module), function)
        return loaded
    return found
