"""`Sweep`: one experiment as a frozen value, its expansion to trials, and the overrides of a command line."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, get_args

from orchestrator.errors import ConfigError, SweepError, unknown_name
from search_spaces.space import round_significant
from trainables.config import TrialConfig, make_config
from trainables.registry import workload


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of a sweep: every arm crossed with every value of every axis.

    `arms` maps an optimizer to the fields that go with it (its weight decay, say); `base` holds fields that all cells
    share, `axes` the values of those that vary. An axis wins over an arm, an arm over the base.
    """

    arms: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Field values of each cell, without seed."""
        for optimizer, coupled in self.arms.items():
            for values in itertools.product(*self.axes.values()):
                axes = dict(zip(self.axes, values, strict=True))
                yield {**self.base, "optimizer": optimizer, **coupled, **axes}

    def with_values(self, name: str, values: tuple[Any, ...], *, extend: bool) -> Grid:
        """The grid with a field's values replaced, or extended by more."""
        if not extend:
            return self._free(name, values)
        if name in self.axes:
            return self._free(name, (*self.axes[name], *values))
        if name in self.base:
            return self._free(name, (self.base[name], *values))
        present = {arm[name] for arm in self.arms.values() if name in arm}
        if len(present) != 1:
            raise SweepError(f"{name}+= extends one value, the sweep has {sorted(present) or 'none'}: use {name}=")
        return self._free(name, (*present, *values))

    def _free(self, name: str, values: tuple[Any, ...]) -> Grid:
        arms = {arm: {k: v for k, v in coupled.items() if k != name} for arm, coupled in self.arms.items()}
        base = {k: v for k, v in self.base.items() if k != name}
        return Grid(arms, {**self.axes, name: tuple(dict.fromkeys(values))}, base)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One experiment: the union of its grids, each cell with every seed; `figures` name functions of `figures.py`."""

    name: str
    title: str
    grids: tuple[Grid, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    figures: tuple[str, ...] = ()
    workload: str = "two_layer_cnn"

    def configs(self) -> tuple[TrialConfig, ...]:
        """All trials, each once, in a stable order; `ConfigError` names each fault once."""
        config_type = workload(self.workload).config_type
        trials: dict[str, TrialConfig] = {}
        faults: dict[str, None] = {}
        for grid in self.grids:
            for cell, seed in itertools.product(grid.cells(), self.seeds):
                rounded = {k: round_significant(v) if isinstance(v, float) else v for k, v in cell.items()}
                try:
                    config = make_config(config_type, {**rounded, "seed": seed})
                except ConfigError as error:
                    faults[str(error)] = None
                else:
                    trials.setdefault(config.trial_id, config)
        if faults:
            first, *others = faults
            more = f" (and {len(others)} more like it)" if others else ""
            raise ConfigError(f"{self.name}: {first}{more}")
        if not trials:
            raise SweepError(f"{self.name} has no trials: every axis and the seeds need at least one value")
        return tuple(trials.values())

    def with_overrides(self, sets: Sequence[str] = (), seeds: str | None = None) -> Sweep:
        """The sweep with `field=v1,v2` (replace) and `field+=v1` (extend) settings, and other seeds such as `0-9`."""
        sweep = self
        for text in sets:
            name, values, extend = _parse_setting(text, workload(self.workload).config_type)
            if name == "seed":
                sweep = replace(sweep, seeds=(*sweep.seeds, *values) if extend else values)
            elif name == "optimizer":
                sweep = sweep._with_optimizers(values, extend=extend)
            else:
                grids = tuple(grid.with_values(name, values, extend=extend) for grid in sweep.grids)
                sweep = replace(sweep, grids=grids)
        return sweep if seeds is None else replace(sweep, seeds=parse_seeds(seeds))

    def _with_optimizers(self, values: tuple[str, ...], *, extend: bool) -> Sweep:
        """Choose among the arms; an optimizer without one joins every grid, with no fields of its own."""
        known = {arm for grid in self.grids for arm in grid.arms}
        fresh: dict[str, Mapping[str, Any]] = {value: {} for value in values if value not in known}
        kept = known if extend else set(values)
        arms = ({name: arm for name, arm in grid.arms.items() if name in kept} | fresh for grid in self.grids)
        grids = (replace(grid, arms=chosen) for grid, chosen in zip(self.grids, arms, strict=True) if chosen)
        return replace(self, grids=tuple(grids))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of `0-9`, `3` or `0,3,5-7`; `SweepError` for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise SweepError(f"seeds are numbers and rising ranges such as 0-9 or 0,3,5-7, got {text!r}")
        seeds.extend(range(int(first), int(last or first) + 1))
    return tuple(dict.fromkeys(seeds))


def _parse_setting(text: str, config_type: type[TrialConfig]) -> tuple[str, tuple[Any, ...], bool]:
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
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int and float(text) == int(float(text)) and abs(float(text)) < 2**53 and not text.isdigit():
            return int(float(text))  # 1e4
        return kind(text)
    except (ValueError, KeyError, OverflowError):
        if issubclass(kind, StrEnum):
            raise SweepError(unknown_name(name, text, [member.value for member in kind])) from None
        expected = {bool: "true or false", int: "an integer", float: "a number"}[kind]
        raise SweepError(f"{name} is {expected}, got {text!r}") from None
