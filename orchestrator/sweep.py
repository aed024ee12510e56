"""`Sweep`: one experiment as a frozen value, its expansion to trials, and the overrides of a command line."""

from __future__ import annotations

import itertools
import re
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import ConfigError, SweepError, unknown_name
from orchestrator.map_search import MapSearch
from orchestrator.search import HalvingSearch
from search_spaces.space import round_significant
from trainables.config import Optimizer, TrialConfig
from trainables.registry import workload

SHOWN_FAULTS = 3
MAX_SEEDS = 1_000_000
"""More is a slip of the keyboard, and would fill the memory before anything could say so."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of a sweep: every arm crossed with every value of every axis.

    `arms` maps an optimizer to the fields that go with it (its weight decay, say); `base` holds fields that all cells
    share, `axes` the values of those that vary. An axis wins over an arm, an arm over the base.
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
            raise SweepError("seed is no field of a grid: the sweep's seeds go with every cell")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Field values of each cell, without seed; the arms of one point stand together."""
        for values in itertools.product(*self.axes.values()):
            axes = dict(zip(self.axes, values, strict=True))
            for optimizer, coupled in self.arms.items():
                yield {**self.base, "optimizer": optimizer, **coupled, **axes}

    def with_values(self, name: str, values: tuple[Any, ...]) -> Grid:
        """The grid with these values of a field, whatever base, arms and axes said of it."""
        arms = {arm: {k: v for k, v in coupled.items() if k != name} for arm, coupled in self.arms.items()}
        base = {k: v for k, v in self.base.items() if k != name}
        return Grid(arms, {**self.axes, name: tuple(dict.fromkeys(values))}, base)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One experiment: the union of its grids, each cell with every seed; `figures` are names of figures.

    If it `accepts_certificates`, trials that are provably stuck stop early, but for the audits among them
    (`trainables.certificates`).
    Of the fields `best_over` (learning rates, say) the value of each cell with the lowest `error`, a column of the
    results, is named beside the full table, and figures show that one.
    """

    name: str
    title: str
    grids: tuple[Grid, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    figures: tuple[str, ...] = ()
    workload: str = "two_layer_cnn"
    search: HalvingSearch | MapSearch | None = None
    best_over: tuple[str, ...] = ()
    error: str = "test_error"
    accepts_certificates: bool = False
    _expanded: list[tuple[TrialConfig, ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The trials, once `configs` has made them: a launch asks three times, and a million take a minute."""

    def __post_init__(self) -> None:
        for field_name in ("grids", "seeds", "figures", "best_over"):
            if not isinstance(getattr(self, field_name), tuple | list | range):
                raise SweepError(f"{field_name} of {self.name} is a tuple, got {getattr(self, field_name)!r}")
        object.__setattr__(self, "seeds", tuple(dict.fromkeys(self.seeds)))  # a seed given twice is one
        if self.search is not None:
            self.search.check(self.name, self.seeds, self.error)

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials, each once; `ConfigError` names each fault once. Of a search the middle of each cell's space.

        The order is stable and goes seed by seed: the first trials are a whole map of the first seed.
        """
        if not self._expanded:
            self._expanded.append(self._expand())
        return self._expanded[0]

    def _expand(self) -> tuple[TrialConfig, ...]:
        self._check_columns()
        trials: dict[str, TrialConfig] = {}
        faults: dict[str, None] = {}
        for seed, grid in itertools.product(self.seeds, self.grids):
            for cell in grid.cells():
                cell = cell if self.search is None else self.search.middle(cell)
                try:
                    config = make_trial(self.workload, {**cell, "seed": seed})
                except ConfigError as error:
                    faults[str(error)] = None
                else:
                    trials.setdefault(config.trial_id, config)
        if faults:
            more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
            raise ConfigError(f"{self.name}: {'; '.join(list(faults)[:SHOWN_FAULTS])}{more}")
        if not trials:
            raise SweepError(f"{self.name} has no trials: arms, every axis and the seeds need at least one value")
        if self.accepts_certificates:
            self._check_bounds({config.optimizer for config in trials.values()})
        return tuple(trials.values())

    def _check_columns(self) -> None:
        """`best_over` and `error` are read when all has been trained: too late for a slip."""
        found = workload(self.workload)
        for name in self.best_over:
            if name not in found.config_type.model_fields:
                raise SweepError(
                    f"{self.name}: best_over: {unknown_name('field', name, found.config_type.model_fields)}"
                )
        errors = [column.name for column in fields(found.trace_point_type) if "error" in column.name]
        if self.error not in errors:
            raise SweepError(f"{self.name}: {unknown_name('error', self.error, errors)}")

    def _check_bounds(self, optimizers: Collection[Optimizer]) -> None:
        from trainables.two_layer_cnn_box import check_bound

        for optimizer in sorted(optimizers):
            try:
                check_bound(optimizer)
            except ConfigError as fault:
                raise ConfigError(f"{self.name} accepts certificates: {fault}") from None

    @property
    def num_trials(self) -> int:
        """Trials in all; of a search, those that it will have asked."""
        if self.search is None:
            return len(self.configs())
        return self.search.num_trials(self.cells(), len(self.seeds))

    def cells(self) -> list[dict[str, Any]]:
        """Field values of every cell of the grids, without seed, each once."""
        cells = [cell for grid in self.grids for cell in grid.cells()]
        return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]

    def with_overrides(self, sets: Sequence[str] = (), seeds: str | None = None) -> Sweep:
        """The sweep with other values and seeds, as the command line gives them.

        `field=v1,v2` gives a field these values in every cell. `field+=v1` adds the cells that `field=v1` has.
        `seeds` are such as `0-9` or `0,3,5-7`.
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
        """Choose among the arms; an optimizer without one joins every grid, with no fields of its own."""
        known = {arm for grid in self.grids for arm in grid.arms}
        fresh: dict[str, Mapping[str, Any]] = {value: {} for value in values if value not in known}
        kept = known if extend else set(values)
        arms = ({name: arm for name, arm in grid.arms.items() if name in kept} | fresh for grid in self.grids)
        grids = (replace(grid, arms=chosen) for grid, chosen in zip(self.grids, arms, strict=True) if chosen)
        return replace(self, grids=tuple(grids))


