"""Several members of a pack at once give the same numbers as one by one, even if memory is too small for all."""

from __future__ import annotations

import gc
import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import pytest
import torch

from tests.support.cases import rest_slow
from tests.support.images import image_folders, narrow_vgg16
from trainables.config import TrialConfig
from trainables.contract import Member, Report, State
from trainables.image_classifier import models
from trainables.image_classifier.device import fitting
from trainables.image_classifier.trial import ImageTrainer
from trainables.packs.pack_run import MemberPackRun, MemberRun
from trainables.packs.trial_run import TrialRun
from trainables.registry import config_from_values
from trainables.result import Outcome, TrialResult

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 8, 16):
        yield


def members() -> list[Member]:
    base = {"workload": "image_classifier", "dataset": "tiny8", "architecture": "resnet8", "weight_decay": 1e-3}
    varied = [
        {"optimizer": o, "seed": s, "batch_size": b} for o, s, b in (("adam", 0, 16), ("adamw", 0, 16), ("adam", 1, 20))
    ]
    configs = [config_from_values({**base, "num_epochs": 4, **values}) for values in varied]
    return [Member(config, config.num_epochs) for config in configs]


def open_member(member: Member) -> MemberRun:
    return TrialRun(member, ImageTrainer(member, "eager-cpu", CPU, num_threads=1))


def finish(run: MemberPackRun, seconds: float = math.inf) -> dict[str, TrialResult]:
    results = {}
    while not run.is_done:
        for report in run.advance(seconds):
            if report.result is not None:
                results[report.trial_id] = report.result
    return results


def numbers(results: Mapping[str, TrialResult]) -> dict[str, object]:
    return {trial_id: (result.outcome, result.trace) for trial_id, result in results.items()}


@pytest.fixture(scope="module")
def one_by_one(images: None) -> dict[str, object]:
    return numbers(finish(MemberPackRun(members(), open_member)))


@pytest.mark.parametrize("at_once", rest_slow((3, 2, 8)))
@pytest.mark.parametrize("seconds", [0.0, math.inf])
def test_members_at_once_have_the_numbers_that_they_have_alone(
    at_once: int, seconds: float, one_by_one: dict[str, object]
) -> None:
    run = MemberPackRun(members(), open_member, lambda crowd: at_once)
    assert numbers(finish(run, seconds)) == one_by_one


@pytest.mark.parametrize(("at_once", "recorded"), [(1, 1), (2, 2), (8, 3)])
def test_a_row_says_how_many_trained_side_by_side(at_once: int, recorded: int) -> None:
    results = finish(MemberPackRun(members(), open_member, lambda crowd: at_once))
    assert max(result.provenance.side_by_side for result in results.values()) == recorded
    assert {result.provenance.peak_memory_bytes for result in results.values()} == {None}  # measured on GPUs


def test_threads_leave_the_numbers_of_the_states_alone() -> None:
    """The weights, too, are bitwise the same, not only the trace."""
    ended = []
    for at_once in (1, 3):
        run = MemberPackRun(members(), open_member, lambda crowd, at_once=at_once: at_once)  # type: ignore[misc]
        finish(run, 0.0)
        ended.append({tid: state["weights"].tobytes() for tid, state in run.states().items()})
    assert len(ended[0]) == 3
    assert ended[0] == ended[1]


@pytest.mark.slow
def test_members_with_dropout_do_not_draw_each_others_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16 for large images samples masks from torch's generators, which all threads share."""
    monkeypatch.setattr(models, "vgg16_bn", narrow_vgg16)
    values = {"dataset": "tiny16", "architecture": "vgg16", "image_size": 65, "batch_size": 2, "num_epochs": 1}
    few = {"num_train": 6, "num_test": 3, "optimizer": "signsgd", "weight_decay": 1e-3, "learning_rate": 1e-5}
    configs = [config_from_values({"workload": "image_classifier", **values, **few, "seed": seed}) for seed in (0, 1)]
    two = [Member(config, 1) for config in configs]
    apart = numbers(finish(MemberPackRun(two, open_member)))
    # slices of one step: both are between their seed and their masks at the same time
    assert numbers(finish(MemberPackRun(two, open_member, lambda crowd: 2), 0.0)) == apart


# --- members that fail ---


class _Around:
    """A real member, and what a test makes of it."""

    def __init__(self, member: Member) -> None:
        self._run: MemberRun = open_member(member)

    @property
    def config(self) -> TrialConfig:
        return self._run.config

    @property
    def has_begun(self) -> bool:
        return self._run.has_begun

    def advance(self, deadline: float) -> Report:
        return self._run.advance(deadline)

    def failed(self, error: str) -> Report:
        return self._run.failed(error)

    def state_arrays(self) -> State:
        return self._run.state_arrays()

    def close(self) -> None:
        self._run.close()


