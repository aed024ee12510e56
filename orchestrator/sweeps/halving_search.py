"""What a search sweep looks for: a frozen value beside the sweep's grids, whose cells are searched one by one."""

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
    seeds, which had no part in the choice. Test images had: they are the same for every seed. The synthetic workload
    draws its test points anew for each seed.

    Args:
        space: The searched fields of each optimizer, with their axes. A cell that gives a field a value keeps it.
        rounds: Rounds in each cell.
        per_round: Points of a round.
        reduction: At each rung about one in so many points is trained on; at least 2.
        num_rungs: Epochs at which a round is thinned out, the last epoch included; each is `reduction` times the one
            before.
        seed: The seed of all points. The sweep's own seeds must not contain it.
        sampler: Name of what proposes the points (`search_spaces.samplers.registry`).

    Raises:
        SweepError: A number is too small, or the sampler unknown.

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
            raise SweepError(unknown_name("sampler", self.sampler, SAMPLERS))

    def axes(self, cell: Mapping[str, Any]) -> Space:
        """The fields that are searched in a cell."""
        optimizer = cell["optimizer"]
        if optimizer not in self.space:
            raise SweepError(
                f"no search space for optimizer {str(optimizer)!r} (known: {', '.join(sorted(self.space))})"
            )
        free = {name: axis for name, axis in self.space[optimizer].items() if name not in cell}
        if not free:
            raise SweepError(f"nothing is left to search: {', '.join(self.space[optimizer])} have values already")
        return free

    def middle(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The cell with the middle of each axis: a representative point, used for validation and cost only."""
        return {**cell, **{name: (axis.low * axis.high) ** 0.5 for name, axis in self.axes(cell).items()}}

    def rungs(self, num_epochs: int) -> tuple[int, ...]:
        """Epochs of the rungs of a trial that ends after `num_epochs`."""
        return rung_epochs(num_epochs, self.reduction, self.num_rungs)

    def check(self, name: str, seeds: Collection[int], error: str) -> None:
        """Raise `SweepError` for a sweep, of that name, whose seeds or error this search cannot use."""
        if self.seed in seeds:
            raise SweepError(
                f"{name} searches with seed {self.seed} and trains what it finds with others: "
                f"leave that one out of its seeds, got {', '.join(map(str, seeds))}"
            )
        if error.startswith("precise_"):
            raise SweepError(f"{name} searches by {error}, which is known after the last epoch alone")

    def check_seeds_are_free(self, name: str) -> None:
        """Accept other seeds: what was found is trained with the sweep's own, which a launch may choose."""

    def seeds_text(self, seeds: Sequence[int]) -> str:
        """The seeds that what was found is trained with."""
        return ", ".join(map(str, seeds))

    def with_values(self, name: str, values: tuple[Any, ...]) -> HalvingSearch:
        """The same search: a field that the cells give a value is not searched."""
        return self

    def num_trials(self, cells: Sequence[Mapping[str, Any]], num_seeds: int) -> int:
        """Trials in all, once everything is asked."""
        return len(cells) * (self.rounds * self.per_round + num_seeds)

    def key(self, cell: Mapping[str, Any]) -> str:
        """Names the search of one cell: equal settings go on with each other's recorded asks."""
        settings = {**asdict(self), "space": {name: asdict(axis) for name, axis in self.axes(cell).items()}}
        if self.sampler == _FIRST_SAMPLER:
            del settings["sampler"]  # asks of before there were others keep their names
        text = json.dumps([settings, dict(cell)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def rung_epochs(num_epochs: int, reduction: int, num_rungs: int) -> tuple[int, ...]:
    """Epochs at which a round is thinned out, rising to `num_epochs`: 3, 9, 27 for a reduction by 3."""
    return tuple(sorted({max(1, num_epochs // reduction**k) for k in range(num_rungs)}))
