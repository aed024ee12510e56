"""The toy's figure, as a user's module enters one. A module that a plan imports too loads matplotlib when it draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.figures.registry import FigureInput, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@figure(fields=("num_points",), traces=("gradient_norm",))
def gradients(given: FigureInput) -> Figure:
    """The gradient's norm over training, a line a trial."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(5, 4))
    axes = made.subplots()
    for _, own in given.traces.groupby("trial_id"):
        axes.plot(own["epoch"], own["gradient_norm"], marker=".")
    axes.set(xlabel="epoch", ylabel="norm of the gradient", title=f"{len(given.trials)} trials")
    return made
