"""Plans, runs, records and analyses sweeps; the only package that imports the other two.

The names listed here are public. Our own modules import them from where they are defined, never from here.
"""

from importlib import import_module

TYPE_CHECKING = False  # as a type checker reads it; importing `typing` is time in which no signal is heeded
if TYPE_CHECKING:
    from orchestrator.analysis.pairs import paired_difference as paired_difference
    from orchestrator.driver.options import RunOptions as RunOptions
    from orchestrator.driver.run import run_sweep as run_sweep
    from orchestrator.ledger.ledger import Ledger as Ledger
    from orchestrator.sweeps.claim_rule import ClaimRule as ClaimRule
    from orchestrator.sweeps.halving_search import HalvingSearch as HalvingSearch
    from orchestrator.sweeps.map_search import MapSearch as MapSearch
    from orchestrator.sweeps.registry import sweep as sweep
    from orchestrator.sweeps.value import Grid as Grid
    from orchestrator.sweeps.value import Sweep as Sweep

_PLACES = {
    "paired_difference": "orchestrator.analysis.pairs",
    "RunOptions": "orchestrator.driver.options",
    "run_sweep": "orchestrator.driver.run",
    "Ledger": "orchestrator.ledger.ledger",
    "ClaimRule": "orchestrator.sweeps.claim_rule",
    "HalvingSearch": "orchestrator.sweeps.halving_search",
    "MapSearch": "orchestrator.sweeps.map_search",
    "sweep": "orchestrator.sweeps.registry",
    "Grid": "orchestrator.sweeps.value",
    "Sweep": "orchestrator.sweeps.value",
}
"""The module of each public name, imported when the name is first used: `import orchestrator` alone loads nothing."""

__all__ = tuple(_PLACES)

if not TYPE_CHECKING:  # a type checker reads the imports above instead, and reports any other name

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
