"""Boundary search: the level-set model, its proposals, and the sampler in real Optuna studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.optimize import check_grad
from threadpoolctl import threadpool_info, threadpool_limits

from search_spaces.level_set import hyperparameters
from search_spaces.level_set.model import LevelSetModel, fit
from search_spaces.samplers.boundary import BoundarySampler, encode, pool, propose_boundary

Array = NDArray[np.float64]

SQUARE: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
MIXED: dict[str, BaseDistribution] = {
    "batch_size": IntDistribution(2, 512, log=True),
    "depth": IntDistribution(10, 50, step=10),
    "momentum": FloatDistribution(0.0, 0.9, step=0.1),
    "optimizer": CategoricalDistribution(("adam", "adamw", "sgd")),
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
}
GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 25)] * 2), axis=-1).reshape(-1, 2)
LEFT, RIGHT = np.array([0.25, 0.25]), np.array([0.75, 0.75])

optuna.logging.set_verbosity(optuna.logging.ERROR)


def in_disc(points: Array) -> NDArray[np.bool_]:
    return np.sum((points - [0.4, 0.5]) ** 2, axis=1) < 0.3**2


def in_two_discs(points: Array) -> NDArray[np.bool_]:
    return np.minimum(np.sum((points - LEFT) ** 2, axis=1), np.sum((points - RIGHT) ** 2, axis=1)) < 0.2**2


def overlap(seen: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(np.sum(seen & truth) / np.sum(seen | truth))


def searched(truth: Any, num: int, seed: int = 0) -> list[tuple[dict[str, Any], tuple[float]]]:
    history: list[tuple[dict[str, Any], tuple[float]]] = []
    while len(history) < num:
        for params in propose_boundary(SQUARE, history, (), 4, seed):
            history.append((params, (float(truth(np.array([list(params.values())]))[0]),)))
    return history


def model_of(history: list[tuple[dict[str, Any], tuple[float]]]) -> LevelSetModel:
    points, successes, counts = pool(SQUARE, history)
    return fit(points, successes[:, 0], counts[:, 0])


@pytest.fixture(scope="module")
def disc() -> list[tuple[dict[str, Any], tuple[float]]]:
    return searched(in_disc, 48)


# --- the model ---


def test_the_evidence_has_the_slopes_that_the_search_climbs() -> None:
    rng = np.random.default_rng(0)
    points, counts = rng.random((30, 2)), rng.integers(1, 4, 30).astype(float)
    data = hyperparameters.Outcomes(in_disc(points) * counts * 0.9, counts)

    def mode(theta: Array) -> tuple[hyperparameters.Mode, hyperparameters.Prior, float]:
        prior, lapse = hyperparameters._unpacked(theta)
        return hyperparameters.find_mode(prior.covariance(points, points), data, lapse, np.zeros(30)), prior, lapse

    def slopes(theta: Array) -> Array:
        found, prior, lapse = mode(theta)
        return hyperparameters._evidence_slopes(found, prior, points, lapse)

    at = np.log([0.3, 0.5, 3.0, 0.03])
    assert check_grad(lambda theta: mode(theta)[0].log_evidence, slopes, at, epsilon=1e-5) < 1e-2 * np.max(slopes(at))


def test_mislabelled_draws_do_not_move_the_boundary() -> None:
    points = np.random.default_rng(1).random((250, 2))
    flipped = np.arange(250) % 20 == 0
    model = fit(points, in_disc(points) ^ flipped, np.ones(250))
    assert overlap(model.latent(GRID)[0] > 0, in_disc(GRID)) > 0.85
    assert 0.01 < model.lapse < 0.15
    assert np.mean(model.latent(points[flipped])[0] > 0) == pytest.approx(np.mean(in_disc(points[flipped])), abs=0.2)


@pytest.mark.parametrize("works", [0.0, 1.0])
def test_outcomes_of_one_class_leave_doubt_far_away(works: float) -> None:
    points = np.array([[0.1, 0.1], [0.2, 0.1], [0.1, 0.3]])
    model = fit(points, np.full(3, works), np.ones(3))
    near, far = model.probability([[0.12, 0.15], [0.95, 0.95]])
    assert abs(near - works) < abs(far - works) < 0.6
    assert model.latent([[0.95, 0.95]])[1] > model.latent([[0.12, 0.15]])[1]


def test_pooled_draws_say_the_same_as_single_ones() -> None:
    points = np.random.default_rng(2).random((20, 2))
    works = in_disc(points).astype(float)
    pooled = fit(points, 3 * works, np.full(20, 3.0)).latent(GRID)
    single = fit(np.repeat(points, 3, axis=0), np.repeat(works, 3), np.ones(60)).latent(GRID)
    np.testing.assert_allclose(pooled, single, rtol=0.02, atol=0.02)


def test_a_higher_level_has_a_smaller_region() -> None:
    at = np.linspace(0, 1, 21)[:, None]
    rates = at[:, 0]
    crossings = [at[np.argmax(fit(at, 20 * rates, np.full(21, 20.0), p).latent(at)[0] > 0), 0] for p in (0.3, 0.5, 0.8)]
    np.testing.assert_allclose(crossings, (0.3, 0.5, 0.8), atol=0.1)
    np.testing.assert_allclose(fit(at, 20 * rates, np.full(21, 20.0), 0.8).probability(at), rates, atol=0.12)


def test_the_joint_latent_has_the_single_latents_mean_and_deviation(disc: list[Any]) -> None:
    model, points = model_of(disc), GRID[::40]
    (joint_mean, covariance), (mean, std) = model.joint(points), model.latent(points)
    np.testing.assert_allclose(joint_mean, mean)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), std, rtol=1e-3)


@pytest.mark.parametrize(
    ("points", "successes", "counts", "level"),
    [
        ([[0.5]], [2.0], [1.0], 0.5),
        ([[0.5]], [np.nan], [1.0], 0.5),
        ([[1.5]], [1.0], [1.0], 0.5),
        ([[0.5]], [1.0], [1.0], 1.0),
        ([[0.5]], [1.0, 0.0], [1.0, 1.0], 0.5),
        (np.empty((0, 1)), [], [], 0.5),
    ],
)
def test_what_are_no_outcomes_is_refused(points: Any, successes: Any, counts: Any, level: float) -> None:
    with pytest.raises(ValueError, match="required"):
        fit(points, successes, counts, level)


# --- proposals ---


def test_an_easy_region_is_read_from_few_outcomes(disc: list[Any]) -> None:
    assert overlap(model_of(disc).latent(GRID)[0] > 0, in_disc(GRID)) > 0.9


def test_later_points_lie_closer_to_the_boundary(disc: list[Any]) -> None:
    points = np.array([list(params.values()) for params, _ in disc])
    away = np.abs(np.linalg.norm(points - [0.4, 0.5], axis=1) - 0.3)
    assert np.median(away[-20:]) < 0.5 * np.median(away[:16])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_both_of_two_disjoint_regions_are_found_and_kept(seed: int) -> None:
    model = model_of(searched(in_two_discs, 96, seed))
    assert np.all(model.lengths > 0.1)
    assert np.all(model.probability([LEFT, RIGHT]) > 0.8)
    assert np.all(model.probability([[0.25, 0.75], [0.75, 0.25]]) < 0.2)
    assert overlap(model.latent(GRID)[0] > 0, in_two_discs(GRID)) > 0.8


def test_proposals_are_a_function_of_their_arguments(disc: list[Any]) -> None:
    for history in (disc[:3], disc):
        asked = propose_boundary(SQUARE, history, (), 4, seed=3)
        assert asked == propose_boundary(SQUARE, list(history), (), 4, seed=3)
        assert asked != propose_boundary(SQUARE, history, (), 4, seed=4)
        assert asked != propose_boundary(SQUARE, history, asked, 4, seed=3)


def test_the_design_is_one_sequence_however_it_is_cut() -> None:
    whole = propose_boundary(SQUARE, (), (), 8, seed=0)
    assert propose_boundary(SQUARE, (), whole[:4], 4, seed=0) == whole[4:]
    assert propose_boundary(SQUARE, [(whole[0], (None,))], whole[1:4], 4, seed=0) == whole[4:]


def test_a_batch_keeps_clear_of_itself_and_of_what_runs(disc: list[Any]) -> None:
    pending = propose_boundary(SQUARE, disc, (), 3, seed=0, number=49)
    asked = propose_boundary(SQUARE, disc, pending, 4, seed=0, number=52)
    points = np.array([list(params.values()) for params in pending + asked])
    distances = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(7, k=1)]
    assert distances.min() > 0.02


def rounds_with_a_lag(seed: int, edge: float) -> list[tuple[float, bool]]:
    """Six rounds of eight points on a line that works below `edge`; each lacks only the results of the round before."""
    space, rounds = {"x": FloatDistribution(0.0, 1.0)}, list[list[tuple[dict[str, Any], tuple[float]]]]()
    for k in range(6):
        history = [draw for drawn in rounds[: max(0, k - 1)] for draw in drawn]
        pending = [params for params, _ in rounds[k - 1]] if k else []
        asked = propose_boundary(space, history, pending, 8, seed, 8 * k)
        rounds.append([(params, (float(params["x"] < edge),)) for params in asked])
    return [(params["x"], bool(works)) for drawn in rounds for params, (works,) in drawn]


@pytest.mark.slow
def test_rounds_that_do_not_know_of_each_other_close_in_on_a_sharp_edge() -> None:
    """If all points were placed on the estimated edge, a gap of a fortieth of the line would remain."""
    gaps = []
    for seed, edge in enumerate(np.random.default_rng(0).uniform(0.15, 0.85, 8)):
        drawn = rounds_with_a_lag(seed, edge)
        gaps.append(min(x for x, works in drawn if not works) - max(x for x, works in drawn if works))
        # the design goes on where it was: no point of it comes twice
        assert len({x for x, _ in drawn}) >= len(drawn) - 4
    assert np.median(gaps) < 0.012


def test_values_lie_on_their_axes_and_are_rounded(disc: list[Any]) -> None:
    history: list[Any] = []
    for _ in range(13):
        history += [(p, (float(p["batch_size"] > 30),)) for p in propose_boundary(MIXED, history, (), 4, seed=0)]
    for params, _ in history:
        assert list(params) == list(MIXED)
        for name, distribution in MIXED.items():
            assert distribution._contains(distribution.to_internal_repr(params[name])), (name, params[name])
        assert isinstance(params["batch_size"], int)
        assert params["depth"] % 10 == 0
        assert params["weight_decay"] == float(f"{params['weight_decay']:.5e}")
        assert all(0 <= at <= 1 for at in encode(MIXED, params))
    assert {params["optimizer"] for params, _ in history} == {"adam", "adamw", "sgd"}
    late = np.median([abs(np.log(params["batch_size"] / 30)) for params, _ in history[-12:]])
    assert late < np.median([abs(np.log(params["batch_size"] / 30)) for params, _ in history[:40]])


def test_equal_points_are_pooled_and_unknown_outcomes_do_not_count() -> None:
    here, there = {"x": 0.5, "y": 0.25}, {"x": 0.0, "y": 1.0}
    points, successes, counts = pool(SQUARE, [(here, (1, 0)), (there, (None, 0.5)), (here, (0, None)), (here, (1, 1))])
    assert points.tolist() == [[0.5, 0.25], [0.0, 1.0]]
    assert successes.tolist() == [[2, 1], [0, 0.5]]
    assert counts.tolist() == [[3, 2], [0, 1]]


@pytest.mark.parametrize("outcome", [1.5, -0.1, float("nan")])
def test_a_value_that_is_no_outcome_is_refused(outcome: float) -> None:
    with pytest.raises(ValueError, match="an outcome is 0, 1 or a rate"):
        propose_boundary(SQUARE, [({"x": 0.5, "y": 0.5}, (outcome,))], (), 20, seed=0)


# --- the sampler ---


def two_edges(trial: optuna.Trial) -> tuple[float, float]:
    """Adam works below a small weight decay, AdamW below one a hundred times as large."""
    decay, batch_size = trial.suggest_float("weight_decay", 1e-6, 1.0, log=True), trial.suggest_int("batch_size", 2, 64)
    return float(decay < 1e-4 / batch_size**0.5), float(decay < 1e-2 / batch_size**0.5)


def params_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


@pytest.mark.slow
def test_several_boundaries_share_a_study_and_equal_seeds_give_equal_trials() -> None:
    studies = [optuna.create_study(directions=["maximize"] * 2, sampler=BoundarySampler(seed=5)) for _ in range(2)]
    for study in studies:
        study.optimize(two_edges, n_trials=44)
    assert params_of(studies[0]) == params_of(studies[1])
    levels = [np.log10(p["weight_decay"] * p["batch_size"] ** 0.5) for p in params_of(studies[0])[20:]]
    near = [min(abs(level + 4), abs(level + 2)) < 0.7 for level in levels]
    assert np.mean(near) > 0.5
    assert min(sum(abs(level + 4) < 0.7 for level in levels), sum(abs(level + 2) < 0.7 for level in levels)) >= 4


def test_batches_in_a_database_go_on_with_a_new_sampler(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=storage, study_name="s")
    for _ in range(6):
        study = optuna.load_study(storage=storage, study_name="s", sampler=BoundarySampler(seed=0))
        batch = [study.ask() for _ in range(4)]
        for trial in batch:
            trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        points = np.array([[trial.params["x"], trial.params["y"]] for trial in batch])
        assert len(np.unique(points, axis=0)) == 4
        for trial, works in zip(batch[:3], in_disc(points), strict=False):
            study.tell(trial, float(works))
        study.tell(batch[3], state=TrialState.FAIL)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 18


def test_parameters_that_only_some_trials_have_are_drawn_at_random() -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        trial.suggest_float("fixed", 0.5, 0.5)
        x = trial.suggest_float("x", 0, 1)
        if kind == "b" and trial.suggest_int("extra", 1, 3) == 3 and trial.number < 6:
            raise optuna.TrialPruned
        return float(x > (0.3 if kind == "a" else 0.6))

    study = optuna.create_study(sampler=BoundarySampler(seed=1))
    study.optimize(objective, n_trials=40)
    extras = [params["extra"] for params in params_of(study) if "extra" in params]
    assert set(extras) == {1, 2, 3}
    edges = {kind: [p["x"] for p in params_of(study)[20:] if p["kind"] == kind] for kind in "ab"}
    assert np.median(np.abs(np.array(edges["a"]) - 0.3)) < 0.15
    assert np.median(np.abs(np.array(edges["b"]) - 0.6)) < 0.15


def test_a_study_in_which_all_works_goes_on_looking() -> None:
    study = optuna.create_study(sampler=BoundarySampler(seed=2))
    study.optimize(lambda trial: float(trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1) >= 0), 24)
    points = np.array([list(params.values()) for params in params_of(study)])
    assert len(np.unique(points, axis=0)) == 24
    assert max(np.min(np.linalg.norm(points - one, axis=1)) for one in GRID) < 0.35


@pytest.mark.parametrize("outcome", [7.0, -0.1, float("nan")])
def test_outcomes_are_looked_at_from_the_first_point_on(outcome: float) -> None:
    with pytest.raises(ValueError, match="an outcome is 0, 1 or a rate"):
        propose_boundary(SQUARE, [({"x": 0.1, "y": 0.2}, (outcome,))], (), 1, 0)


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


class WatchedPoints:
    """Points that record, when they are read, how many threads linear algebra has."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self.threads |= blas_threads()
        return np.linspace(0, 1, 8, dtype=dtype)[:, None]


class WatchedParams(dict[str, Any]):
    """A tried point that records the same."""

    threads: ClassVar[set[int]] = set()

    def __getitem__(self, name: str) -> Any:
        self.threads.update(blas_threads())
        return super().__getitem__(name)


def test_linear_algebra_has_one_thread_and_then_as_many_as_before() -> None:
    with threadpool_limits(2, user_api="blas"):
        points = WatchedPoints()
        fit(points, np.arange(8) > 3, np.ones(8))
        propose_boundary(SQUARE, [(WatchedParams(x=x, y=0.5), (float(x > 0.5),)) for x in (0.1, 0.9)], (), 1, 0, 41)
        assert points.threads == WatchedParams.threads == {1}
        assert blas_threads() == {2}
