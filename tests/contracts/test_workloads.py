"""The contract of `PackRun` for every registered workload and engine: no member changes another's numbers."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.examples import example_of
from tests.support.images import image_folders
from tests.support.launching import PLANTED_SECONDS, plant_seconds
from tests.support.registration import TOYS, registered
from trainables.config import TrialConfig
from trainables.contract import Member, PackRun, Report, State
from trainables.errors import ConfigError
from trainables.outcome import outcome
from trainables.packs.orders import MemberOrder, PackOrder
from trainables.packs.state_store import StateStore
from trainables.packs.worker import PackWorker
from trainables.registry import WORKLOADS, config_from_values, workload
from trainables.result import SATISFYING, Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint
from trainables.two_layer_cnn.trace import trace_epochs, trace_point

Results = dict[str, TrialResult]


with registered(*TOYS):
    TINY = {name: example_of(name) for name in WORKLOADS}


@pytest.fixture(autouse=True, scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Provides the data set that the image workload's examples name, and a user's workload and optimizer."""
    with image_folders(tmp_path_factory.mktemp("images"), 8), registered(*TOYS):
        yield


def config(name: str, **values: Any) -> TrialConfig:
    return config_from_values({"workload": name, **TINY[name].base, **values})


def configs(name: str) -> list[TrialConfig]:
    return [config(name, **values) for values in TINY[name].members]


def to_the_end(one: TrialConfig, state: State | None = None) -> Member:
    return Member(one, one.num_epochs, state)


def finish(run: PackRun, seconds: Callable[[], float] = lambda: math.inf) -> tuple[Results, list[Report]]:
    """Advance until done, in slices of `seconds()`."""
    reports: list[Report] = []
    while not run.is_done:
        some = run.advance(seconds())
        assert some, "a pack that is not done has news"
        reports += some
    results = [report.result for report in reports if report.result is not None]
    assert len({result.trial_id for result in results}) == len(results), "one result a member"
    return {result.trial_id: result for result in results}, reports


def through_a_file(states: Mapping[str, State]) -> dict[str, State]:
    """Save and load as numpy archives without pickles, as a checkpoint does."""
    loaded = {}
    for trial_id, state in states.items():
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **dict(state))
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            loaded[trial_id] = dict(archive)
    return loaded


def numbers(result: TrialResult) -> tuple[Any, ...]:
    """The fields of a result that must not depend on how its trial was run; floats as exact text."""
    points = [dataclasses.astuple(point) for point in result.trace]
    trace = [[None if value is None else float(value).hex() for value in point] for point in points]
    digests = (result.data_digest, result.init_digest, result.order_digest)
    return result.trial_id, result.outcome, result.epochs_done, trace, digests, result.error


def all_numbers(results: Results) -> dict[str, tuple[Any, ...]]:
    return {trial_id: numbers(result) for trial_id, result in results.items()}


@functools.cache
def alone(name: str, engine: str, one: TrialConfig) -> TrialResult:
    """The trial, trained undisturbed as a pack of one."""
    results, _ = finish(workload(name).open([to_the_end(one)], engine=engine))
    return results[one.trial_id]


def all_alone(name: str, engine: str) -> dict[str, tuple[Any, ...]]:
    """Numbers of each example member alone."""
    return all_numbers({one.trial_id: alone(name, engine, one) for one in configs(name)})


class Unreadable(dict[str, Any]):
    """A state in a file that can no longer be read."""

    def __getitem__(self, name: str) -> Any:
        raise OSError("the disk is gone")


def _weights(state: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {**state, "weights": change(state["weights"])}


DAMAGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "torn": lambda state: {name: array for name, array in state.items() if name != "weights"},
    "late": lambda state: {**state, "epoch": np.array(10**6)},
    "negative": lambda state: {**state, "epoch": np.array(-5)},
    "epochs": lambda state: {**state, "epoch": np.arange(3)},
    "half an epoch": lambda state: {**state, "epoch": np.array(0.5)},
    "wider": lambda state: _weights(state, lambda weights: weights.astype(np.float16)),
    "more": lambda state: _weights(state, lambda weights: np.concatenate([weights, weights])),
    "unknown array": lambda state: {**state, "third_moment": state["weights"]},
    "unmeasured": lambda state: {**state, "trace": state["trace"][:, :-1]},
    "reversed": lambda state: {**state, "trace": np.concatenate([state["trace"], state["trace"]])},
    "negative time": lambda state: {**state, "train_seconds": np.array(-1.0)},
}
"""What may be wrong with a state whose file is sound."""