def make_trial(workload_name: str, values: Mapping[str, Any]) -> TrialConfig:
    """One trial of a cell, numbers rounded; `ConfigError` with its faults."""
    found = workload(workload_name)
    known = found.config_type.model_fields
    # What only this workload has, it fills in or names itself.
    lacking = [name for name in TrialConfig.model_fields if known[name].is_required() and name not in values]
    if lacking and set(values) <= set(known):  # else the config's own rules name all faults
        raise ConfigError(
            f"{values['optimizer']} has no {', '.join(lacking)} here: give one with --set {lacking[0]}=VALUE"
        )
    return found.config({name: _rounded(value) for name, value in values.items()})


def _rounded(value: Any) -> Any:
    if isinstance(value, np.floating) and not isinstance(value, float):
        value = float(str(value))  # a float32 of 0.001 means that, not the float64 nearest to it
    return round_significant(value) if isinstance(value, float) else value


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of `0-9`, `3` or `0,3,5-7`; `SweepError` for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise SweepError(f"seeds are numbers and rising ranges such as 0-9 or 0,3,5-7, got {text!r}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise SweepError(f"a sweep has at most {MAX_SEEDS:,} seeds, got {text!r}")
        seeds.extend(range(first, last + 1))
    return tuple(dict.fromkeys(seeds))


def parse_setting(text: str, config_type: type[TrialConfig]) -> tuple[str, tuple[Any, ...], bool]:
    """Field, values and whether they are added, of `field=v1,v2` or `field+=v1,v2`; `SweepError` for anything else."""
    name, equals, given = text.partition("=")
    extend = name.endswith("+")
    name = name.removesuffix("+").strip()
    if not equals or not name or not given.strip():
        raise SweepError(f"a setting is field=value[,value...] or field+=value[,...], got {text!r}")
    if name not in config_type.model_fields or name == "workload":
        known = [known for known in config_type.model_fields if known != "workload"]
        raise SweepError(unknown_name("field", name, known))
    return name, tuple(_parse_value(name, value.strip(), config_type) for value in given.split(",")), extend


def _parse_value(name: str, text: str, config_type: type[TrialConfig]) -> Any:
    """A value of the field's declared type."""
    declared = config_type.model_fields[name].annotation
    kinds = get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    if text.lower() == "none" and type(None) in kinds:
        return None
    kind: Any = next(k for k in kinds if k is not type(None))
    try:
        value = TypeAdapter(kind).validate_strings(_plain_text(text, kind))
    except ValidationError:
        if issubclass(kind, StrEnum):
            raise SweepError(unknown_name(name, text, [member.value for member in kind])) from None
        expected = {bool: "true or false", int: "an integer", float: "a number"}[kind]
        raise SweepError(f"{name} is {expected}, got {text!r}") from None
    # Two texts of one number are one value, as they name one trial.
    return round_significant(value) if kind is float else value


def _plain_text(text: str, kind: type) -> str:
    """The text for pydantic to read: whole numbers such as 1e4 in digits, and no truth values but true and false."""
    if kind is bool and text.lower() not in ("true", "false"):
        return ""  # pydantic would take 1, yes and on as well
    if kind is not int or text.isdigit():
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text
