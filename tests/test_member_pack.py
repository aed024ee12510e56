"""Several members of a pack at once: the same numbers as one by one, also when memory is too small for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from tests.images import image_folders
from trainables.config import TrialConfig
from trainables.image_training import ImageMemberRun
from trainables.member_pack import MemberPackRun, MemberRun
from trainables.registry import config_from_values
from trainables.result import Outcome, TrialResult
from trainables.workload import Member, Report, State

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 8):
        yield


def members() -> list[Member]:
    base = {"workload": "image_classifier", "dataset": "tiny8", "architecture": "resnet8", "weight_decay": 1e-3}
    varied = [
        {"optimizer": o, "seed": s, "batch_size": b} for o, s, b in (("adam", 0, 16), ("adamw", 0, 16), ("adam", 1, 20))
    ]
    configs = [config_from_values({**base, "num_epochs": 4, **values}) for values in varied]
    return [Member(config, config.num_epochs) for config in configs]


def open_member(member: Member) -> MemberRun:
    return ImageMemberRun(member, "eager-cpu", CPU, num_threads=1)


def finish(run: MemberPackRun, seconds: float = math.inf) -> dict[str, TrialResult]:
    results = {}
    while not run.is_done:
        for report in run.advance(seconds):
            if report.result is not None:
                results[report.trial_id] = report.result
    return results


def numbers(results: dict[str, TrialResult]) -> dict[str, object]:
    return {trial_id: (result.outcome, result.trace) for trial_id, result in results.items()}


@pytest.fixture(scope="module")
def one_by_one(images: None) -> dict[str, object]:
    return numbers(finish(MemberPackRun(members(), open_member)))


@pytest.mark.parametrize("at_once", [2, 3, 8])
@pytest.mark.parametrize("seconds", [0.0, math.inf])
def test_members_at_once_have_the_numbers_that_they_have_alone(
    at_once: int, seconds: float, one_by_one: dict[str, object]
) -> None:
    run = MemberPackRun(members(), open_member, lambda num_active: at_once)
    assert numbers(finish(run, seconds)) == one_by_one


class _Crowded:
    """A real member of a device that has memory for `room` of them: with more in training, it runs out of it."""

    active: set[int]
    room: int

    def __init__(self, member: Member, active: set[int], room: int) -> None:
        self._run = open_member(member)
        self._active, self._room = active, room
        active.add(id(self))

    @property
    def config(self) -> TrialConfig:
        return self._run.config

    @property
    def has_begun(self) -> bool:
        return self._run.has_begun

    def advance(self, deadline: float) -> Report:
        if len(self._active) > self._room:
            self._active.discard(id(self))
            raise torch.OutOfMemoryError("out of memory")
        report = self._run.advance(deadline)
        if report.result is not None:
            self._active.discard(id(self))
        return report

    def failed(self, error: str) -> Report:
        return self._run.failed(error)

    def state_arrays(self) -> State:
        return self._run.state_arrays()


def crowded(room: int) -> tuple[MemberPackRun, list[int]]:
    """A pack on such a device, and how many were in training whenever it was asked for more."""
    active: set[int] = set()
    seen: list[int] = []

    def concurrency(num_active: int) -> int:
        seen.append(num_active)
        return 3

    return MemberPackRun(members(), lambda member: _Crowded(member, active, room), concurrency), seen


@pytest.mark.parametrize("room", [1, 2])
def test_where_memory_is_too_small_fewer_train_at_once_and_nothing_is_lost(
    room: int, one_by_one: dict[str, object]
) -> None:
    run, seen = crowded(room)
    assert numbers(finish(run, 0.0)) == one_by_one
    assert max(seen[3:]) <= room, "after the first shortage"


def test_a_member_that_is_too_large_alone_is_a_row_and_the_others_go_on() -> None:
    run, _ = crowded(0)
    results = finish(run, 0.0)
    assert len(results) == 3
    assert {result.outcome for result in results.values()} == {Outcome.FAILED}
    assert all("OutOfMemoryError: out of memory" in str(result.error) for result in results.values())
    assert run.states() == {}
