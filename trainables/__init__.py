"""The code that runs on a worker: trial configs, workloads and their engines. It knows no sweeps and needs no Ray.

The names listed here are public. The project's own modules import them from where they are defined, never from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.config import Optimizer as Optimizer
    from trainables.config import TrialConfig as TrialConfig
    from trainables.contract import Member as Member
    from trainables.contract import Workload as Workload
    from trainables.registry import config_from_values as config_from_values
    from trainables.registry import workload as workload
    from trainables.result import Outcome as Outcome
    from trainables.result import TrialResult as TrialResult
    from trainables.tune_trainable import PackTrainable as PackTrainable

_PLACES = {
    "Optimizer": "trainables.config",
    "TrialConfig": "trainables.config",
    "Member": "trainables.contract",
    "Workload": "trainables.contract",
    "config_from_values": "trainables.registry",
    "workload": "trainables.registry",
    "Outcome": "trainables.result",
    "TrialResult": "trainables.result",
    "PackTrainable": "trainables.tune_trainable",
}
"""Each public name's module, imported when the name is first asked for: `import trainables` alone loads nothing."""

__all__ = tuple(_PLACES)

if not TYPE_CHECKING:  # type checkers read the imports above and know that no other names exist

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
