"""`MapSearch`: which cells of a sweep a map judges, and where it searches for boundaries."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from orchestrator.errors import SweepError, unknown_name
from orchestrator.sweeps.claim_rule import ClaimRule
from search_spaces.samplers.registry import BOUNDARY_SAMPLERS
from search_spaces.space import MixedSpace

_FIRST_SAMPLER = "boundary"


@dataclass(frozen=True, slots=True)
class MapSearch:
    """A map search finds where each optimizer works: verdicts for cells, and boundaries through a space.

    Claims: a cell of the sweep's grids that gives every field of `space` a value is judged as `rule` says, from seeds
    that belong to this cell alone. Boundaries: for each optimizer and each setting of the other fields, single trials
    are placed where they are most informative about the boundary P(works) = 1/2.

    Args:
        space: The fields of the map with their axes, for each optimizer. All optimizers have the same fields.
        rule: When a trial works, and how surely a cell is judged.
        lines: Lines through the space that get an additional boundary search, each as fields with values:
            `{"batch_size": 2}`.
        rounds: Number of rounds of each boundary search over the whole space. 0 omits it.
        per_round: Number of trials in each round.
        line_rounds: Number of rounds of the boundary search on each line. 0 omits it.
        scaling: A field x of the space, to fit the exponent k of lambda_max ~ x^k. For x = sigma_0 the theory of Adam
            says k = q - 2 (corollaries 4.3 and 4.6). None fits no exponent.
        num_steps: Optimizer steps of a trial whose cell gives no `num_epochs`. None leaves the workload's default.
        max_epochs: Largest number of epochs that `num_steps` may give a trial.
        sampler: Name of what proposes the boundary's trials (`search_spaces.samplers.registry`).

    Raises:
        SweepError: A number is too small, the sampler is unknown, optimizers have different fields, or a line names no
            field of the space.

    Example:
        >>> from orchestrator import ClaimRule, Grid, MapSearch, Sweep
        >>> from search_spaces import LogIntegers, LogUniform
        >>> space = {"batch_size": LogIntegers((2, 20, 200)), "weight_decay": LogUniform(1e-6, 1e2)}
        >>> search = MapSearch({"adam": space, "adamw": space}, ClaimRule(min_seeds=8), rounds=3, per_round=4)
        >>> grid = Grid({"adam": {}, "adamw": {}}, axes={"batch_size": (2, 200), "weight_decay": (1e-5, 1e-2)})
        >>> sweep = Sweep("where", "Where each optimizer works", (grid,), search=search)
        >>> sweep.num_trials  # 8 cells of 8 seeds, and 2 boundaries of 3 rounds
        88
    """

    space: Mapping[str, MixedSpace]
    rule: ClaimRule = field(default_factory=ClaimRule)
    lines: tuple[Mapping[str, Any], ...] = ()
    _: KW_ONLY
    rounds: int = 10
    per_round: int = 8
    line_rounds: int = 8
    scaling: str | None = None
    num_steps: int | None = None
    max_epochs: int = 10_000
    sampler: str = _FIRST_SAMPLER

    def __post_init__(self) -> None:
        if min(self.rounds, self.line_rounds) < 0 or self.per_round < 1 or self.max_epochs < 1:
            raise SweepError(f"a map needs rounds, line_rounds >= 0 and per_round, max_epochs >= 1, got {self}")
        if self.sampler not in BOUNDARY_SAMPLERS:
            raise SweepError(unknown_name("sampler", str(self.sampler), BOUNDARY_SAMPLERS))
        if not self.space or not all(isinstance(axes, Mapping) for axes in self.space.values()):
            raise SweepError(f"a map's space maps each optimizer to its fields and their axes, got {self.space!r}")
        if len({frozenset(axes) for axes in self.space.values()}) != 1:
            raise SweepError("a map needs one space with the same fields for every optimizer")
        for name in (name for line in self.lines for name in line):
            if name not in self.fields:
                raise SweepError(f"a line gives a value to a field of the space ({', '.join(self.fields)}), got {name}")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the map's space."""
        return tuple(next(iter(self.space.values())))

    def axes(self, cell: Mapping[str, Any]) -> MixedSpace:
        """The fields that a boundary search varies in a cell or line: those without a value there."""
        optimizer = cell["optimizer"]
        if optimizer not in self.space:
            raise SweepError(f"no space for optimizer {str(optimizer)!r} (known: {', '.join(sorted(self.space))})")
        return {name: axis for name, axis in self.space[optimizer].items() if name not in cell}

    def middle(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The cell at the middle of each axis: a representative point, used only for validation and cost."""
        return {**cell, **{name: axis.at(0.5) for name, axis in self.axes(cell).items()}}

    def is_claim(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell of the grids is judged: it gives every field of the space a value."""
        return all(name in cell for name in self.fields)

    def check(self, name: str, seeds: Collection[int], error: str) -> None:
        """Accept any sweep: a map uses neither the sweep's seeds nor its error."""

    def check_seeds_are_free(self, name: str) -> None:
        """Raise `SweepError`: a launch cannot choose the seeds of a map."""
        raise SweepError(f"{name} is a map: its seeds cannot be chosen, each cell gets as many as its verdict needs")

    def seeds_text(self, seeds: Sequence[int]) -> str:
        """The number of seeds that each cell gets, in words."""
        return f"{self.rule.min_seeds} to {self.rule.max_seeds} for each cell, as its verdict needs"

    def boundaries(self, cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
        """Each setting (optimizer included) that has a boundary search, alone and on each line, and its rounds."""
        settings = [{k: v for k, v in cell.items() if k not in self.fields} for cell in cells]
        for setting in (s for i, s in enumerate(settings) if s not in settings[:i]):
            yield setting, self.rounds
            yield from (({**setting, **line}, self.line_rounds) for line in self.lines)

    def with_values(self, name: str, values: tuple[Any, ...]) -> MapSearch:
        """The map with a field of its space limited to these values or their range, as the judged cells are.

        A weight decay's axis stays as it is: each optimizer has its own range. Lines at other values are dropped.
        Raises `SweepError` for fewer than two positive values.
        """
        if name not in self.fields:
            return self
        positive = tuple(sorted({value for value in values if value > 0}))
        if len(positive) < 2:
            raise SweepError(f"a map needs two or more positive values of {name}, got {', '.join(map(str, values))}")
        spaces = {
            optimizer: {**axes, name: axes[name].within(positive) if name != "weight_decay" else axes[name]}
            for optimizer, axes in self.space.items()
        }
        lines = tuple(line for line in self.lines if line.get(name, positive[0]) in positive)
        return replace(self, space=spaces, lines=lines)

    def num_trials(self, cells: Sequence[Mapping[str, Any]], num_seeds: int) -> int:
        """Number of trials that the map has at least: claims may add seeds."""
        claims = sum(self.is_claim(cell) for cell in cells) * self.rule.min_seeds
        return claims + sum(rounds * self.per_round for _, rounds in self.boundaries(cells))

    def lines_of(self, cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each line, with the fields that the trials on it share: setting, optimizer and the line's values."""
        for setting, _ in self.boundaries(cells):
            line = {name: setting[name] for name in self.fields if name in setting}
            if line:
                yield line, setting

    def completed(self, values: Mapping[str, Any], num_train: int) -> dict[str, Any]:
        """The values, with the `num_epochs` that `num_steps` implies if they give none."""
        if self.num_steps is None or "num_epochs" in values:
            return dict(values)
        epochs = math.ceil(self.num_steps * values["batch_size"] / num_train)
        return {**values, "num_epochs": min(epochs, self.max_epochs)}

    def space_key(self, cell: Mapping[str, Any], **more: Any) -> str:
        """The id of a setting's space, equal for all rules: maps with other thresholds share their first trials."""
        axes = {name: str(axis) for name, axis in self.axes(cell).items()}
        if self.sampler != _FIRST_SAMPLER:  # recorded asks of the first sampler keep their names
            more = {**more, "sampler": self.sampler}
        text = json.dumps(["map", axes, dict(cell), more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def key(self, cell: Mapping[str, Any], **more: Any) -> str:
        """The id of a setting's boundary search; a map with more rounds continues the recorded asks of one with fewer.

        The thresholds of a trial that works decide where a boundary is, so other thresholds make another search.
        """
        rule = self.rule
        thresholds = (rule.max_train_error, rule.max_test_error, rule.max_loss_share)
        return self.space_key(cell, **more, thresholds=thresholds)
