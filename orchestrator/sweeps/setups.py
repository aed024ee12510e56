"""The table of setups: which trials each named sweep has under `--workload NAME`.

The named sweeps know no workload. `paper_setups` has the paper's; a user's module adds others with `@setup`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import SweepError
from orchestrator.sweeps.search import Search
from orchestrator.sweeps.value import Grid, Sweep
from trainables.image_classifier.config import Architecture

DEFAULT = "two_layer_cnn"
"""The setup of a launch without `--workload`: the paper's synthetic model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What one named sweep trains and draws in a setup; the fields are those of `Sweep`."""

    grids: tuple[Grid, ...]
    figures: tuple[str, ...] = ()
    search: Search | None = None
    error: str = "test_error"
    best_over: tuple[str, ...] = ()
    accepts_certificates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A workload, and what each named sweep trains on it.

    Args:
        workload: A name in `trainables.registry`.
        experiments: By the sweep's name: `grid_bsz`, `map_wd`, ... The setup refuses a sweep that is missing here.
    """

    workload: str
    experiments: Mapping[str, Experiment]


SetupFunction = Callable[[], Setup]

SETUPS: dict[str, SetupFunction] = {}
"""Functions that make a setup, by the name that `--workload` gives."""


def setup(name: str) -> Callable[[SetupFunction], SetupFunction]:
    """Register a function that returns a setup: after `@setup("mine")`, `launch grid_bsz --workload mine` works.

    Raises `SweepError` for a name that another module has registered.
    """
    if not isinstance(name, str):
        raise SweepError(f'a setup is registered under a name, as in @setup("mine"), got {name!r}')

    def enter(function: SetupFunction) -> SetupFunction:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise SweepError(f"a setup's name is a small letter, then small letters, digits and _, got {name!r}")
        if name.rpartition("_")[2] in tuple(Architecture):
            raise SweepError(f"a setup named {name!r} would hide images: choose a name that ends in no architecture")
        if name in SETUPS and SETUPS[name].__module__ != function.__module__:
            raise SweepError(f"a setup named {name!r} is registered by {SETUPS[name].__module__}: choose another name")
        SETUPS[name] = function
        return function

    return enter


def sweep_in(made: Setup, setup_name: str, name: str, title: str, search: type[Search] | None = None) -> Sweep:
    """The named sweep in a setup; every setup but the default appends its own name to the sweep's name and title.

    Raises `SweepError` if the setup has no such experiment, or one with another kind of search than the sweep's.
    """
    if not isinstance(made, Setup):
        raise SweepError(f"the function of setup {setup_name} must return a Setup, got {made!r}")
    if name not in made.experiments:
        raise SweepError(f"workload {setup_name} has no {name} (it has: {', '.join(sorted(made.experiments))})")
    found = made.experiments[name]
    if not isinstance(found, Experiment):
        raise SweepError(f"{name} of setup {setup_name} must be an Experiment, got {found!r}")
    if not isinstance(found.search, search or type(None)):
        wanted = "no search" if search is None else f"a {search.__name__} as its search"
        raise SweepError(f"{name} of setup {setup_name} must have {wanted}, got {found.search!r}")
    return Sweep(
        name if setup_name == DEFAULT else f"{name}_{setup_name}",
        title if setup_name == DEFAULT else f"{title}: {setup_name}",
        found.grids,
        figures=found.figures,
        workload=made.workload,
        search=found.search,
        error=found.error,
        best_over=found.best_over,
        accepts_certificates=found.accepts_certificates,
    )
