"""Names that a user's module can extend: optimizers, and the `module:name` places from which objects are imported.

This module knows only an optimizer's name and kind. Code that trains, bounds or draws optimizers has an
`OptimizerTable`, and rejects an optimizer without an entry in one line. The entries of the built-in optimizers are
defined with each table; a user's module gives its entries to `register_optimizer`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from trainables.errors import ConfigError

Entry = TypeVar("Entry")


def open_place(place: str) -> Any:
    """Import the object at `module:name`; raises `ConfigError` if it does not exist."""
    module, _, name = place.partition(":")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but one that it imports does not
        raise ConfigError(f"cannot open {place!r}: no module {module!r} can be imported here") from None
    if not hasattr(found, name):
        raise ConfigError(f"cannot open {place!r}: module {module!r} has no {name!r}")
    return getattr(found, name)


class _Registered(type):
    """Lets a class be used like an enum: `for optimizer in Optimizer`, `"adam" in Optimizer`."""

    def __iter__(cls) -> Iterator[Optimizer]:
        return iter(tuple(_OPTIMIZERS.values()))

    def __len__(cls) -> int:
        return len(_OPTIMIZERS)

    def __contains__(cls, name: object) -> bool:
        return isinstance(name, str) and name in _OPTIMIZERS


class Optimizer(str, metaclass=_Registered):
    """An update rule by name: one of equations (3.1)-(3.6), or a rule that a user's module has registered.

    Each name has one object, so `is` compares optimizers. `OPTIMIZER_TRAITS` says what kind of rule each is.

    Args:
        name: `adam`, `adamw`, `signsgd`, `signsgdw`, or a name registered with `register_optimizer`.

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
        """The registered optimizer of that name; raises `ValueError` for an unknown name."""
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
        """Unpickling a user's optimizer on a worker first imports the module that registers it."""
        if self in _PLACES:
            return _registered_in, (_PLACES[self].module, str(self))
        return Optimizer, (str(self),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate as pydantic does an enum, but against the names registered at the time of validation."""
        plain = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_plain_validator_function(_validated, serialization=plain)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """The names registered so far."""
        return {"type": "string", "enum": [str(optimizer) for optimizer in Optimizer]}


@dataclass(frozen=True, slots=True)
class OptimizerTraits:
    """What kind of rule an optimizer is; `Optimizer` explains the fields."""

    is_coupled: bool
    has_moments: bool


@dataclass(frozen=True, slots=True)
class _Places:
    """The user's module that registers an optimizer, and the places of the optimizer's entries by table key."""

    module: str
    entries: Mapping[str, str]


TORCH = "torch"
"""Key of the entry that names an optimizer's update rule for the engines on torch."""

_OPTIMIZERS: dict[str, Optimizer] = {}
_PLACES: dict[str, _Places] = {}
"""Only for optimizers that users' modules have registered."""


def _named(name: str) -> Optimizer:
    """Register a name; returns the same object if it is registered already."""
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

    `entries` maps the key of an `OptimizerTable` to the `module:name` of this optimizer's entry: `torch` for the
    engines on torch, `largest_step` for certificates, `look` for figures. A place is imported when it is first needed,
    so that planning does not load torch. Code whose table has no entry rejects the optimizer in one line. Raises
    `ConfigError` for a name that is taken, or unusable as a value in results and on the command line.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"an optimizer's name is a small letter, then small letters, digits and _, got {name!r}")
    if name in _OPTIMIZERS and (name not in _PLACES or _PLACES[name].module != module):
        taken_by = _PLACES[name].module if name in _PLACES else "lambda-atlas itself"
        raise ConfigError(f"an optimizer named {name!r} is registered by {taken_by}: choose another name")
    for key, place in (entries or {}).items():
        if not isinstance(place, str) or not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", place):
            raise ConfigError(f"entry {key!r} of optimizer {name!r} must be 'module:name', got {place!r}")
    optimizer = _named(name)
    OPTIMIZER_TRAITS[optimizer] = OptimizerTraits(is_coupled, has_moments)
    _PLACES[name] = _Places(module, dict(entries or {}))
    return optimizer


class OptimizerTable(Generic[Entry]):
    """What an engine, or other code that needs more than an optimizer's kind, has for each optimizer that it supports.

    `own` has the entries of the built-in optimizers. A user's optimizer is looked up under `key` in the entries that it
    was registered with. `what` describes an entry in the message for an optimizer without one.
    """

    def __init__(self, key: str, what: str, own: Mapping[Optimizer, Entry]) -> None:
        self._key, self._what, self._own = key, what, own

    def __contains__(self, optimizer: Optimizer) -> bool:
        return optimizer in self._own or self._place(optimizer) is not None

    def of(self, optimizer: Optimizer) -> Entry:
        """The optimizer's entry; raises `ConfigError` in one line if it has no entry."""
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
    if optimizer in _PLACES:
        module = _PLACES[optimizer].entries[TORCH].partition(":")[0]
        if not _is_there(module):
            raise ConfigError(f"optimizer {str(optimizer)!r} has its update rule in {module}, which cannot be imported")


def entry_of(optimizer: Optimizer, table: Mapping[Optimizer, Entry], what: str) -> Entry:
    """The optimizer's entry in a table; raises a `ConfigError` that names the missing entry by `what`."""
    if optimizer not in table:
        raise ConfigError(f"optimizer {str(optimizer)!r} has no entry for {what} (known: {', '.join(sorted(table))})")
    return table[optimizer]


def _is_there(module: str) -> bool:
    """Whether a module could be imported; of its packages only those around it are."""
    try:
        return module in sys.modules or find_spec(module) is not None
    except ImportError:
        return False


def _registered_in(module: str, name: str) -> Optimizer:
    """The optimizer that importing `module` registers."""
    import_module(module)
    return Optimizer(name)


def _validated(name: Any) -> Optimizer:
    if name in Optimizer:
        return Optimizer(name)
    *others, last = (repr(str(optimizer)) for optimizer in Optimizer)
    raise PydanticKnownError("enum", {"expected": f"{', '.join(others)} or {last}"})
