"""Every scheduler hands out each trial once, and asks the same whatever order trials end in and when it restarts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.schedulers import halving_cell
from orchestrator.schedulers.halving_cell import CellSearch
from orchestrator.schedulers.map_rounds import BoundaryRounds
from orchestrator.schedulers.plan import plan_sweep
from orchestrator.sweeps.claim_rule import ClaimRule
from orchestrator.sweeps.halving_search import HalvingSearch
from orchestrator.sweeps.map_search import MapSearch
from orchestrator.sweeps.value import Grid, Sweep
from search_spaces.samplers.registry import Observation, boundary_sampler_named, sampler_named
from search_spaces.space import LogUniform, Space
from tests.support.scheduling import Choose, at_random, newest, oldest, train, trained
from trainables.result import SATISFYING, Outcome

SIZES: dict[str, Any] = {
    "num_train": 20,
    "num_test": 30,
    "dimension": 20,
    "noise_sparsity": 4,
    "num_filters": 2,
    "num_epochs": 9,
    "batch_size": 5,
    "learning_rate": 1e-2,
    "init_std": 0.1,
}
SPACE = {"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-4, 1.0)}
DECAYS = {"weight_decay": LogUniform(1e-4, 1e2)}
RULE = ClaimRule(max_test_error=0.2, min_seeds=6, max_seeds=6)
MAPPED = {**SIZES, "num_test": 50, "dimension": 40, "noise_sparsity": 5, "num_filters": 4, "num_epochs": 20}
MAPPED["batch_size"] = 2
HALVED = {name: value for name, value in SIZES.items() if name not in SPACE}

KINDS = {
    "grid": Sweep("a_grid", "", (Grid({"adam": {}, "adamw": {}}, {"weight_decay": (0.0, 1e-2)}, SIZES),), seeds=(0, 1)),
    "halving": Sweep(
        "a_search",
        "",
        (Grid({"adam": {}}, {}, HALVED),),
        seeds=(0, 1),
        search=HalvingSearch({"adam": SPACE}, rounds=4, per_round=6, num_rungs=2),
    ),
    "map": Sweep(
        "a_map",
        "",
        (Grid({"adam": {}, "adamw": {}}, {"weight_decay": (1.0,)}, MAPPED),),
        search=MapSearch({"adam": DECAYS, "adamw": DECAYS}, RULE, rounds=4, per_round=4),
    ),
}
"""A tiny sweep of each kind, in which rounds follow results: TPE and the boundary begin with a design of 10 and 8."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def asked(kind: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the sweep asks if nothing disturbs it."""
    return train(KINDS[kind], Ledger(str(tmp_path_factory.mktemp(kind))))


@pytest.mark.slow  # by default: at once with restarts, below
@pytest.mark.parametrize("choose", [newest, at_random(1)], ids=["newest", "random"])
def test_it_asks_the_same_whatever_order_trials_end_in(
    choose: Choose, kind: str, asked: list[str], tmp_path: Path
) -> None:
    assert train(KINDS[kind], Ledger(str(tmp_path)), choose) == asked


@pytest.mark.parametrize(("restart_every", "choose"), [(5, newest), pytest.param(3, oldest, marks=pytest.mark.slow)])
def test_it_asks_the_same_whenever_it_restarts(
    restart_every: int, choose: Choose, kind: str, asked: list[str], tmp_path: Path
) -> None:
    assert train(KINDS[kind], Ledger(str(tmp_path)), choose, restart_every) == asked


@pytest.mark.slow
def test_seeds_that_a_killed_map_did_not_come_to_ask_for_are_still_to_be_trained(tmp_path: Path) -> None:
    """All that it asked has ended: a plan that took this for the end would never train them."""
    search = KINDS["map"].search
    assert isinstance(search, MapSearch)
    sweep = replace(KINDS["map"], search=replace(search, rounds=0, rule=replace(RULE, max_seeds=24)))
    asked = train(sweep, Ledger(str(tmp_path / "undisturbed")))
    assert len(asked) > sweep.num_trials, "some cell wants more than the least number of seeds"
    assert train(sweep, Ledger(str(tmp_path / "restarted")), restart_every=2) == asked