class _Breaking(_Around):
    """A real member that raises `error` at its `at`-th slice, wherever `breaks` says so."""

    def __init__(self, member: Member, at: int, breaks: Callable[[], bool], error: Exception) -> None:
        super().__init__(member)
        self._slices_left, self._breaks, self._error = at, breaks, error

    def advance(self, deadline: float) -> Report:
        self._slices_left -= 1
        if self._slices_left < 0 and self._breaks():
            raise type(self._error)(*self._error.args)  # anew: an exception keeps the frames it passed
        return super().advance(deadline)


@pytest.mark.parametrize("at_once", rest_slow((2, 1, 3)))
@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("which", rest_slow((1, 0, 2)))
def test_a_failing_member_is_a_row_with_its_traceback_and_its_neighbours_never_notice(
    which: int, at: int, at_once: int, one_by_one: dict[str, object]
) -> None:
    broken = members()[which].config.trial_id

    def opened(member: Member) -> MemberRun:
        if member.config.trial_id != broken:
            return open_member(member)
        return _Breaking(member, at, lambda: True, RuntimeError("torn image"))

    run = MemberPackRun(members(), opened, lambda crowd: at_once)
    results = finish(run, 0.0)
    failed = results.pop(broken)
    assert failed.outcome is Outcome.FAILED
    assert failed.error is not None
    assert failed.error.startswith("Traceback (most recent call last)")
    assert failed.error.endswith("RuntimeError: torn image\n")
    assert numbers(results) == {tid: result for tid, result in one_by_one.items() if tid != broken}
    assert set(run.states()) == set(results)


def test_a_fault_of_the_device_itself_loses_the_pack_and_fails_no_trial() -> None:
    """Afterwards nothing runs in this process, so the other members would fail, too."""
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    run = MemberPackRun(members(), lambda member: _Breaking(member, 0, lambda: True, error), lambda crowd: 2)
    with pytest.raises(torch.AcceleratorError):
        run.advance(0.0)


# --- a device shared ---


class _Watched(_Around):
    """A real member that records which others train during its first step, and when it was closed."""

    training: ClassVar[list[str]] = []
    first_steps_beside: ClassVar[list[int]] = []
    closed: ClassVar[list[str]] = []

    def advance(self, deadline: float) -> Report:
        is_first = not self.has_begun
        self.training.append(self.config.trial_id)
        num_others = len(self.training) - 1
        try:
            report = super().advance(deadline)
            if is_first:
                self.first_steps_beside.append(max(num_others, len(self.training) - 1))
                time.sleep(0.05)  # who begins meanwhile is seen
            return report
        finally:
            self.training.remove(self.config.trial_id)

    def state_arrays(self) -> State:
        assert self.config.trial_id not in self.closed
        return super().state_arrays()

    def close(self) -> None:
        self.closed.append(self.config.trial_id)
        super().close()


def test_members_begin_alone_and_give_back_what_they_hold_when_they_end(one_by_one: dict[str, object]) -> None:
    run = MemberPackRun(members(), _Watched, lambda crowd: 3)
    assert numbers(finish(run, 0.0)) == one_by_one
    assert _Watched.first_steps_beside == [0, 0, 0]
    assert sorted(_Watched.closed) == sorted(member.config.trial_id for member in members())


def test_members_that_run_out_of_memory_leave_none_of_it_behind() -> None:
    """Exceptions keep frames, and frames keep the tensors of a model: garbage collection would free them too late."""
    alive: list[weakref.ref[MemberRun]] = []
    active: set[int] = set()

    def opened(member: Member) -> MemberRun:
        run = _Crowded(member, active, 1)
        alive.append(weakref.ref(run))
        return run

    run = MemberPackRun(members()[:2], opened, lambda crowd: 2)
    gc.disable()
    try:
        run.advance(0.0)
        assert [ref() is None for ref in alive] == [False, True]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("crowd", "taken", "fit"),
    [(0, 0, 1), (0, 50, 1), (1, 10, 6), (1, 100, 1), (2, 20, 6), (8, 80, 6), (1, 1, 8), (1, 0, 1)],
)
def test_how_many_fit_is_judged_by_what_a_crowd_took(crowd: int, taken: float, fit: int) -> None:
    """Also after most of the crowd has ended, since the memory it took is the peak, which stays."""
    assert fitting(crowd, taken, budget=64, most=8) == fit


# --- too little memory ---

SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
"""What torch raises for it: in its own allocator, in CUDA's calls, in a convolution, in cuBLAS."""


