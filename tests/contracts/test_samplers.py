"""What every sampler promises: as many points of the space as requested, the same for the same arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import SweepError
from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.samplers.registry import (
    BOUNDARY_SAMPLERS,
    SAMPLERS,
    Observation,
    boundary_sampler,
    boundary_sampler_named,
    check_points,
    sampler,
    sampler_named,
)
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


def small_map(name: str) -> Sweep:
    search = MapSearch({"adam": SPACE}, rounds=3, per_round=3, sampler=name)
    return Sweep("mapped", "a small map", (Grid({"adam": {}}, {}, SIZES),), search=search)


@pytest.mark.parametrize("name", sorted(BOUNDARY_SAMPLERS))
def test_points_of_a_boundary_lie_in_the_space_and_depend_on_the_arguments_alone(name: str) -> None:
    propose = boundary_sampler_named(name)
    space = {field: axis.distribution() for field, axis in SPACE.items()}
    first = propose(space, [], [], 12, 3, 0)
    history = [(point, [float(point["weight_decay"] < 1e-3)]) for point in first]
    for known, pending in ((history, []), (history, first[:2])):
        points = propose(space, known, pending, 4, seed=3, number=14)
        assert len(points) == 4
        for point in points:
            assert set(point) == set(SPACE)
            assert all(axis.low <= point[field] <= axis.high for field, axis in SPACE.items())
        assert propose(space, list(known), list(pending), 4, seed=3, number=14) == points
        assert propose(space, known, pending, 4, seed=4, number=14) != points


@pytest.mark.parametrize("name", sorted(BOUNDARY_SAMPLERS))
def test_a_map_asks_the_same_whatever_order_its_trials_end_in(name: str, tmp_path: Path) -> None:
    asked = [train(small_map(name), Ledger(str(tmp_path / choose.__name__)), choose) for choose in (oldest, newest)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 9


def test_the_toy_is_another_map_and_an_unknown_sampler_is_refused() -> None:
    setting = {"optimizer": "adam"}
    ours, even_map = small_map("boundary").search, small_map("even").search
    assert isinstance(ours, MapSearch)
    assert isinstance(even_map, MapSearch)
    assert ours.key(setting) != even_map.key(setting)
    with pytest.raises(SweepError, match="unknown sampler 'evem'; did you mean 'even'"):
        small_map("evem")


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


WRONG = {
    "two_points": (lambda point: [point] * 2, r"returned 2 points, a list of \d was asked"),
    "no_points": (lambda point: [], r"returned 0 points, a list of \d was asked"),
    "other_names": (
        lambda point: None,
        "returned a point with fields learning_rate, the space has learning_rate, weight_decay",
    ),
    "nan": (lambda point: {**point, "weight_decay": math.nan}, "returned weight_decay=nan, the axis is 1e-07 to 1"),
    "outside": (lambda point: {**point, "weight_decay": 2.0}, "returned weight_decay=2.0, the axis is 1e-07 to 1"),
    "text": (lambda point: {**point, "weight_decay": "1"}, "returned weight_decay='1', the axis is 1e-07 to 1"),
}


@pytest.mark.parametrize("kind", ["halving", "map"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_points_are_refused_and_never_recorded(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, message = WRONG[name]

    def wrong(space: Space, history: Any, *rest: Any, **more: Any) -> Any:
        num = rest[0] if kind == "halving" else rest[1]
        point = {"learning_rate": 1e-4, "weight_decay": 1e-3}
        spoilt = spoil(point)
        if isinstance(spoilt, list):
            return spoilt
        return [{"learning_rate": 1e-4} if spoilt is None else spoilt] * num

    monkeypatch.setitem(SAMPLERS, "wrong", wrong)
    monkeypatch.setitem(BOUNDARY_SAMPLERS, "wrong", wrong)
    one, ledger = sweep("wrong") if kind == "halving" else small_map("wrong"), Ledger(str(tmp_path))
    with pytest.raises(SweepError, match=rf"^{one.name}: sampler 'wrong' {message}$"):
        plan_sweep(one, ledger).scheduler.advance()
    assert plan_sweep(one, ledger).num_done == 0
    assert not list(tmp_path.rglob("round-*"))


def test_numbers_of_numpy_and_ends_that_are_off_by_rounding_are_points_of_the_space() -> None:
    points: list[dict[str, Any]] = [{"learning_rate": np.float32(1e-4), "weight_decay": 1.0 + 1e-15}] * 4
    check_points("mine", points, 4, SPACE)


@pytest.mark.parametrize("points", [None, iter(()), [(1e-4, 1e-3)] * 4])
def test_what_is_no_list_of_points_is_refused(points: Any) -> None:
    with pytest.raises(ValueError, match=r"^sampler 'mine' returned "):
        check_points("mine", points, 4, SPACE)


@pytest.mark.parametrize(("register", "name"), [(sampler, "tpe"), (boundary_sampler, "boundary")])
def test_a_name_of_ours_is_refused(register: Any, name: str) -> None:
    """Its searches would read the asks of ours."""
    with pytest.raises(ValueError, match=rf"^a sampler named '{name}' is registered by search_spaces\.samplers\."):
        register(name)(lambda *_: [])
