"""What a sweep may look for beside its grids: the seam between a sweep and its kinds of search."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, Self


class Search(Protocol):
    """Says how the cells of a sweep are searched; a frozen value that knows cells, and never the sweep itself.

    `schedulers.scheduler_of` says which scheduler trains what a search asks, `report.presentations` how it is shown.
    """

    @property
    def space(self) -> Mapping[str, Mapping[str, Any]]:
        """For each optimizer the fields that are searched, with their axes."""
        ...

    def check(self, name: str, seeds: Collection[int], error: str) -> None:
        """Raise `SweepError` for a sweep, of that name, whose seeds or error this search cannot use."""
        ...

    def check_seeds_are_free(self, name: str) -> None:
        """Raise `SweepError` where a launch cannot choose the seeds of a sweep of that name."""
        ...

    def middle(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """A representative point of the cell's space, used for validation and cost only; any other would do."""
        ...

    def with_values(self, name: str, values: tuple[Any, ...]) -> Self:
        """The search where a field of the cells has these values."""
        ...

    def num_trials(self, cells: Sequence[Mapping[str, Any]], num_seeds: int) -> int:
        """Trials that every run of the search has."""
        ...

    def seeds_text(self, seeds: Sequence[int]) -> str:
        """What `launch plan` says of the seeds."""
        ...