def slices(at_once: int, saves: bool) -> tuple[list[int], dict[str, TrialResult]]:
    """A pack whose first member runs out of shared memory once, in its 7th slice.

    Returns the step from which each opened run of that member went on, and the pack's results.
    """
    first = members()[0].config.trial_id
    begun_at: list[int] = []

    def opened(member: Member) -> MemberRun:
        if member.config.trial_id != first:
            return open_member(member)
        begun_at.append(0 if member.state is None else int(member.state["step"]))
        return _Breaking(member, 6, lambda: len(begun_at) == 1, torch.OutOfMemoryError("out of memory"))

    run = MemberPackRun(members(), opened, lambda crowd: at_once)
    results: dict[str, TrialResult] = {}
    for number in itertools.count():
        if run.is_done:
            return begun_at, results
        if saves and number == 4:
            saved = run.states()[first]
            assert int(saved["step"]) == 3, "two slices went into the initial weights' errors"
        results |= {report.trial_id: report.result for report in run.advance(0.0) if report.result is not None}
        if saves and number >= 6:
            assert first in run.states(), "a member that was put back keeps its place in what is saved"
    raise AssertionError("unreachable")


@pytest.mark.parametrize("at_once", rest_slow((2, 3)))
@pytest.mark.parametrize(("saves", "goes_on_at"), [(True, 3), (False, 0)])
def test_a_member_put_back_goes_on_from_its_last_saved_state(
    saves: bool, goes_on_at: int, at_once: int, one_by_one: dict[str, object]
) -> None:
    begun_at, results = slices(at_once, saves)
    assert begun_at == [0, goes_on_at]
    assert numbers(results) == one_by_one


def test_members_resumed_and_put_back_go_on_from_where_they_were_resumed(one_by_one: dict[str, object]) -> None:
    earlier = MemberPackRun(members(), open_member, lambda crowd: 3)
    for _ in range(8):
        earlier.advance(0.0)
    states = earlier.states()
    resumed = [Member(m.config, m.until_epoch, states[m.config.trial_id]) for m in members()]
    active: set[int] = set()
    run = MemberPackRun(resumed, lambda member: _Crowded(member, active, 1), lambda crowd: 3)
    lowest = dict.fromkeys(states, math.inf)
    results: dict[str, TrialResult] = {}
    while not run.is_done:
        results |= {report.trial_id: report.result for report in run.advance(0.0) if report.result is not None}
        for tid, state in run.states().items():
            lowest[tid] = min(lowest[tid], int(state["step"]))
    begun_at = {tid: int(state["step"]) for tid, state in states.items()}
    assert min(begun_at.values()) >= 5
    assert all(lowest[tid] >= begun_at[tid] for tid in states), "no work is lost"
    assert any(lowest[tid] == begun_at[tid] for tid in states), "some were put back"
    assert numbers(results) == one_by_one


class _Crowded(_Around):
    """A real member of a device with memory for `room` members: if more train, it runs out of memory."""

    def __init__(self, member: Member, active: set[int], room: int, error: Exception = SHORTAGES[0]) -> None:
        super().__init__(member)
        self._active, self._room, self._error = active, room, error
        self.is_closed = False
        active.add(id(self))

    def advance(self, deadline: float) -> Report:
        if len(self._active) > self._room:
            self._active.discard(id(self))
            raise type(self._error)(*self._error.args)  # anew: an exception keeps the frames it passed
        report = super().advance(deadline)
        if report.result is not None:
            self._active.discard(id(self))
        return report

    def close(self) -> None:
        self.is_closed = True
        super().close()


def crowded(room: int, error: Exception = SHORTAGES[0]) -> tuple[MemberPackRun, list[_Crowded]]:
    """A pack on such a device, and all runs that it opens, including those that ran out of memory and wait."""
    active: set[int] = set()
    opened: list[_Crowded] = []

    def open_crowded(member: Member) -> MemberRun:
        opened.append(_Crowded(member, active, room, error))
        return opened[-1]

    return MemberPackRun(members(), open_crowded, lambda crowd: 3), opened


@pytest.mark.parametrize("error", rest_slow(SHORTAGES), ids=str)
@pytest.mark.parametrize("room", [1, 2])
def test_where_memory_is_too_small_fewer_train_at_once_and_nothing_is_lost(
    room: int, error: Exception, one_by_one: dict[str, object]
) -> None:
    run, opened = crowded(room, error)
    assert numbers(finish(run, 0.0)) == one_by_one
    assert len(opened) == 3 + 1, "one shortage tells how many fit"
    assert all(one.is_closed for one in opened)


def test_a_member_that_is_too_large_alone_is_a_row_and_the_others_go_on() -> None:
    run, _ = crowded(0)
    results = finish(run, 0.0)
    assert len(results) == 3
    assert {result.outcome for result in results.values()} == {Outcome.FAILED}
    for result in results.values():
        assert str(result.error).startswith("Traceback (most recent call last)")
        assert "OutOfMemoryError: CUDA out of memory" in str(result.error)
    assert run.states() == {}
