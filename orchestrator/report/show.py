"""Prints the result tables and notes of a launch and draws its figures, all from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.error_rates import PLAIN
from orchestrator.errors import LedgerError
from orchestrator.figures.registry import FigureInput, FigureSpec
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.storage import PATIENCE_SECONDS, Storage
from orchestrator.report.presentations import selection_of, tables_of
from orchestrator.schedulers.plan import Plan
from orchestrator.sweeps.value import Sweep
from trainables.result import SATISFYING

if TYPE_CHECKING:
    import pandas as pd


def show(plan: Plan, ledger: Ledger, console: Console, *, with_figures: bool) -> list[Path]:
    """Print the result tables and draw the figures, all from the ledger; returns the figures' files."""
    from orchestrator.analysis.stop_audit import stop_audit

    sweep = plan.sweep
    selection = selection_of(sweep, plan.scheduler)
    trial_ids = {config.trial_id for config in selection.configs}
    trials = ledger.trials(sweep.workload, trial_ids=trial_ids).to_pandas()
    for title, table in tables_of(sweep, trials):
        _print_table(console, table, title)
    for line in selection.notes:
        console.print(line, soft_wrap=True)
    if sweep.accepts_certificates and len(trials):
        console.print(stop_audit(trials).line(), soft_wrap=True)
    specs = _figures_of(sweep, is_wanted=with_figures or bool(sweep.best_over))
    selections = {error: _best(trials, sweep, error, console) for error in _shown_errors(trials, sweep, specs)}
    console.print(f"parquet  {ledger.root}/trials, {ledger.root}/traces", soft_wrap=True)
    if not (with_figures and specs) or trials.empty:
        return []

    from orchestrator.figures import drawing

    folder = figure_folder(ledger.root, sweep)
    read = trial_ids if any(spec.traces for spec in specs) else ()  # most figures show only how trials ended
    traces = ledger.traces(sweep.workload, trial_ids=read).to_pandas()
    paths, faults = [], []
    for spec in specs:
        shown = selections.get(_error_of(spec, sweep))
        if shown is not None:
            given = FigureInput(shown.trials, traces, sweep, (*selection.chosen, *shown.over))
            try:
                paths += drawing.draw(spec.name, given, folder, shown.note)
            except Exception as fault:  # one figure that cannot be drawn costs no other
                faults.append(fault)
    _copy_to_store(paths, ledger.root)
    if paths:
        console.print(f"figures  {', '.join(map(str, paths))}", soft_wrap=True)
    if faults:
        raise faults[0]
    return paths


@dataclass(frozen=True, slots=True)
class _Best:
    """The trials with the best values of the fields `over` at each point, and a line that says so."""

    trials: pd.DataFrame
    over: Sequence[str] = ()
    note: str = ""


def _figures_of(sweep: Sweep, *, is_wanted: bool) -> list[FigureSpec]:
    """The figures that the sweep names, if wanted: importing them takes a second."""
    if not (is_wanted and sweep.figures):
        return []
    from orchestrator.figures import drawing

    return drawing.figures_of(sweep)


def _error_of(spec: FigureSpec, sweep: Sweep) -> str:
    """The column of test errors that chooses a figure's trials: its own kind's, the sweep's if its kind is plain."""
    return sweep.error if spec.error == PLAIN else spec.error.test


def _shown_errors(trials: pd.DataFrame, sweep: Sweep, specs: Sequence[FigureSpec]) -> list[str]:
    """The columns of test errors that the sweep's tables and figures show: its own, and others that any trial has."""
    others = dict.fromkeys(_error_of(spec, sweep) for spec in specs)
    return [sweep.error, *(error for error in others if error != sweep.error and trials[error].notna().any())]


def _best(trials: pd.DataFrame, sweep: Sweep, error: str, console: Console) -> _Best:
    """Print the best values by that error, where the sweep chooses among several."""
    from orchestrator.analysis.best import best_cells, only_best
    from orchestrator.report.cell_tables import best_note, best_table

    settled = trials[trials["outcome"].isin(SATISFYING)]
    over = [name for name in sweep.best_over if settled[name].nunique() > 1]
    if not over:
        return _Best(trials)
    best = best_cells(settled, over, error)
    _print_table(console, best_table(best, over), f"Best {', '.join(over)} by mean {error} over seeds")
    return _Best(only_best(trials, best), over, best_note(best, over))


def _print_table(console: Console, table: pd.DataFrame, title: str) -> None:
    shown = Table(title=Text(title), title_justify="left")  # as Text: brackets are not markup
    for name in table.columns:
        shown.add_column(Text(name), overflow="fold")  # a truncated number would mislead
    for row in table.itertuples(index=False):
        shown.add_row(*(Text(str(value)) for value in row))
    console.print(shown)


def figure_folder(out: str, sweep: Sweep) -> Path:
    """The folder of the sweep's figures: beside the results; for an object store in the current folder."""
    return Path("." if "://" in out else out) / "figures" / sweep.name


def check_figure_folder(out: str, sweep: Sweep) -> None:
    """Raise `LedgerError` before training if a file is where the figures' folder belongs: they are drawn at the end."""
    folder = figure_folder(out, sweep)
    for place in (folder.parent, folder):
        if place.exists() and not place.is_dir():
            raise LedgerError(f"{place} is a file where a folder belongs; move it away")


def _copy_to_store(figures: Sequence[Path], out: str) -> None:
    """Copy figures from the current folder into the object store that has the results."""
    storage = Storage(out)
    storage.patience_seconds = PATIENCE_SECONDS
    if not storage.is_local:
        for figure in figures:
            storage.write(f"{storage.path}/{figure.as_posix()}", pa.py_buffer(figure.read_bytes()))
