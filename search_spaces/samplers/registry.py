"""The two tables of samplers: those that look for a best point, and those that look for a boundary.

`HalvingSearch(sampler=NAME)` names one of the first kind, `MapSearch(sampler=NAME)` one of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from numbers import Real
from typing import Any, Protocol, cast

from search_spaces.space import MixedSpace, Space

_SLACK = 1 + 1e-9
"""An end of an axis that was computed by logarithms may lie outside of it by rounding."""


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
"""By name a function, or its `module:function`, which loads Optuna when it is first called."""


def sampler(name: str) -> Callable[[Propose], Propose]:
    """Decorator that registers a function as a sampler, here or in a user's module (`--module`)."""
    return _entering(SAMPLERS, name)


def sampler_named(name: str) -> Propose:
    """The sampler of that name; raises `KeyError` for an unknown one."""
    return cast(Propose, _opened(SAMPLERS[name]))


class ProposeBoundary(Protocol):
    """Proposes `num` points that tell most about a boundary; equal arguments give equal points.

    `history` has the points of complete rounds, each with its outcomes (1 works, 0 does not, None unknown); `pending`
    the points whose outcome is not known yet. `seed` is the search's. `number` is the index of the first proposed
    point in the whole search, which distinguishes rounds with the same seed. Both are passed by keyword. The map rounds
    each value to its axis.
    """

    def __call__(
        self,
        space: Mapping[str, Any],
        history: Sequence[tuple[Mapping[str, Any], Sequence[float | None]]],
        pending: Sequence[Mapping[str, Any]],
        num: int,
        seed: int,
        number: int,
    ) -> list[dict[str, Any]]:
        """The points, as values by the names of `space`, whose axes are Optuna's distributions."""
        ...


BOUNDARY_SAMPLERS: dict[str, ProposeBoundary | str] = {"boundary": "search_spaces.samplers.boundary:propose_boundary"}
"""What `MapSearch(sampler=NAME)` means: a function, or its `module:function`."""


def boundary_sampler(name: str) -> Callable[[ProposeBoundary], ProposeBoundary]:
    """Decorator that registers a function as a sampler of maps, here or in a user's module (`--module`)."""
    return _entering(BOUNDARY_SAMPLERS, name)


def boundary_sampler_named(name: str) -> ProposeBoundary:
    """The sampler of that name; raises `KeyError` for an unknown one."""
    return cast(ProposeBoundary, _opened(BOUNDARY_SAMPLERS[name]))


def check_points(name: str, points: Sequence[Mapping[str, Any]], num: int, space: MixedSpace) -> None:
    """Raise `ValueError` unless the sampler of that name returned `num` points of the space.

    A search records what it asks, and every later launch reads that record: a wrong point must not reach it.
    """
    if not isinstance(points, Sequence) or len(points) != num:
        returned = f"{len(points)} points" if isinstance(points, Sequence) else repr(points)
        raise ValueError(f"sampler {name!r} returned {returned}, a list of {num} was asked")
    for point in points:
        if not isinstance(point, Mapping) or set(point) != set(space):
            returned = f"fields {', '.join(map(str, point))}" if isinstance(point, Mapping) else repr(point)
            raise ValueError(f"sampler {name!r} returned a point with {returned}, the space has {', '.join(space)}")
        for field, axis in space.items():
            low, high, value = axis.at(0.0), axis.at(1.0), point[field]
            if not isinstance(value, Real) or not low / _SLACK <= float(value) <= high * _SLACK:
                raise ValueError(f"sampler {name!r} returned {field}={value!r}, the axis is {low:g} to {high:g}")


def _entering(table: dict[str, Any], name: str) -> Callable[[Any], Any]:
    if not isinstance(name, str):
        raise ValueError(f'a sampler is registered under a name, as in @sampler("mine"), got {name!r}')
    return partial(_registered, table, name)


def _registered(table: dict[str, Any], name: str, function: Any) -> Any:
    """Enter the function; raises `ValueError` for another module's name, whose asks its searches would read."""
    taken = table.get(name, function)
    owner = taken.partition(":")[0] if isinstance(taken, str) else taken.__module__
    if owner != function.__module__:
        raise ValueError(f"a sampler named {name!r} is registered by {owner}: choose another name")
    table[name] = function
    return function


def _opened(entry: Any) -> Any:
    """The function of an entry, imported if it is a place."""
    if not isinstance(entry, str):
        return entry
    module, _, function = entry.partition(":")
    return getattr(import_module(module), function)
