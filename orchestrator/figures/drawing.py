"""Draws figures by name from the ledger's two tables alone; `draw` writes one as PNG and PDF.

Means are over trials whose error rate means something (`analysis.cells.is_measured`); the other trials have marks that
show their outcomes. Once this module is imported, `FIGURES` has every figure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.figures import settings  # isort: skip  # noqa: F401 (imports matplotlib, or says why it cannot)
from matplotlib.figure import Figure

from orchestrator.analysis.error_rates import judged_by
from orchestrator.errors import UserError, unknown_name
from orchestrator.figures import error_curves, maps, training_dynamics  # noqa: F401 (registers their figures)
from orchestrator.figures.files import add_line, write
from orchestrator.figures.registry import FIGURES, FigureInput, FigureSpec
from orchestrator.figures.style import look_of, our_style
from orchestrator.sweeps.value import Sweep
from trainables.config import Optimizer
from trainables.result import SATISFYING


def check(sweep: Sweep) -> None:
    """Raise `UserError` for a figure that the sweep cannot have, or an optimizer that no figure can draw."""
    for name in sweep.figures:
        fitting = [known for known, spec in FIGURES.items() if spec.fault_of(sweep) is None]
        if name not in FIGURES:
            raise UserError(unknown_name("figure", name, fitting))
        if fault := FIGURES[name].fault_of(sweep):
            raise UserError(f"{fault} (it can have: {', '.join(sorted(fitting))})")
    used = {cell["optimizer"] for grid in sweep.grids for cell in grid.cells()} if sweep.figures else set()
    for optimizer in Optimizer:
        if optimizer in used:
            look_of(optimizer)


def figures_of(sweep: Sweep) -> list[FigureSpec]:
    """The figures that the sweep names."""
    check(sweep)
    return [FIGURES[name] for name in sweep.figures]


def draw(name: str, given: FigureInput, folder: Path, note: str = "") -> list[Path]:
    """Write the figure as `folder`/name.png and .pdf, each in one rename; write nothing if there is nothing to draw.

    `note` is a line below the caption, such as how the trials were selected. Raises `UserError` for an unknown name.
    """
    figure = drawn(name, given)
    return [] if figure is None else write(figure, name, folder, note)


def drawn(name: str, given: FigureInput) -> Figure | None:
    """The figure of the settled trials, in the common style; None if no trial is settled or it has nothing to draw.

    Raises `UserError` for an unknown name, and for a function that returns anything else.
    """
    if name not in FIGURES:
        raise UserError(unknown_name("figure", name, FIGURES))
    spec = FIGURES[name]
    # Sums round by their order: rows in another order must not give another file.
    settled = given.trials[given.trials["outcome"].isin(SATISFYING)].sort_values("trial_id", ignore_index=True)
    if settled.empty:
        return None
    of_settled = given.traces[given.traces["trial_id"].isin(settled["trial_id"])]
    traces = of_settled.sort_values(["trial_id", "epoch"], ignore_index=True)
    shown = replace(given, trials=judged_by(settled, spec.error), traces=traces, error=spec.error)
    with our_style():
        figure = spec.function(shown)
        if figure is None:
            return None
        if not isinstance(figure, Figure):
            raise UserError(f"figure {name!r} must return a matplotlib Figure or None, got a {type(figure).__name__}")
        add_line(figure, spec.error.meaning)
    return figure
