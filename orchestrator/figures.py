"""The figures, drawn from the ledger's two tables alone; `draw` writes one as PNG and PDF, byte for byte reproducibly.

Means are over trials whose error rate means something (`analysis.is_measured`); the others are drawn as what they are.
`FIGURES` has all of them once this module is imported.
"""

from __future__ import annotations

import io
import uuid
from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from orchestrator import dynamics_figures, error_figures, map_figures  # noqa: F401 (they enter their figures)
from orchestrator.error_kinds import judged_by
from orchestrator.errors import UserError, unknown_name
from orchestrator.figure_style import STYLE, look_of
from orchestrator.figure_table import FIGURES, FigureInput, FigureSpec
from orchestrator.sweep import Sweep
from trainables.config import Optimizer
from trainables.result import SATISFYING

_DPI = 200


def check(sweep: Sweep) -> None:
    """Raise `UserError` for a figure that the sweep cannot have, or an optimizer that no figure can draw."""
    for name in sweep.figures:
        fitting = [known for known, spec in FIGURES.items() if spec.fault_of(sweep) is None]
        if name not in FIGURES:
            raise UserError(unknown_name("figure", name, fitting))
        if fault := FIGURES[name].fault_of(sweep):
            raise UserError(f"{fault} (known for it: {', '.join(sorted(fitting))})")
    used = {cell["optimizer"] for grid in sweep.grids for cell in grid.cells()} if sweep.figures else set()
    for optimizer in Optimizer:
        if optimizer in used:
            look_of(optimizer)


def figures_of(sweep: Sweep) -> list[FigureSpec]:
    """The figures that the sweep names."""
    check(sweep)
    return [FIGURES[name] for name in sweep.figures]


def draw(name: str, given: FigureInput, folder: Path, note: str = "") -> list[Path]:
    """Write the figure as `folder`/name.png and .pdf, each in one rename; nothing where nothing is to be drawn.

    `note` is a line below the caption: what the trials are a selection of, say. Raises `UserError` for an unknown name.
    """
    figure = drawn(name, given)
    return [] if figure is None else _write(figure, name, folder, note)


def drawn(name: str, given: FigureInput) -> Figure | None:
    """The figure of the trials that are settled, in our style; raises `UserError` for an unknown name."""
    if name not in FIGURES:
        raise UserError(unknown_name("figure", name, FIGURES))
    spec = FIGURES[name]
    # Sums round by their order: rows in another order must not give another file.
    settled = given.trials[given.trials["outcome"].isin(SATISFYING)].sort_values("trial_id", ignore_index=True)
    traces = given.traces.sort_values(["trial_id", "epoch"], ignore_index=True)
    shown = replace(given, trials=judged_by(settled, spec.error), traces=traces, error=spec.error)
    with rc_context(STYLE):
        figure = spec.function(shown)
        if figure is not None:
            _add_line(figure, spec.error.meaning)
    return figure


def _write(figure: Figure, name: str, folder: Path, note: str) -> list[Path]:
    _add_line(figure, note)
    folder.mkdir(parents=True, exist_ok=True)
    png = _save(figure, folder / f"{name}.png")
    figure.set_layout_engine("none")  # laid out once: computing it again would double the time
    return [png, _save(figure, folder / f"{name}.pdf")]


def _add_line(figure: Figure, text: str) -> None:
    """Below the caption."""
    if text:
        figure.supxlabel(f"{figure.get_supxlabel()}\n{text}", fontsize=8.5, color="0.35")


def _save(figure: Figure, path: Path) -> Path:
    # No time stamps and no versions: equal data give equal files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    suffix = path.suffix[1:]
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=_DPI, metadata=metadata[suffix])
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
