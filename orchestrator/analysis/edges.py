"""Locates the edges, along lambda, of the region where an optimizer works, with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.analysis.scaling import fit_threshold
from search_spaces.level_set.model import fit

_PLACES = 201


@dataclass(frozen=True, slots=True)
class Edge:
    """A lambda where P(works) = 1/2, as log10 of the posterior median and of the ends of the 95% band.

    `side` is `upper` (the optimizer works below the edge) or `lower` (it works above).
    """

    side: str
    log10_decay: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the band's width, in decades."""
        return (self.high - self.low) / 2


def edges(decay: npt.NDArray[np.float64], works: npt.NDArray[np.bool_]) -> tuple[list[Edge], float]:
    """The edges that N trials at positive weight decays show, and the highest P(works) over lambda.

    A Gaussian process finds where P(works) is highest and on which sides of that it falls below 1/2; on each such side
    an edge is fitted as a threshold (`scaling.fit_threshold`). If a side has no edge, P is at least 1/2 up to the last
    tried lambda. If the highest P is below 1/2, the optimizer works nowhere, and there are no edges.
    """
    log_decay = np.log10(decay)
    low, high = float(log_decay.min()), float(log_decay.max())
    if low == high:
        return [], float(works.mean())
    model = fit((log_decay[:, None] - low) / (high - low), works.astype(float), np.ones(len(works)))
    share = np.linspace(0, 1, _PLACES)
    probability = np.asarray(model.probability(share[:, None]))
    best = int(probability.argmax())
    if probability[best] < 0.5:
        return [], float(probability[best])
    peak = low + share[best] * (high - low)
    found = []
    if probability[0] < 0.5:
        found.append(_edge("lower", decay[log_decay <= peak], ~works[log_decay <= peak]))
    if probability[-1] < 0.5:
        found.append(_edge("upper", decay[log_decay >= peak], works[log_decay >= peak]))
    return found, float(probability[best])


def _edge(side: str, decay: npt.NDArray[np.float64], is_below: npt.NDArray[np.bool_]) -> Edge:
    threshold = fit_threshold(decay, is_below).threshold(1.0)
    return Edge(side, float(threshold.value), float(threshold.low), float(threshold.high))
