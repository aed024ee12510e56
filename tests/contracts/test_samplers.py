"""What every sampler promises: points of the space, as many as asked, the same for the same arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import SweepError
from orchestrator.ledger.ledger import Ledger
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.samplers.registry import SAMPLERS, Observation, sampler_named
from search_spaces.space import LogUniform, Space
from tests.contracts import toy_sampler
from tests.support.scheduling import newest, oldest, train

SPACE: Space = {"learning_rate": LogUniform(1e-6, 1e-3), "weight_decay": LogUniform(1e-7, 1.0)}
SIZES = {
    "num_train": 20,
    "num_test": 30,
    "dimension": 20,
    "noise_sparsity": 4,
    "num_filters": 2,
    "num_epochs": 9,
    "batch_size": 5,
}


def history(num: int) -> list[Observation]:
    points = sampler_named("tpe")(SPACE, [], num, 7)
    errors = [0.5, math.inf, *(0.1 * i for i in range(num - 2))]
    return [
        Observation(point, error, 9, i % 2 == 0) for i, (point, error) in enumerate(zip(points, errors, strict=True))
    ]


def sweep(name: str) -> Sweep:
    search = HalvingSearch({"adam": SPACE}, rounds=3, per_round=4, num_rungs=2, sampler=name)
    return Sweep("searched", "a small search", (Grid({"adam": {}}, {}, SIZES),), seeds=(0,), search=search)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("known", [0, 12])
def test_points_lie_in_the_space_and_depend_on_the_arguments_alone(name: str, known: int) -> None:
    propose, seen = sampler_named(name), history(known) if known else []
    points = propose(SPACE, seen, 5, 3)
    assert len(points) == 5
    for point in points:
        assert set(point) == set(SPACE)
        assert all(axis.low <= point[field] <= axis.high for field, axis in SPACE.items())
    assert propose(SPACE, list(seen), 5, 3) == points
    assert propose(SPACE, seen, 5, 4) != points


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_search_asks_the_same_whatever_order_its_trials_end_in(name: str, tmp_path: Path) -> None:
    asked = [train(sweep(name), Ledger(str(tmp_path / choose.__name__)), choose) for choose in (oldest, newest)]
    assert asked[0] == asked[1]


def test_a_sampler_that_looks_at_more_than_it_is_given_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counting(space: Space, seen: Sequence[Observation], num: int, seed: int) -> list[dict[str, float]]:
        calls.append(seed)
        return toy_sampler.even(space, seen, num, len(calls))

    monkeypatch.setitem(SAMPLERS, "counting", counting)
    with pytest.raises(AssertionError):
        test_points_lie_in_the_space_and_depend_on_the_arguments_alone("counting", 0)


def test_the_toy_is_another_search_and_an_unknown_sampler_is_refused() -> None:
    cell = {"optimizer": "adam"}
    tpe, even = sweep("tpe").search, sweep("even").search
    assert isinstance(tpe, HalvingSearch)
    assert isinstance(even, HalvingSearch)
    assert tpe.key(cell) != even.key(cell)
    with pytest.raises(SweepError, match="unknown sampler 'evem'; did you mean 'even'"):
        sweep("evem")
