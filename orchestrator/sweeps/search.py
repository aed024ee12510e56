"""The interface between a sweep and its kinds of search."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, Self


class Search(Protocol):
    """Says how the cells of a sweep are searched; a frozen value that is given cells, never the sweep itself.

    `schedulers.scheduler_of` chooses the scheduler of a search, `report.presentations` how its results are shown.
    """

    @property
    def space(self) -> Mapping[str, Mapping[str, Any]]:
        """The searched fields of each optimizer, with their axes."""
        ...

    def check(self, name: str, seeds: Collection[int], error: str) -> None:
        """Raise `SweepError` if this search cannot use these seeds or this error; `name` is the sweep's."""
        ...

    def check_seeds_are_free(self, name: str) -> None:
        """Raise `SweepError` if a launch cannot choose the seeds; `name` is the sweep's."""
        ...

    def middle(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """A representative point of the cell's space, used only for validation and cost."""
        ...

    def with_values(self, name: str, values: tuple[Any, ...]) -> Self:
        """The search for cells in which a field has these values."""
        ...

    def num_trials(self, cells: Sequence[Mapping[str, Any]], num_seeds: int) -> int:
        """Number of trials that the search has at least."""
        ...

    def seeds_text(self, seeds: Sequence[int]) -> str:
        """What `launch plan` prints about the seeds."""
        ...
