"""Defines what can vary in a sweep: axes, the paper's grids and the samplers of searches.

The names listed here are public. The project's own modules import them from where they are defined, never from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_spaces.samplers.boundary import BoundarySampler as BoundarySampler
    from search_spaces.space import Choice as Choice
    from search_spaces.space import LogIntegers as LogIntegers
    from search_spaces.space import LogUniform as LogUniform
    from search_spaces.space import decades as decades

_PLACES = {
    "BoundarySampler": "search_spaces.samplers.boundary",
    "Choice": "search_spaces.space",
    "LogIntegers": "search_spaces.space",
    "LogUniform": "search_spaces.space",
    "decades": "search_spaces.space",
}
"""Each public name's module, imported when the name is first asked for: `import search_spaces` alone loads nothing."""

__all__ = tuple(_PLACES)

if not TYPE_CHECKING:  # type checkers read the imports above and know that no other names exist

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
