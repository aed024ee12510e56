"""Names that a user's module may add to: `module:name` places, and optimizers.

Here are an optimizer's name and kind alone. What trains, bounds or draws it has an `OptimizerTable`, and refuses an
optimizer without an entry there in one line. The entries of our own optimizers stand beside each table; a user's
module gives its own with `register_optimizer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from trainables.errors import ConfigError

Entry = TypeVar("Entry")


def open_place(place: str) -> Any:
    """What lies at `module:name`, its module imported; `ConfigError` where there is nothing."""
    module, _, name = place.partition(":")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports something that is not
        raise ConfigError(f"no module {module!r} here, and {place!r} is to be opened") from None
    if not hasattr(found, name):
        raise ConfigError(f"module {module!r} has no {name!r}, and {place!r} is to be opened")
    return getattr(found, name)


class _Registered(type):
    """Lets a class be read as the enum that it was: `for optimizer in Optimizer`, `"adam" in Optimizer`."""

    def __iter__(cls) -> Iterator[Optimizer]:
        return iter(tuple(_OPTIMIZERS.values()))

    def __len__(cls) -> int:
        return len(_OPTIMIZERS)

    def __contains__(cls, name: object) -> bool:
        return isinstance(name, str) and name in _OPTIMIZERS


class Optimizer(str, metaclass=_Registered):
    """An update rule by its name: one of equations (3.1)-(3.6), or one that a user's module has registered.

    There is one object of each name, so that `is` compares them. `OPTIMIZER_TRAITS` says what kind of rule each is.

    Args:
        name: `adam`, `adamw`, `signsgd`, `signsgdw`, or a name that `register_optimizer` has entered.

    Raises:
        ValueError: No optimizer has that name.

    Example:
        >>> from trainables import Optimizer
        >>> Optimizer.ADAM.is_coupled, Optimizer.ADAMW.is_coupled
        (True, False)
        >>> [str(rule) for rule in Optimizer if not rule.has_moments]
        ['signsgd', 'signsgdw']
    """

    __slots__ = ()
    __module__ = "trainables.config"  # where pickles look for it

    ADAM: ClassVar[Optimizer]
    ADAMW: ClassVar[Optimizer]
    SIGNSGD: ClassVar[Optimizer]
    SIGNSGDW: ClassVar[Optimizer]

    def __new__(cls, name: object) -> Optimizer:
        """The registered optimizer of that name; `ValueError` if there is none."""
        if isinstance(name, str) and name in _OPTIMIZERS:
            return _OPTIMIZERS[name]
        raise ValueError(f"{name!r} is not a valid Optimizer")

    @property
    def value(self) -> str:
        """The name as a plain string."""
        return str(self)

    @property
    def is_coupled(self) -> bool:
        """Whether the decay enters the gradient (g + lambda w) instead of shrinking the weights directly."""
        return self._traits.is_coupled

    @property
    def has_moments(self) -> bool:
        """Whether the rule keeps first and second moments."""
        return self._traits.has_moments

    @property
    def _traits(self) -> OptimizerTraits:
        return entry_of(self, OPTIMIZER_TRAITS, "whether its decay is coupled and whether it has moments")

    def __repr__(self) -> str:
        return f"<Optimizer.{self.upper()}: {str(self)!r}>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """A worker that reads a user's optimizer imports its module first."""
        if self in _PLACES:
            return _registered_in, (_PLACES[self].module, str(self))
        return Optimizer, (str(self),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's own validation of an enum, but of the names that are registered when it validates."""
        plain = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_plain_validator_function(_validated, serialization=plain)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """The names of today."""
        return {"type": "string", "enum": [str(optimizer) for optimizer in Optimizer]}


@dataclass(frozen=True, slots=True)
class OptimizerTraits:
    """What kind of rule an optimizer is; see `Optimizer` for the words."""

    is_coupled: bool
    has_moments: bool


@dataclass(frozen=True, slots=True)
class _Places:
    """A user's module, and where the optimizer that it registers has its entries, by the key of the table."""

    module: str
    entries: Mapping[str, str]


TORCH = "torch"
"""Key of the entry that names an optimizer's update rule for the engines on torch."""

_OPTIMIZERS: dict[str, Optimizer] = {}
_PLACES: dict[str, _Places] = {}
"""Of the optimizers that users' modules have registered."""


def _named(name: str) -> Optimizer:
    """Enter a name; the same object if it is there already."""
    return _OPTIMIZERS.setdefault(name, str.__new__(Optimizer, name))


Optimizer.ADAM, Optimizer.ADAMW = _named("adam"), _named("adamw")
Optimizer.SIGNSGD, Optimizer.SIGNSGDW = _named("signsgd"), _named("signsgdw")

OPTIMIZER_TRAITS: dict[Optimizer, OptimizerTraits] = {
    Optimizer.ADAM: OptimizerTraits(is_coupled=True, has_moments=True),
    Optimizer.ADAMW: OptimizerTraits(is_coupled=False, has_moments=True),
    Optimizer.SIGNSGD: OptimizerTraits(is_coupled=True, has_moments=False),
    Optimizer.SIGNSGDW: OptimizerTraits(is_coupled=False, has_moments=False),
}


def register_optimizer(
    name: str, *, is_coupled: bool, has_moments: bool, module: str, entries: Mapping[str, str] | None = None
) -> Optimizer:
    """Add an optimizer from `module` (write `module=__name__`).

    `entries` says where its rules lie, as `module:name` by the key of an `OptimizerTable`: `torch` for the engines
    on torch, `largest_step` for certificates, `look` for figures. A place is opened when it is needed first, so that
    planning loads no torch. What has no entry refuses the optimizer in one line. Raises `ConfigError` for a name that
    is taken, or that would not do as a value in results and on the command line.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"an optimizer's name has small letters, digits and _ only, got {name!r}")
    if name in _OPTIMIZERS and (name not in _PLACES or _PLACES[name].module != module):
        taken_by = _PLACES[name].module if name in _PLACES else "lambda-atlas itself"
        raise ConfigError(f"an optimizer named {name!r} is registered by {taken_by}: choose another name")
    optimizer = _named(name)
    OPTIMIZER_TRAITS[optimizer] = OptimizerTraits(is_coupled, has_moments)
    _PLACES[name] = _Places(module, dict(entries or {}))
    return optimizer


class OptimizerTable(Generic[Entry]):
    """What an engine (or whatever else needs more than the kind of rule) has for each optimizer that it takes.

    `own` has the entries of our optimizers; a user's are looked up under `key` among what is registered. `what` is the
    entry in words, for the refusal.
    """

    def __init__(self, key: str, what: str, own: Mapping[Optimizer, Entry]) -> None:
        self._key, self._what, self._own = key, what, own

    def __contains__(self, optimizer: Optimizer) -> bool:
        return optimizer in self._own or self._place(optimizer) is not None

    def of(self, optimizer: Optimizer) -> Entry:
        """The optimizer's entry; raises `ConfigError` in one line where it has none."""
        place = self._place(optimizer)
        if place is None:
            return entry_of(optimizer, self._own, self._what)
        entry: Entry = open_place(place)
        return entry

    def _place(self, optimizer: Optimizer) -> str | None:
        return _PLACES[optimizer].entries.get(self._key) if optimizer in _PLACES else None


def check_torch_rule(optimizer: Optimizer) -> None:
    """Raise `ConfigError` if a user's module has registered the optimizer without an update rule in torch.

    The rule itself is not opened: planning loads no torch.
    """
    if optimizer in _PLACES and TORCH not in _PLACES[optimizer].entries:
        raise ConfigError(
            f"optimizer {str(optimizer)!r} has no update rule: its register_optimizer in {_PLACES[optimizer].module} "
            'needs entries={"torch": "module:function"}'
        )


def entry_of(optimizer: Optimizer, table: Mapping[Optimizer, Entry], what: str) -> Entry:
    """The optimizer's entry in a table; raises `ConfigError`, which names `what` is missing."""
    if optimizer not in table:
        raise ConfigError(f"optimizer {str(optimizer)!r} has no entry for {what} (known: {', '.join(sorted(table))})")
    return table[optimizer]


def _registered_in(module: str, name: str) -> Optimizer:
    """The optimizer that importing `module` registers."""
    import_module(module)
    return Optimizer(name)


def _validated(name: Any) -> Optimizer:
    if name in Optimizer:
        return Optimizer(name)
    *others, last = (repr(str(optimizer)) for optimizer in Optimizer)
    raise PydanticKnownError("enum", {"expected": f"{', '.join(others)} or {last}"})
