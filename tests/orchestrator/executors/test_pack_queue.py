"""Packs are cut late and sized by the remaining work; lost members are retried until a deadly one is alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.executors.pack_queue import LONGEST_PACK_SECONDS, PackQueue, PackSettings
from orchestrator.executors.retries import MAX_LOSSES
from trainables.config import TrialConfig, make_config
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.packs.orders import MemberOrder
from trainables.provenance import provenance
from trainables.registry import workload
from trainables.result import Outcome, TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig

SETTINGS = PackSettings(states_root="unused", checkpoint_seconds=30.0)


def configs(num_seeds: int = 10, **fields: object) -> list[TrialConfig]:
    values = {"optimizer": "adam", "weight_decay": 1e-5, "batch_size": 2, **fields}
    return [TwoLayerCNNConfig(seed=seed, **values) for seed in range(num_seeds)]


def queue_of(trials: Sequence[TrialConfig]) -> PackQueue:
    queue = PackQueue(SETTINGS)
    queue.add([MemberOrder(config) for config in trials])
    queue.close()
    return queue


def result_of(config: TrialConfig, outcome: Outcome = Outcome.LEARNED, epochs_done: int = 1) -> TrialResult:
    return TrialResult(
        config=config,
        outcome=outcome,
        epochs_done=epochs_done,
        trace=(),
        data_digest=None,
        init_digest=None,
        order_digest=None,
        train_seconds=0.0,
        finished_at=0.0,
        provenance=provenance("none"),
    )


def cost(trials: Sequence[TrialConfig]) -> float:
    return sum(workload(c.workload).cost(c) for c in trials)


def test_every_trial_is_in_exactly_one_pack_and_packs_shrink() -> None:
    trials = configs(20) + configs(20, batch_size=20) + configs(20, batch_size=200)
    queue = queue_of(trials)
    packs = []
    while (order := queue.next_pack(slots=2)) is not None:
        packs.append([member.config for member in order.members])
        for member in order.members:
            assert queue.ended(result_of(member.config))
        assert queue.completed(order.pack_id) == []
    seen = [config.trial_id for pack in packs for config in pack]
    assert sorted(seen) == sorted(config.trial_id for config in trials)
    costs = [cost(pack) for pack in packs]
    assert len(packs) > 4
    assert costs[0] == max(costs)
    assert max(costs) <= LONGEST_PACK_SECONDS
    assert queue.is_finished


def test_more_slots_cut_smaller_packs() -> None:
    few, many = queue_of(configs(200, batch_size=200)), queue_of(configs(200, batch_size=200))
    first, other = few.next_pack(slots=1), many.next_pack(slots=16)
    assert first is not None
    assert other is not None
    assert len(first.members) > len(other.members)


def test_members_of_a_pack_share_the_pack_key() -> None:
    queue = queue_of(configs(5, num_epochs=10) + configs(5, num_epochs=10, dimension=500))
    keys = []
    while (order := queue.next_pack(slots=1)) is not None:
        pack_keys = {workload("two_layer_cnn").pack_key(member.config) for member in order.members}
        assert len(pack_keys) == 1
        keys.append(pack_keys.pop())
    assert len(set(keys)) == 2


def test_costly_trials_start_first() -> None:
    queue = queue_of(configs(3, batch_size=200) + configs(3, batch_size=2))
    order = queue.next_pack(slots=2)
    assert order is not None
    assert order.members[0].config.batch_size == 2


def test_a_lost_pack_comes_back_in_halves_until_the_deadly_member_is_alone() -> None:
    trials = configs(8, num_epochs=5)
    deadly = trials[5].trial_id
    queue = queue_of(trials)
    given_up, num_packs = [], 0
    while not queue.is_finished:
        order = queue.next_pack(slots=1)
        assert order is not None
        num_packs += 1
        if any(member.config.trial_id == deadly for member in order.members):
            given_up += queue.lost(order.pack_id, "killed", {})
        else:
            for member in order.members:
                queue.ended(result_of(member.config))
            queue.completed(order.pack_id)
    assert [result.trial_id for result in given_up] == [deadly]
    assert given_up[0].outcome is Outcome.FAILED
    assert given_up[0].error is not None
    assert "killed" in given_up[0].error
    assert num_packs < 3 * len(trials)


def test_members_that_reported_before_the_loss_do_not_run_again_and_states_are_passed_on() -> None:
    trials = configs(4, num_epochs=5)
    queue = queue_of(trials)
    order = queue.next_pack(slots=1)
    assert order is not None
    queue.ended(result_of(order.members[0].config))
    half_done = order.members[1].config.trial_id
    assert queue.lost(order.pack_id, "killed", {half_done: "a-state-file"}) == []
    again = []
    while (next_order := queue.next_pack(slots=1)) is not None:
        again += list(next_order.members)
    assert {member.config.trial_id for member in again} == {member.config.trial_id for member in order.members[1:]}
    assert [m.state_path for m in again if m.config.trial_id == half_done] == ["a-state-file"]
    assert {member.attempt for member in again} == {2}


def test_a_result_counts_once() -> None:
    (trial,) = configs(1)
    queue = queue_of([trial])
    assert queue.ended(result_of(trial))
    assert not queue.ended(result_of(trial))


def test_a_trial_that_goes_on_counts_once_at_each_stop() -> None:
    (trial,) = configs(1, num_epochs=27)
    queue = PackQueue(SETTINGS)
    queue.add([MemberOrder(trial, until_epoch=3)])
    first = queue.next_pack(slots=1)
    assert first is not None
    assert queue.ended(result_of(trial, Outcome.UNFINISHED, epochs_done=3))
    queue.add([MemberOrder(trial, until_epoch=9)])
    assert queue.completed(first.pack_id) == [], "the first stop is fulfilled, the second one waits"
    second = queue.next_pack(slots=1)
    assert second is not None
    assert not queue.ended(result_of(trial, Outcome.UNFINISHED, epochs_done=3)), "a late report of the first stop"
    assert queue.ended(result_of(trial, Outcome.UNFINISHED, epochs_done=9))
    queue.completed(second.pack_id)
    assert queue.next_pack(slots=1) is None
    assert not queue.is_finished, "more may come"
    queue.close()
    assert queue.is_finished


def test_costs_of_trials_that_stop_early_are_their_share() -> None:
    trials = configs(2, num_epochs=10_000)
    queue = PackQueue(SETTINGS)
    queue.add([MemberOrder(trials[0], until_epoch=1), MemberOrder(trials[1], until_epoch=9_000)])
    order = queue.next_pack(slots=1)
    assert order is not None
    assert order.members[0].config == trials[1], "the costliest first"


def test_waiting_ends_when_something_comes() -> None:
    queue = PackQueue(SETTINGS)
    waiter = threading.Thread(target=queue.wait, args=(60,))
    waiter.start()
    queue.add([MemberOrder(configs(1)[0])])
    waiter.join(timeout=10)
    assert not waiter.is_alive()


def test_a_pack_that_ends_without_a_members_result_runs_that_member_again() -> None:
    queue = queue_of(configs(3, num_epochs=5))
    order = queue.next_pack(slots=1)
    assert order is not None
    for member in order.members[1:]:
        queue.ended(result_of(member.config))
    assert queue.completed(order.pack_id) == []
    assert not queue.is_finished
    again = queue.next_pack(slots=1)
    assert again is not None
    assert [m.config for m in again.members] == [order.members[0].config]


def test_a_lone_trial_is_given_up_after_its_last_loss() -> None:
    (trial,) = configs(1)
    queue = queue_of([trial])
    for loss in range(1, MAX_LOSSES + 1):
        order = queue.next_pack(slots=1)
        assert order is not None
        assert order.members[0].attempt == loss
        given_up = queue.lost(order.pack_id, f"loss {loss}", {})
        assert bool(given_up) == (loss == MAX_LOSSES)
    assert queue.is_finished


def test_a_lone_trial_that_gets_further_each_time_is_not_given_up() -> None:
    (trial,) = configs(1)
    queue = queue_of([trial])
    for loss in range(2 * MAX_LOSSES):
        order = queue.next_pack(slots=1)
        assert order is not None
        assert queue.lost(order.pack_id, "its node was taken away", {trial.trial_id: f"state-{loss}"}) == []


IMAGES = {"num_train": 64, "num_test": 32, "image_size": 8, "num_classes": 9, "channels": 3, "dataset_digest": "d" * 16}


@pytest.mark.parametrize(("device", "engine"), [("cuda", "eager-cuda"), ("cpu", None)])
def test_from_its_last_try_on_a_lost_trial_has_the_plainest_engine_of_a_gpu(device: str, engine: str | None) -> None:
    base = {"optimizer": "adam", "weight_decay": 1e-5, "batch_size": 16, "architecture": "resnet8", **IMAGES}
    faulty, other = (make_config(ImageClassifierConfig, {**base, "seed": seed}) for seed in (0, 1))
    queue = PackQueue(replace(SETTINGS, device=device))
    queue.add([MemberOrder(faulty)])
    engines = []
    for state_path in (None, None, "a newer state", "a newer one yet"):
        order = queue.next_pack(slots=1)
        assert order is not None
        engines.append(order.engine)
        assert queue.lost(order.pack_id, "killed", {faulty.trial_id: state_path} if state_path else {}) == []
    order = queue.next_pack(slots=1)
    assert order is not None
    # A trial that gets further by that engine keeps it: another engine could not resume from its state.
    assert [*engines, order.engine] == [None, None, engine, engine, engine]
    queue.ended(result_of(faulty, Outcome.UNFINISHED))
    queue.completed(order.pack_id)

    queue.add([MemberOrder(faulty), MemberOrder(other)])
    trained_by = {}
    while (order := queue.next_pack(slots=1)) is not None:
        trained_by |= {member.config: order.engine for member in order.members}
    assert trained_by == {faulty: engine, other: None}


def test_earlier_attempts_are_counted_on() -> None:
    (trial,) = configs(1)
    queue = PackQueue(SETTINGS)
    queue.add([MemberOrder(trial, attempt=3)])
    order = queue.next_pack(slots=1)
    assert order is not None
    queue.lost(order.pack_id, "killed", {})
    again = queue.next_pack(slots=1)
    assert again is not None
    assert again.members[0].attempt == 4


@pytest.mark.parametrize("num_trials", [0, 1])
def test_small_queues(num_trials: int) -> None:
    queue = queue_of(configs(num_trials))
    order = queue.next_pack(slots=64)
    assert (order is None) == (num_trials == 0)
    assert queue.is_finished == (num_trials == 0)
