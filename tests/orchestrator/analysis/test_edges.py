"""Edges of a region along lambda: found on the sides that have one, reported as absent on the others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from orchestrator.analysis.edges import edges


def draws(low: float, high: float, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight decays over eight decades, and whether each works: from 10**low to 10**high, with soft ends."""
    rng = np.random.default_rng(seed)
    log_decay = rng.uniform(-6, 2, num)
    p = ndtr((log_decay - low) / 0.1) * ndtr((high - log_decay) / 0.1)
    return 10**log_decay, rng.random(num) < p


@pytest.mark.parametrize("seed", range(3))
def test_both_edges_of_a_band_are_found(seed: int) -> None:
    found, highest = edges(*draws(-4, -1.5, 150, seed))
    assert [edge.side for edge in found] == ["lower", "upper"]
    for edge, truth in zip(found, (-4, -1.5), strict=True):
        assert edge.low < edge.log10_decay < edge.high
        assert edge.log10_decay == pytest.approx(truth, abs=0.3)
        assert edge.half_width < 0.4
    assert highest > 0.9


def test_a_side_without_an_edge_has_none() -> None:
    (edge,), _ = edges(*draws(-20, -1.5, 100, 0))
    assert edge.side == "upper"
    (edge,), _ = edges(*draws(-4, 20, 100, 0))
    assert edge.side == "lower"


def test_all_or_nothing_has_no_edge() -> None:
    decay = np.logspace(-6, 2, 40)
    found, highest = edges(decay, np.ones(40, dtype=bool))
    assert found == []
    assert highest > 0.9
    found, highest = edges(decay, np.zeros(40, dtype=bool))
    assert found == []
    assert highest < 0.1


def test_draws_at_one_decay_have_no_edge() -> None:
    found, highest = edges(np.full(4, 1e-3), np.array([True, False, True, True]))
    assert (found, highest) == ([], 0.75)
