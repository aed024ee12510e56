"""Parses the overrides of a command line: `--seeds 0-9`, `--set field=v1,v2`."""

from __future__ import annotations

import re
import types
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import SweepError, unknown_name
from search_spaces.space import round_significant
from trainables.config import TrialConfig

MAX_SEEDS = 1_000_000
"""More seeds are a typing error, and would fill the memory before any check could report it."""


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
        if issubclass(kind, str):  # an enum, or the registered optimizers
            raise SweepError(unknown_name(name, text, map(str, kind))) from None
        expected = {bool: "true or false", int: "an integer", float: "a number"}[kind]
        raise SweepError(f"{name} is {expected}, got {text!r}") from None
    # Two spellings of one number become one value, and so one trial.
    return round_significant(value) if kind is float else value


def _plain_text(text: str, kind: type) -> str:
    """The text as pydantic reads it: whole numbers such as 1e4 as digits, and only true and false as booleans."""
    if kind is bool and text.lower() not in ("true", "false"):
        return ""  # pydantic would take 1, yes and on as well
    if kind is not int or text.isdigit():
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text