CASES = [(name, engine) for name in TINY for engine in TINY[name].engines]


@pytest.mark.parametrize(("name", "engine"), CASES)
class TestContract:
    """What `trainables.contract` promises; registering a workload tests it."""

    def open(self, name: str, engine: str, members: Sequence[Member]) -> PackRun:
        return workload(name).open(members, engine=engine)

    def test_members_share_a_pack(self, name: str, engine: str) -> None:
        assert len({workload(name).pack_key(one) for one in configs(name)}) == 1

    def test_a_result_is_complete(self, name: str, engine: str) -> None:
        for one in configs(name):
            result = alone(name, engine, one)
            assert result.config == one
            assert result.outcome in SATISFYING
            assert result.epochs_done == one.num_epochs
            assert [point.epoch for point in result.trace][:: len(result.trace) - 1] == [0, one.num_epochs]
            assert type(result.trace[0]) is workload(name).trace_point_type
            assert result.provenance.engine == engine
            assert result.train_seconds > 0
            assert result.error is None
            assert None not in (result.data_digest, result.init_digest, result.order_digest)

    def test_cost_and_memory_are_positive_and_grow(self, name: str, engine: str) -> None:
        small, long = config(name), config(name, num_epochs=10**4)
        assert 0 < workload(name).cost(small) < workload(name).cost(long)
        assert workload(name).memory(small) > 0

    @pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1], pytest.param([3, 2, 1, 0], marks=pytest.mark.slow)])
    def test_alone_and_in_any_pack(self, name: str, engine: str, order: list[int]) -> None:
        members = [to_the_end(configs(name)[i]) for i in order]
        results, _ = finish(self.open(name, engine, members))
        assert all_numbers(results) == all_alone(name, engine)

    @pytest.mark.parametrize("seconds", [0.0, 2e-2, pytest.param(1e-3, marks=pytest.mark.slow)])
    def test_any_slicing(self, name: str, engine: str, seconds: float) -> None:
        results, reports = finish(self.open(name, engine, [to_the_end(one) for one in configs(name)]), lambda: seconds)
        assert all_numbers(results) == all_alone(name, engine)
        for trial_id, result in results.items():
            own = [report for report in reports if report.trial_id == trial_id]
            assert tuple(point for report in own for point in report.points) == result.trace, "each point once"
            assert [report.epochs_done for report in own] == sorted(report.epochs_done for report in own)

    @pytest.mark.parametrize("num_slices", [1, 8, pytest.param(40, marks=pytest.mark.slow)])
    def test_resumed_in_another_pack(self, name: str, engine: str, num_slices: int) -> None:
        first = self.open(name, engine, [to_the_end(one) for one in configs(name)])
        early: list[Report] = []
        for _ in range(num_slices):
            early += first.advance(0)
        states = through_a_file(first.states())
        ended = {report.trial_id for report in early if report.result is not None}
        begun = {report.trial_id for report in early}
        assert set(states) == begun
        rest = [to_the_end(one, states.get(one.trial_id)) for one in configs(name) if one.trial_id not in ended]
        random.Random(num_slices).shuffle(rest)
        results, _ = finish(self.open(name, engine, rest))
        done = {report.trial_id: report.result for report in early if report.result is not None}
        assert all_numbers(results | done) == all_alone(name, engine)

    def test_states_are_copies(self, name: str, engine: str) -> None:
        run = self.open(name, engine, [to_the_end(one) for one in configs(name)])
        run.advance(0)
        (before,) = run.states().values()
        frozen = {key: array.copy() for key, array in before.items()}
        finish(run)
        assert all(np.array_equal(before[key], frozen[key]) for key in frozen)

    def test_a_resumed_state_is_not_changed(self, name: str, engine: str) -> None:
        run = self.open(name, engine, [to_the_end(config(name))])
        run.advance(0)
        state = run.states()[config(name).trial_id]
        frozen = {key: array.copy() for key, array in state.items()}
        again = [finish(self.open(name, engine, [to_the_end(config(name), state)]))[0] for _ in range(2)]
        assert all_numbers(again[0]) == all_numbers(again[1])
        assert all(np.array_equal(state[key], frozen[key]) for key in frozen)

    def test_stopped_early_is_unfinished_and_goes_on(self, name: str, engine: str) -> None:
        half = min(one.num_epochs for one in configs(name)) // 2
        members = [Member(one, half) for one in configs(name)]
        run = self.open(name, engine, members)
        results, _ = finish(run)
        assert {result.outcome for result in results.values()} == {Outcome.UNFINISHED}
        assert {result.epochs_done for result in results.values()} == {half}
        assert not any(result.outcome in SATISFYING for result in results.values())
        states = through_a_file(run.states())
        assert set(states) == set(results)
        going_on = [to_the_end(one, states[one.trial_id]) for one in reversed(configs(name))]
        later, _ = finish(self.open(name, engine, going_on))
        assert all_numbers(later) == all_alone(name, engine)

    def test_a_finished_state_ends_at_once(self, name: str, engine: str) -> None:
        run = self.open(name, engine, [to_the_end(config(name))])
        results, _ = finish(run)
        again = self.open(name, engine, [to_the_end(config(name), run.states()[config(name).trial_id])])
        (report,) = again.advance(0)
        assert again.is_done
        assert report.result is not None
        assert numbers(report.result) == numbers(results[config(name).trial_id])

    def test_a_failing_member_is_a_row(self, name: str, engine: str) -> None:
        """A member whose state cannot be read fails with its traceback, and the other members are unaffected."""
        members = [to_the_end(one) for one in configs(name)]
        members[0] = to_the_end(config(name), Unreadable())
        run = self.open(name, engine, members)
        results, _ = finish(run)
        failed = results.pop(config(name).trial_id)
        assert failed.outcome is Outcome.FAILED
        assert failed.outcome not in SATISFYING
        assert failed.error is not None
        assert failed.error.startswith("Traceback (most recent call last)")
        assert "the disk is gone" in failed.error
        assert set(run.states()) == set(results), "a failed member has no state to go on from"
        assert len(results) == len(members) - 1
        assert all_numbers(results) == {trial_id: all_alone(name, engine)[trial_id] for trial_id in results}

    @pytest.mark.parametrize(
        "damage",
        ["torn", "late", *(pytest.param(one, marks=pytest.mark.slow) for one in sorted({*DAMAGES} - {"torn", "late"}))],
    )
    def test_a_state_that_cannot_be_its_own_starts_anew(
        self, name: str, engine: str, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Such a state would give a settled row with other numbers, or a failed one."""
        one = config(name)
        run = self.open(name, engine, [to_the_end(one)])
        run.advance(0)
        run.advance(0)
        wrong = DAMAGES[damage](dict(run.states()[one.trial_id]))
        results, _ = finish(self.open(name, engine, [to_the_end(one, wrong)]))
        assert numbers(results[one.trial_id]) == all_alone(name, engine)[one.trial_id]
        (record,) = caplog.records
        assert record.getMessage().startswith(f"trial {one.trial_id} starts anew, its saved state is not used: ")
        assert "\n" not in record.getMessage()

    @pytest.mark.parametrize("kind", ["missing", "of another shape", "of another type"])
    @pytest.mark.slow
    def test_every_array_of_a_state_counts(self, name: str, engine: str, kind: str) -> None:
        one = config(name)
        run = self.open(name, engine, [to_the_end(one)])
        run.advance(0)
        run.advance(0)
        state = dict(run.states()[one.trial_id])
        for array in state.keys() - {"engine"}:
            wrong = dict(state)
            given = wrong.pop(array)
            if kind == "of another shape":
                wrong[array] = np.stack([given, given])
            elif kind == "of another type":
                wrong[array] = given.astype(np.complex128) if given.dtype.kind in "iuf" else np.array(3)
            results, _ = finish(self.open(name, engine, [to_the_end(one, wrong)]))
            assert numbers(results[one.trial_id]) == all_alone(name, engine)[one.trial_id], array

    def test_a_diverging_member_keeps_its_trace(self, name: str, engine: str) -> None:
        diverging = config(name, **TINY[name].diverging)
        members = [to_the_end(one) for one in configs(name)]
        members.insert(1, to_the_end(diverging))
        results, _ = finish(self.open(name, engine, members))
        result = results.pop(diverging.trial_id)
        assert result.outcome is Outcome.DIVERGED
        assert result.outcome in SATISFYING
        assert 0 < result.epochs_done < diverging.num_epochs
        assert result.trace[-1].epoch == result.epochs_done
        assert not math.isfinite(result.trace[-1].train_loss + result.trace[-1].weight_norm)
        assert all(math.isfinite(point.train_loss + point.weight_norm) for point in result.trace[:-1])
        assert all_numbers(results) == all_alone(name, engine)

    def test_forgotten_members_leave_the_states(self, name: str, engine: str) -> None:
        run = self.open(name, engine, [to_the_end(one) for one in configs(name)])
        finish(run)
        first, *rest = (one.trial_id for one in configs(name))
        assert set(run.states()) == {first, *rest}
        run.forget([first, "never-heard-of"])
        assert set(run.states()) == set(rest)

    def test_pairs_share_data_weights_and_order(self, name: str, engine: str) -> None:
        adam, adamw, other = (
            alone(name, engine, config(name, **values))
            for values in ({"optimizer": "adam"}, {"optimizer": "adamw"}, {"seed": 5})
        )
        digests = [(r.data_digest, r.init_digest, r.order_digest) for r in (adam, adamw, other)]
        assert digests[0] == digests[1]
        drawn = 0 if TINY[name].seed_draws_data else 1  # images do not depend on the seed
        assert not set(digests[0][drawn:]) & set(digests[2][drawn:])

    def test_no_decay_no_difference(self, name: str, engine: str) -> None:
        halves = [alone(name, engine, config(name, optimizer=o, weight_decay=0)) for o in ("adam", "adamw")]
        assert numbers(halves[0])[1:] == numbers(halves[1])[1:]

    def test_every_trace_column_is_filled(self, name: str, engine: str) -> None:
        """A column that is null or nan in every point of every trial is never measured."""
        points = [point for one in configs(name) for point in alone(name, engine, one).trace]
        assert {type(point) for point in points} == {workload(name).trace_point_type}
        columns = [column.name for column in dataclasses.fields(workload(name).trace_point_type)]
        values = {column: [getattr(point, column) for point in points] for column in columns}
        assert [c for c in columns if not any(v is not None and math.isfinite(v) for v in values[c])] == []

    def test_a_row_is_flat(self, name: str, engine: str) -> None:
        result = alone(name, engine, config(name))
        row = result.trial_row()
        assert row["trial_id"] == config(name).trial_id
        assert row["test_error"] == result.trace[-1].test_error
        assert row["outcome"] == result.outcome
        assert all(value is None or isinstance(value, str | int | float | bool) for value in row.values())
        assert [trace["epoch"] for trace in result.trace_rows()] == [point.epoch for point in result.trace]


@pytest.mark.parametrize("name", TINY)
def test_a_worker_goes_on_from_the_state_files_of_its_order_and_from_no_others(name: str, tmp_path: Path) -> None:
    store = StateStore(str(tmp_path / "states"))

    def worker(pack_id: str, state_paths: Mapping[str, str]) -> PackWorker:
        members = tuple(MemberOrder(one, state_path=state_paths.get(one.trial_id)) for one in configs(name))
        return PackWorker(
            PackOrder(pack_id=pack_id, members=members, states_root=str(tmp_path / "states"), checkpoint_seconds=0.0)
        )

    killed = worker("killed", {})
    while len(store.index()) < 2:
        killed.step(0.0)
    plant_seconds(tmp_path, name)  # else a row that was trained anew would look the same
    paths = store.index()
    ended, half_done, *_ = (one.trial_id for one in configs(name))
    assert paths.keys() == {ended, half_done}
    later, reports = worker("later", {half_done: paths[half_done]}), []
    while not later.is_done:
        reports += later.step()
    results = {report.trial_id: report.result for report in reports if report.result is not None}
    assert all_numbers(results) == all_alone(name, TINY[name].engines[0])
    assert [tid for tid, result in results.items() if result.train_seconds > PLANTED_SECONDS] == [half_done]


SEVERAL_ENGINES = [name for name in TINY if len(TINY[name].engines) > 1]


@pytest.mark.parametrize("name", TINY)
class TestOpening:
    def test_an_unknown_engine_is_one_line(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"^unknown engine 'warp' \(known: .*\)$"):
            workload(name).open([], engine="warp")

    def test_an_unknown_device_is_one_line(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"^.*device.*'abacus'[^\n]*$"):
            workload(name).open([], device="abacus")

    def test_an_empty_pack_is_done(self, name: str) -> None:
        run = workload(name).open([])
        assert run.is_done
        assert run.advance(1) == []

    def test_the_engine_is_chosen_and_recorded(self, name: str) -> None:
        results, _ = finish(workload(name).open([to_the_end(config(name))]))
        assert results[config(name).trial_id].provenance.engine == TINY[name].engines[0]


@pytest.mark.parametrize("name", SEVERAL_ENGINES)
def test_another_engines_state_is_not_continued(name: str) -> None:
    """Engines round differently, so one engine trains a whole trajectory."""
    one = config(name)
    first, second = TINY[name].engines[:2]
    run = workload(name).open([to_the_end(one)], engine=first)
    run.advance(0)
    mixed, _ = finish(workload(name).open([to_the_end(one, run.states()[one.trial_id])], engine=second))
    plain, _ = finish(workload(name).open([to_the_end(one)], engine=second))
    assert all_numbers(mixed) == all_numbers(plain)


# --- the two-layer CNN's grid and outcomes ---


@pytest.mark.parametrize("num_epochs", [1, 2, 9, 10, 11, 999, 1000, 2000, 10_000, 12_345])
def test_trace_grid_includes_both_ends_and_does_not_depend_on_the_length(num_epochs: int) -> None:
    grid = trace_epochs(num_epochs)
    assert grid[0] == 0
    assert grid[-1] == num_epochs
    assert list(grid) == sorted(set(grid))
    longer = [epoch for epoch in trace_epochs(10**6) if epoch <= num_epochs]
    assert set(grid) - {num_epochs} == set(longer) - {num_epochs}


def test_trace_grid_is_about_ten_points_a_decade() -> None:
    assert 35 <= len(trace_epochs(10_000)) <= 40
    assert {10, 100, 1000} <= set(trace_epochs(10_000))
    grid = np.array(trace_epochs(10**6)[10:], dtype=np.float64)
    assert (grid[1:] / grid[:-1] < 1.35).all()


def point(**values: float) -> TwoLayerCNNTracePoint:
    fields = {field.name: 0.0 for field in dataclasses.fields(TwoLayerCNNTracePoint)}
    numbers = fields | {"train_loss": 0.01, "weight_norm": 2.0} | values
    return TwoLayerCNNTracePoint(**{**numbers, "epoch": 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"train_error": 0.0, "test_error": 0.0}, Outcome.LEARNED),
        ({"train_error": 0.01, "test_error": 0.2499}, Outcome.LEARNED),
        ({"train_error": 0.0, "test_error": 0.25}, Outcome.MEMORIZED),
        ({"train_error": 0.0, "test_error": 0.95}, Outcome.MEMORIZED),
        ({"train_error": 0.02, "test_error": 0.0}, Outcome.UNDERFIT),
        ({"train_loss": math.log(2), "weight_norm": 1e-6, "train_error": 0.002, "test_error": 0.002}, Outcome.STUCK),
        ({"train_loss": math.log(2), "weight_norm": 1e-6, "train_error": 0.99, "test_error": 0.99}, Outcome.STUCK),
        ({"train_loss": 0.68, "weight_norm": 0.1, "train_error": 0.0, "test_error": 0.0}, Outcome.LEARNED),
        ({"train_loss": math.log(2), "weight_norm": 2.0, "train_error": 0.5, "test_error": 0.5}, Outcome.UNDERFIT),
        ({"train_loss": 0.3, "weight_norm": 0.5, "train_error": 0.5, "test_error": 0.5}, Outcome.UNDERFIT),
        ({"train_loss": math.nan}, Outcome.DIVERGED),
        ({"train_loss": math.log(2), "weight_norm": math.inf}, Outcome.DIVERGED),
    ],
)
def test_outcome_rules(last: dict[str, float], expected: Outcome) -> None:
    assert outcome([point(train_loss=math.log(2)), point(**last)], num_classes=2) is expected


def test_a_collapse_is_stuck_whatever_its_error() -> None:
    """Figure 5 at a small scale: a strong coupled decay shrinks the weights far below their initial norm."""
    one = config("two_layer_cnn", weight_decay=5.0, num_epochs=200)
    results, _ = finish(workload("two_layer_cnn").open([to_the_end(one)]))
    result = results[one.trial_id]
    assert result.outcome is Outcome.STUCK
    assert result.trace[-1].weight_norm < 0.1 * result.trace[0].weight_norm


def test_a_trace_point_by_hand() -> None:
    """Two filters for each class in four dimensions, so that each number of figures 3-6 can be computed by hand."""
    from trainables.two_layer_cnn.patch_data import PatchData, PatchSamples
    from trainables.two_layer_cnn.state import Probe, TrainState

    def samples(labels: list[float]) -> PatchSamples:
        n = len(labels)
        return PatchSamples(np.array(labels), np.zeros((n, 2), np.uint32), np.zeros((n, 2)), np.zeros(n, np.bool_))

    one = config("two_layer_cnn", dimension=4, noise_sparsity=1, num_filters=2, num_train=3)
    assert isinstance(one, TwoLayerCNNConfig)
    weights = np.array([[0.3, 0.1, -0.6, -0.2], [0.0, 0.0, 0.0, 1.0], [0.0] * 4, [0.0] * 4])
    probe = Probe(
        train_margins=np.array([2.0, 0.0, -1.0]),
        test_margins=np.array([1.0, 1.0, np.nan, 3.0]),
        noise=np.array([[0.1, 0.2, 9.0, 9.0], [0.5, -7.0, 9.0, 9.0], [9.0, 9.0, -0.4, -0.3]]),
    )
    data = PatchData(samples([1.0, 1.0, -1.0]), samples([1.0, -1.0, -1.0, 1.0]), digest="")
    state = TrainState(7, 21, weights, np.zeros_like(weights), np.zeros_like(weights))
    got = trace_point(one, data, state, probe)
    assert got == TwoLayerCNNTracePoint(
        epoch=7,
        train_loss=pytest.approx((math.log1p(math.exp(-2)) + math.log(2) + math.log1p(math.exp(-1))) / 3, rel=1e-15),
        train_error=pytest.approx(1 / 3),
        test_error=0.5,
        weight_norm=pytest.approx(math.sqrt(0.09 + 0.01 + 0.36 + 0.04 + 1.0), rel=1e-15),
        train_error_positive=0.5,
        train_error_negative=0.0,
        test_error_positive=0.0,
        test_error_negative=1.0,
        feature_learning_positive=0.3,
        feature_learning_negative=0.6,
        noise_min_positive=0.2,
        noise_min_negative=-0.3,
        noise_max_positive=0.5,
        noise_max_negative=-0.3,
    )


def test_a_class_without_samples_has_no_numbers() -> None:
    one = config("two_layer_cnn", num_train=1, batch_size=1, num_epochs=1)
    results, _ = finish(workload("two_layer_cnn").open([to_the_end(one)]))
    last = results[one.trial_id].trace[-1]
    assert isinstance(last, TwoLayerCNNTracePoint)
    assert math.isnan(last.train_error_negative)
    assert math.isnan(last.noise_min_negative)
    assert math.isfinite(last.noise_min_positive)
