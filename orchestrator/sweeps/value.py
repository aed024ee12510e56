"""`Sweep`: one experiment as a frozen value, and its expansion to trials."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any

import numpy as np

from orchestrator.errors import ConfigError, SweepError, unknown_name
from orchestrator.sweeps.overrides import parse_seeds, parse_setting
from orchestrator.sweeps.search import Search
from search_spaces.space import round_significant
from trainables.config import Optimizer, TrialConfig
from trainables.registry import workload

SHOWN_FAULTS = 3


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid crosses every arm with every value of every axis; each combination is a cell of a sweep.

    Fields are those of the workload's config, such as `batch_size`. If several parts name one field, an axis overrides
    an arm, and an arm overrides the base. Seeds belong to the sweep.

    Args:
        arms: Optimizers, each with the fields that go with it: `{"adam": {"weight_decay": 1e-5}, "adamw": {}}`.
        axes: The values of the fields that vary.
        base: Fields that all cells share.

    Raises:
        SweepError: An arm is not a mapping, an axis is not a sequence of values, or `seed` is among the fields.

    Example:
        >>> from orchestrator import Grid
        >>> grid = Grid({"adam": {"weight_decay": 1e-5}}, axes={"batch_size": (2, 100)}, base={"num_epochs": 10})
        >>> list(grid.cells())[0]
        {'num_epochs': 10, 'optimizer': 'adam', 'weight_decay': 1e-05, 'batch_size': 2}
    """

    arms: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.arms, Mapping) or not all(isinstance(arm, Mapping) for arm in self.arms.values()):
            raise SweepError(f"arms map each optimizer to its fields, got {self.arms!r}")
        for name, values in self.axes.items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise SweepError(f"axis {name} is a tuple of values, got {values!r}")
        if any("seed" in fields for fields in (self.base, self.axes, *self.arms.values())):
            raise SweepError("seed is not a field of a grid: every cell is trained with the sweep's seeds")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Field values of each cell, without seed; the arms of one point follow each other."""
        for values in itertools.product(*self.axes.values()):
            axes = dict(zip(self.axes, values, strict=True))
            for optimizer, arm_fields in self.arms.items():
                yield {**self.base, "optimizer": optimizer, **arm_fields, **axes}

    def with_values(self, name: str, values: tuple[Any, ...]) -> Grid:
        """The grid with these values of a field, in place of those that base, arms or axes gave it."""
        arms = {arm: {k: v for k, v in arm_fields.items() if k != name} for arm, arm_fields in self.arms.items()}
        base = {k: v for k, v in self.base.items() if k != name}
        return Grid(arms, {**self.axes, name: tuple(dict.fromkeys(values))}, base)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep is one experiment: the cells of its grids, each trained with every seed, and the figures of them.

    It is a value: `with_overrides` and `dataclasses.replace` make variants. Sweeps share results, since a trial's id
    depends only on its config. `configs` expands the sweep, and raises `ConfigError` with the faults of all trials.

    Args:
        name: Names the sweep on the command line, in MLflow and in figures' files. It is the name of
            the function that `@sweep` registers.
        title: Title of the sweep's tables and figures.
        grids: The cells. A cell that is in several grids is trained once.
        seeds: Seeds of every cell; five by default, as in the paper's figures 7 and 8. A map search chooses its own.
        figures: Names of the figures (`orchestrator.figures`) to draw at the end.
        workload: Name of what is trained, such as `two_layer_cnn`, `sign_agreement` or `image_classifier`.
        search: A search for the values that the cells leave open. None trains the cells as they are.
        best_over: Fields, such as the learning rate, whose best value in each cell the figures show. The table shows
            all values.
        error: The column of the results that `best_over` and a halving search minimize.
        accepts_certificates: Whether a trial that is provably stuck stops early. One such trial in ten
            continues, as an audit.

    Raises:
        SweepError: A field that holds several values is not a tuple or list, or the search cannot use these seeds or
            this error.

    Example:
        >>> from orchestrator import Grid, Sweep
        >>> arms = {"adam": {"weight_decay": 1e-5}, "adamw": {"weight_decay": 1e-2}}
        >>> grid = Grid(arms, axes={"batch_size": (2, 20, 200)})
        >>> sweep = Sweep("sizes", "Error against batch size", (grid,), seeds=(0, 1))
        >>> sweep.num_trials
        12
        >>> sweep.with_overrides(["batch_size=20"], seeds="0-9").num_trials
        20
    """

    name: str
    title: str
    grids: tuple[Grid, ...]
    _: KW_ONLY
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    figures: tuple[str, ...] = ()
    workload: str = "two_layer_cnn"
    search: Search | None = None
    best_over: tuple[str, ...] = ()
    error: str = "test_error"
    accepts_certificates: bool = False
    _expanded: list[tuple[TrialConfig, ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The trials, once `configs` has made them: a launch asks three times, and a million trials take a minute."""

    def __post_init__(self) -> None:
        for field_name in ("grids", "seeds", "figures", "best_over"):
            if not isinstance(getattr(self, field_name), tuple | list | range):
                raise SweepError(f"{field_name} of {self.name} is a tuple, got {getattr(self, field_name)!r}")
        object.__setattr__(self, "seeds", tuple(dict.fromkeys(self.seeds)))  # a seed given twice counts once
        if self.search is not None:
            self.search.check(self.name, self.seeds, self.error)

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials, each once; `ConfigError` names each fault once. For a search, the middle of each cell's space.

        The order is stable and goes seed by seed: the first trials cover all cells with the first seed.
        """
        if not self._expanded:
            self._expanded.append(tuple(self._expand()))
        return self._expanded[0]

    def trial_ids(self) -> set[str]:
        """Ids of the trials of `configs`, of which it keeps none: each takes 2 KB."""
        return {config.trial_id for config in self._expand()}

    def _expand(self) -> Iterator[TrialConfig]:
        self._check_columns()
        trial_ids: set[str] = set()
        optimizers: set[Optimizer] = set()
        faults: dict[str, None] = {}
        for seed, grid in itertools.product(self.seeds, self.grids):
            for cell in grid.cells():
                cell = cell if self.search is None else self.search.middle(cell)
                try:
                    config = make_trial(self.workload, {**cell, "seed": seed})
                except ConfigError as error:
                    faults[str(error)] = None
                else:
                    if config.trial_id not in trial_ids:
                        trial_ids.add(config.trial_id)
                        optimizers.add(config.optimizer)
                        yield config
        if faults:
            more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
            raise ConfigError(f"{self.name}: {'; '.join(list(faults)[:SHOWN_FAULTS])}{more}")
        if not trial_ids:
            raise SweepError(f"{self.name} has no trials: arms, every axis and the seeds need at least one value")
        self._check_optimizers(optimizers)

    def _check_columns(self) -> None:
        """Check `best_over` and `error` now: they are read only after training, too late to report a typing error."""
        found = workload(self.workload)
        for name in self.best_over:
            if name not in found.config_type.model_fields:
                raise SweepError(
                    f"{self.name}: best_over: {unknown_name('field', name, found.config_type.model_fields)}"
                )
        errors = [column.name for column in fields(found.trace_point_type) if "error" in column.name]
        if self.error not in errors:
            raise SweepError(f"{self.name}: {unknown_name('error', self.error, errors)}")

    def _check_optimizers(self, optimizers: Collection[Optimizer]) -> None:
        found = workload(self.workload)
        for optimizer in sorted(optimizers):
            try:
                found.check_rule(optimizer)
            except ConfigError as fault:
                raise ConfigError(f"{self.name}: {fault}") from None
            if self.accepts_certificates:
                try:
                    found.check_certificates(optimizer)
                except ConfigError as fault:
                    raise ConfigError(f"{self.name} cannot accept certificates: {fault}") from None

    @property
    def num_trials(self) -> int:
        """Total number of trials; a search counts those it will ask (a map, those it asks at least)."""
        if self.search is None:
            return len(self.configs())
        return self.search.num_trials(self.cells(), len(self.seeds))

    def cells(self) -> list[dict[str, Any]]:
        """Field values of every cell of the grids, without seed, each once."""
        cells = [cell for grid in self.grids for cell in grid.cells()]
        return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]

    def with_overrides(self, sets: Sequence[str] = (), seeds: str | None = None) -> Sweep:
        """The sweep with other values and seeds, written as on the command line.

        `field=v1,v2` gives a field these values in every cell. `field+=v1` adds the cells that `field=v1` would give.
        `seeds` is text such as `0-9` or `0,3,5-7`.
        """
        sweep = self
        assigned: set[str] = set()
        config_type = workload(self.workload).config_type
        given = [] if seeds is None else [("seed", parse_seeds(seeds), False)]
        for name, values, extend in [*given, *(parse_setting(text, config_type) for text in sets)]:
            if not extend and name in assigned:
                raise SweepError(f"{name} is set twice: give all its values at once, as {name}=v1,v2")
            assigned |= set() if extend else {name}
            sweep = sweep._with_setting(name, values, extend=extend)
        return sweep

    def _with_setting(self, name: str, values: tuple[Any, ...], *, extend: bool) -> Sweep:
        if name == "seed" and self.search is not None:
            self.search.check_seeds_are_free(self.name)
        if name == "seed":
            return replace(self, seeds=(*self.seeds, *values) if extend else values)
        if name == "optimizer":
            return self._with_optimizers(values, extend=extend)
        changed = tuple(grid.with_values(name, values) for grid in self.grids)
        if extend:
            return replace(self, grids=self.grids + changed)
        search = None if self.search is None else self.search.with_values(name, values)
        return replace(self, grids=changed, search=search)

    def _with_optimizers(self, values: tuple[str, ...], *, extend: bool) -> Sweep:
        """Choose among the arms; an optimizer without an arm joins every grid, without other fields."""
        known = {arm for grid in self.grids for arm in grid.arms}
        fresh: dict[str, Mapping[str, Any]] = {value: {} for value in values if value not in known}
        kept = known if extend else set(values)
        arms = ({name: arm for name, arm in grid.arms.items() if name in kept} | fresh for grid in self.grids)
        grids = (replace(grid, arms=chosen) for grid, chosen in zip(self.grids, arms, strict=True) if chosen)
        return replace(self, grids=tuple(grids))


def make_trial(workload_name: str, values: Mapping[str, Any]) -> TrialConfig:
    """One trial of a cell, with rounded numbers; raises `ConfigError` with its faults."""
    found = workload(workload_name)
    known = found.config_type.model_fields
    # Fields that only this workload has are filled in, or reported as missing, by its config.
    lacking = [name for name in TrialConfig.model_fields if known[name].is_required() and name not in values]
    if lacking and set(values) <= set(known):  # else the config reports all faults
        raise ConfigError(
            f"{values['optimizer']} has no {', '.join(lacking)} in this sweep: add it with --set {lacking[0]}=VALUE"
        )
    return found.config({name: _rounded(value) for name, value in values.items()})


def _rounded(value: Any) -> Any:
    if isinstance(value, np.floating) and not isinstance(value, float):
        value = float(str(value))  # a float32 of 0.001 means that, not the float64 nearest to it
    return round_significant(value) if isinstance(value, float) else value