def test_it_never_hands_out_what_the_ledger_settles(kind: str, tmp_path: Path) -> None:
    """Another sweep, or a launch before, has trained half of what is asked first."""
    sweep, ledger = KINDS[kind], Ledger(str(tmp_path))
    first, _ = plan_sweep(sweep, ledger).scheduler.advance()
    results = [trained(task.config, task.config.num_epochs) for task in first[::2]]
    settled = {result.trial_id for result in results}
    assert all(result.outcome in SATISFYING for result in results)
    ledger.append(results)
    plan = plan_sweep(sweep, ledger)
    assert plan.settled == settled
    tasks, _ = plan.scheduler.advance()
    handed = {task.config.trial_id for task in tasks}
    assert handed
    assert not handed & settled
    assert handed >= {task.config.trial_id for task in first[1::2]}


def test_a_failed_trial_is_tried_again_by_the_next_launch_alone(kind: str, tmp_path: Path) -> None:
    sweep, ledger = KINDS[kind], Ledger(str(tmp_path))
    scheduler = plan_sweep(sweep, ledger).scheduler
    task = scheduler.advance()[0][0]
    failed = replace(trained(task.config, task.until_epoch), outcome=Outcome.FAILED, error="Traceback\nValueError: no")
    ledger.append([failed])
    assert task not in scheduler.advance([failed])[0]
    assert task in plan_sweep(sweep, ledger).scheduler.advance()[0]


def test_numbers_of_a_plan_add_up(kind: str, tmp_path: Path) -> None:
    sweep, ledger = KINDS[kind], Ledger(str(tmp_path))
    plan = plan_sweep(sweep, ledger)
    assert plan.num_trials == plan.scheduler.num_trials == sweep.num_trials
    assert (plan.num_done, plan.num_pending) == (0, plan.num_trials)
    assert plan.forecast_core_seconds > 0
    assert not plan.scheduler.is_finished
    plan.scheduler.advance()
    configs = plan.scheduler.configs()
    assert len({config.trial_id for config in configs}) == len(configs) <= plan.num_trials


# --- searches that break the contract ---


def looks_ahead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a round know every result that happens to be there, those of the round before included."""
    if name == "halving":
        ask_cell = CellSearch.ask

        def ask(self: CellSearch) -> None:
            def propose(space: Space, history: Sequence[Observation], num: int, seed: int) -> Any:
                known = [one for k in range(len(self._rounds)) for one in self._observations(k)]
                return sampler_named("tpe")(space, [one for one in known if not math.isnan(one.error)], num, seed)

            monkeypatch.setattr(halving_cell, "sampler_named", lambda _: propose)
            ask_cell(self)

        monkeypatch.setattr(CellSearch, "ask", ask)
        return
    ask_rounds = BoundaryRounds.ask

    def ask_boundary(self: BoundaryRounds) -> None:
        ours = boundary_sampler_named("boundary")

        def propose(axes: Any, history: Any, pending: Any, num: int, **more: Any) -> Any:
            asked = [pair for k, points in enumerate(self._points) for pair in zip(points, self._asked[k], strict=True)]
            known = [
                (point, [float(bool(self._results.outcome(one)))])
                for point, one in asked
                if self._results.has_ended(one)
            ]
            return ours(axes, known, [p for p, one in asked if not self._results.has_ended(one)], num, **more)

        monkeypatch.setattr(self, "_propose", propose)
        ask_rounds(self)

    monkeypatch.setattr(BoundaryRounds, "ask", ask_boundary)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halving", "map"])
def test_a_search_that_looks_at_a_round_in_training_is_found_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks_ahead(name, monkeypatch)
    asked = [train(KINDS[name], Ledger(str(tmp_path / choose.__name__)), choose) for choose in (oldest, newest)]
    assert asked[0] != asked[1]


def test_asks_that_are_recorded_after_their_trials_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(str(tmp_path))
    monkeypatch.setattr(type(ledger.asks), "put", lambda *_: None)
    with pytest.raises(AssertionError, match="asks are recorded before"):
        train(KINDS["halving"], ledger)


def test_a_trial_that_is_handed_out_twice_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(set):  # type: ignore[type-arg]
        def update(self, *_: Any) -> None:
            """Forget what was handed out."""

    made = plan_sweep(KINDS["halving"], Ledger(str(tmp_path))).scheduler
    init = type(made).__init__

    def forgetful(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self._dispatched = Forgetful()

    monkeypatch.setattr(type(made), "__init__", forgetful)
    with pytest.raises(AssertionError, match="each task once"):
        train(KINDS["halving"], Ledger(str(tmp_path / "again")))
