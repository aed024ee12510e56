"""The figures, drawn from the ledger's two tables alone; `draw` writes one as PNG and PDF, byte for byte reproducibly.

`trials` has one row a trial (`TrialResult.trial_row`), `traces` one row a trial and epoch (`TrialResult.trace_rows`).
Means are over trials whose error rate means something (`analysis.is_measured`); the others are drawn as what they are.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Protocol

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from orchestrator import dynamics_figures, error_figures
from orchestrator.error_kinds import KINDS, ErrorKind, judged_by
from orchestrator.errors import UserError, unknown_name
from orchestrator.figure_style import STYLE
from trainables.result import SATISFYING

_DPI = 200


class FigureFunction(Protocol):
    """A figure of trials and their traces."""

    def __call__(self, trials: pd.DataFrame, traces: pd.DataFrame, chosen: Sequence[str] = ()) -> Figure:
        """Draw it; of the `chosen` fields the trials have the best value of each point."""
        ...


def check(names: Sequence[str]) -> None:
    """Raise `UserError` for a name that `draw` does not know."""
    for name in names:
        if name not in FIGURES:
            raise UserError(unknown_name("figure", name, FIGURES))


def draw(
    name: str,
    trials: pd.DataFrame,
    traces: pd.DataFrame,
    folder: Path,
    note: str = "",
    chosen: Sequence[str] = (),
) -> list[Path]:
    """Write the figure as `folder`/name.png and .pdf, each in one rename; raises `UserError` for an unknown name.

    `note` is a line below the caption: what the trials are a selection of, say. `chosen`: see `FigureFunction`.
    """
    check([name])
    return write(FIGURES[name](trials, traces, chosen), name, folder, note)


def write(figure: Figure, name: str, folder: Path, note: str = "") -> list[Path]:
    """Write a figure as `folder`/name.png and .pdf, each in one rename; `note` as for `draw`."""
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


def _styled(function: FigureFunction) -> FigureFunction:
    """The figure of settled trials in our style."""

    @wraps(function)
    def styled(trials: pd.DataFrame, traces: pd.DataFrame, chosen: Sequence[str] = ()) -> Figure:
        # Sums round by their order: rows in another order must not give another file.
        settled = trials[trials["outcome"].isin(SATISFYING)].sort_values("trial_id", ignore_index=True)
        with rc_context(STYLE):
            return function(settled, traces.sort_values(["trial_id", "epoch"], ignore_index=True), chosen)

    return styled


def _of_kind(function: Callable[[pd.DataFrame, str, Sequence[str]], Figure], kind: ErrorKind) -> FigureFunction:
    """The figure of that kind of error."""

    def draw_kind(trials: pd.DataFrame, traces: pd.DataFrame, chosen: Sequence[str] = ()) -> Figure:
        figure = function(judged_by(trials, kind), kind.label, chosen)
        _add_line(figure, kind.meaning)
        return figure

    return draw_kind


_OF_ERRORS = (error_figures.error_vs_batch_size, error_figures.error_vs_weight_decay, error_figures.error_vs_betas)
_OTHERS = (error_figures.error_vs_sparsity, dynamics_figures.feature_and_noise, dynamics_figures.sign_agreement)

FIGURES: dict[str, FigureFunction] = {
    **{f"{prefix}{f.__name__}": _styled(_of_kind(f, kind)) for prefix, kind in KINDS.items() for f in _OF_ERRORS},
    **{function.__name__: _styled(function) for function in _OTHERS},
}
"""Figures by the name that a sweep calls them: `error_vs_batch_size`, `top5_error_vs_batch_size`, ..."""
