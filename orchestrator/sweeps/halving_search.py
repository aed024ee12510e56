"""`HalvingSearch`: how each cell of a sweep is searched for its best values by successive halving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any

from orchestrator.errors import SweepError, unknown_name
from search_spaces.samplers.registry import SAMPLERS
from search_spaces.space import Space

_FIRST_SAMPLER = "tpe"


@dataclass(frozen=True, slots=True)
class HalvingSearch:
    """A halving search looks for each optimizer's best values in every cell, and stops bad points early.

    In each cell it asks `rounds` rounds of points, all with one seed. It then trains the best point with the sweep's
    seeds, which had no part in the choice. The test images did have a part, since they are the same for every seed; the
    synthetic workload samples new test points for each seed.

    Args:
        space: The searched fields of each optimizer, with their axes. Fields that a cell gives values are not searched.
        rounds: Number of rounds in each cell.
        per_round: Number of points in each round.
        reduction: Each rung promotes about one in `reduction` points; at least 2.
        num_rungs: Number of epochs at which points are compared, the last epoch included. Each is `reduction` times the
            one before.
        seed: The seed of all points. The sweep's own seeds must not contain it.
        sampler: Name of the sampler that proposes the points (`search_spaces.samplers.registry`).

    Raises:
        SweepError: A number is too small, or the sampler is unknown.

    Example:
        >>> from orchestrator import Grid, HalvingSearch, Sweep
        >>> from search_spaces import LogUniform
        >>> space = {"weight_decay": LogUniform(1e-6, 1e1)}
        >>> search = HalvingSearch({"adam": space, "adamw": space}, rounds=2, per_round=9)
        >>> search.rungs(num_epochs=90)
        (10, 30, 90)
        >>> grid = Grid({"adam": {}, "adamw": {}}, axes={"batch_size": (20, 200)})
        >>> Sweep("best", "Each optimizer at its best", (grid,), seeds=(0, 1), search=search).num_trials
        80
    """

    space: Mapping[str, Space]
    _: KW_ONLY
    rounds: int = 4
    per_round: int = 9
    reduction: int = 3
    num_rungs: int = 3
    seed: int = 1000
    sampler: str = _FIRST_SAMPLER

    def __post_init__(self) -> None:
        if min(self.rounds, self.per_round, self.num_rungs) < 1 or self.reduction < 2:
            raise SweepError(f"a search needs rounds, per_round, num_rungs >= 1 and reduction >= 2, got {self}")
        if self.sampler not in SAMPLERS:
            raise SweepError(unknown_name("sampler", str(self.sampler), SAMPLERS))

    def axes(self, cell: Mapping[str, Any]) -> Space:
        """The fields to search in a cell, with their axes; raises `SweepError` if there are none."""
        optimizer = cell["optimizer"]
        if optimizer not in self.space:
            raise SweepError(
                f"no search space for optimizer {str(optimizer)!r} (known: {', '.join(sorted(self.space))})"
            )
        free = {name: axis for name, axis in self.space[optimizer].items() if name not in cell}
        if not free:
            raise SweepError(f"nothing to search: the cells already give {', '.join(self.space[optimizer])} values")
        return free

    def middle(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The cell at the middle of each axis: a representative point, used only for validation and cost."""
        return {**cell, **{name: (axis.low * axis.high) ** 0.5 for name, axis in self.axes(cell).items()}}

    def rungs(self, num_epochs: int) -> tuple[int, ...]:
        """Epochs of the rungs of a trial that ends after `num_epochs`."""
        return rung_epochs(num_epochs, self.reduction, self.num_rungs)

    def check(self, name: str, seeds: Collection[int], error: str) -> None:
        """Raise `SweepError` if this search cannot use these seeds or this error; `name` is the sweep's."""
        if self.seed in seeds:
            raise SweepError(
                f"{name} searches with seed {self.seed} and trains the best points with other seeds: "
                f"leave {self.seed} out of the seeds, got {', '.join(map(str, seeds))}"
            )
        if error.startswith("precise_"):
            raise SweepError(
                f"{name} searches by {error}, which is known only after the last epoch: choose another error"
            )

    def check_seeds_are_free(self, name: str) -> None:
        """Accept other seeds: a launch may choose the seeds that the best points are trained with."""

    def seeds_text(self, seeds: Sequence[int]) -> str:
        """The seeds that the best points are trained with."""
        return ", ".join(map(str, seeds))

    def with_values(self, name: str, values: tuple[Any, ...]) -> HalvingSearch:
        """The same search: `axes` already leaves out a field that the cells give a value."""
        return self

    def num_trials(self, cells: Sequence[Mapping[str, Any]], num_seeds: int) -> int:
        """Total number of trials, once every round has been asked."""
        return len(cells) * (self.rounds * self.per_round + num_seeds)

    def key(self, cell: Mapping[str, Any]) -> str:
        """The id of one cell's search: searches with equal settings continue each other's recorded asks."""
        settings = {**asdict(self), "space": {name: asdict(axis) for name, axis in self.axes(cell).items()}}
        if self.sampler == _FIRST_SAMPLER:
            del settings["sampler"]  # asks recorded before there were other samplers keep their ids
        text = json.dumps([settings, dict(cell)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def rung_epochs(num_epochs: int, reduction: int, num_rungs: int) -> tuple[int, ...]:
    """Epochs of the rungs, rising to `num_epochs`: 3, 9, 27 for 27 epochs, a reduction by 3 and three rungs."""
    return tuple(sorted({max(1, num_epochs // reduction**k) for k in range(num_rungs)}))
