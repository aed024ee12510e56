"""The image workload on a real GPU: recorded steps, trials side by side, memory that runs out.

Numbers are compared in float64, where rounding and its order do not matter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.support.images import image_folders
from tests.trainables.image_classifier.image_trials import (
    VARIANTS,
    Synchronizes,
    assert_same,
    ended,
    make_config,
    trained,
)
from trainables.contract import Member
from trainables.image_classifier import device as image_device
from trainables.image_classifier import graph_step, trial
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.models import initial_model
from trainables.image_classifier.trial import ImageTrainer
from trainables.machine.gpu import memory_ran_out
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.trial_run import TrialRun
from trainables.registry import workload
from trainables.result import Outcome, TrialResult

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 16):
        yield


# --- one trial ---


@pytest.mark.parametrize("values", VARIANTS, ids=str)
def test_recorded_steps_train_as_eager_ones_and_as_the_cpu(values: dict[str, Any]) -> None:
    config = make_config(**values)
    recorded = trained(config)
    assert recorded.provenance.engine == "graph-cuda"
    assert recorded.provenance.device_name == torch.cuda.get_device_name(GPU)
    assert (recorded.provenance.peak_memory_bytes or 0) > 0
    eager = trained(config, engine="eager-cuda")
    assert eager.provenance.engine == "eager-cuda"
    assert_same(recorded, eager)
    assert_same(recorded, trained(config, "cpu"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("values", VARIANTS, ids=str)
def test_every_precision_is_recorded_and_learns(values: dict[str, Any], precision: str) -> None:
    result = trained(make_config(**values, precision=precision))
    assert result.provenance.engine == "graph-cuda"
    assert result.trace[-1].train_loss < result.trace[0].train_loss


def test_float32_products_are_not_rounded_to_tf32() -> None:
    config = make_config(architecture="resnet18", precision="float32", num_epochs=1)
    ours, wanted = (trained(config, device).trace[0] for device in ("cuda", "cpu"))
    assert ours.train_loss == pytest.approx(wanted.train_loss, rel=1e-5)
    assert ours.weight_norm == pytest.approx(wanted.weight_norm, rel=1e-6)


def test_micro_batches_are_not_recorded_and_equal_the_batch() -> None:
    values: dict[str, Any] = {"normalization": "group", "batch_size": 24}
    parts = trained(make_config(**values, micro_batch_size=7))
    assert parts.provenance.engine == "eager-cuda"
    assert_same(parts, trained(make_config(**values)))


def test_dropout_is_not_recorded_and_its_masks_are_the_seeds() -> None:
    values = {"batch_size": 24, "num_epochs": 2, "epsilon": 1e-3}  # as in VARIANTS
    config = make_config(architecture="vgg16", image_size=65, **values)
    first, again = trained(config), trained(config)
    assert first.provenance.engine == "eager-cuda"
    assert_same(first, again)


@pytest.mark.parametrize("values", VARIANTS[:4], ids=str)
def test_a_trial_goes_on_from_its_state(values: dict[str, Any]) -> None:
    config = make_config(**values)
    run = workload("image_classifier").open([Member(config, 4)], "cuda")
    (cut,) = ended(run).values()
    assert cut.outcome is Outcome.UNFINISHED
    state = run.states()[config.trial_id]
    assert_same(trained(config, state=state), trained(config))


def test_images_on_the_host_train_as_those_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(augment_flip=True, augment_crop=2)
    wanted = trained(config)
    image_device._device_images.cache_clear()
    monkeypatch.setattr(image_device, "_IMAGES_SHARE", 0.0)
    ours = trained(config)
    images = image_device.device_images(config, GPU)
    image_device._device_images.cache_clear()
    assert images.home == torch.device("cpu")
    assert ours.provenance.engine == "graph-cuda"
    assert_same(ours, wanted)


def test_a_step_that_cannot_be_recorded_runs_eagerly_and_no_other_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graph_step, "_recording_has_failed", False)
    config, next_config = make_config(), make_config(seed=1)
    wanted = trained(config)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "initial_model", lambda config: Synchronizes(initial_model(config)))
        ours = trained(config)
    assert ours.provenance.engine == "eager-cuda"
    assert "steps are not recorded" in caplog.text
    assert_same(ours, wanted)
    after = trained(next_config)
    assert after.provenance.engine == "eager-cuda"
    assert_same(after, trained(next_config, "cpu"))
    # torch < 2.12 leaves its allocator and its generator in the recording that failed
    torch.cuda.empty_cache()
    assert 0 <= float(torch.rand((), device=GPU)) < 1


def test_a_process_with_many_packs_has_a_thread_and_a_stream_for_each_lane() -> None:
    """What torch keeps for each pair of thread and stream stays within as many pairs as train side by side."""
    for seed in range(5):
        configs = [make_config(seed=8 * seed + i, num_epochs=1) for i in range(8)]
        run = workload("image_classifier").open([Member(c, 1) for c in configs], "cuda")
        while not run.is_done:
            run.advance(0.01)
    lanes = image_device._free_lanes[GPU]
    assert 1 < len(lanes) <= 8
    assert len({lane.stream.cuda_stream for lane in lanes}) == len(lanes)
    assert len([t for t in threading.enumerate() if t.name.startswith("lane")]) <= len(lanes)


# --- packs ---


def test_forty_trials_in_one_process_train_side_by_side_and_leave_no_memory_behind() -> None:
    configs = [make_config(seed=seed, num_epochs=2, learning_rate=1e-4) for seed in range(40)]
    reserved = []
    for _ in range(3):
        results = ended(workload("image_classifier").open([Member(c, 2) for c in configs], "cuda"))
        assert {result.provenance.engine for result in results.values()} == {"graph-cuda"}
        assert max(result.provenance.side_by_side for result in results.values()) > 1
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved(GPU))
    for config in configs[::8]:
        assert_same(results[config.trial_id], trained(config, "cpu"))
    assert reserved[2] <= reserved[1] + 2**26  # the first run leaves each lane's scratch memory of cuBLAS and cuDNN


@contextmanager
def memory(num_bytes: float) -> Iterator[None]:
    """Limit torch to that many bytes of GPU memory within the context."""
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(num_bytes / total, GPU)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
        torch.cuda.empty_cache()


def pack_of_eight(configs: Sequence[ImageClassifierConfig]) -> dict[str, TrialResult]:
    """Train all members at once, whatever the memory."""
    members = [Member(config, config.num_epochs) for config in configs]
    return ended(MemberPackRun(members, lambda m: TrialRun(m, ImageTrainer(m, "graph-cuda", GPU, 1)), lambda _: 8))


LARGE: Mapping[str, Any] = {"architecture": "resnet18", "batch_size": 48, "num_epochs": 3, "learning_rate": 1e-4}


def test_trials_that_do_not_fit_together_train_with_fewer_beside_them() -> None:
    configs = [make_config(**LARGE, seed=seed) for seed in range(8)]
    torch.cuda.init()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    alone = trained(configs[0])
    one = torch.cuda.max_memory_reserved(GPU)
    torch.cuda.empty_cache()
    with memory(3.5 * one):
        results = pack_of_eight(configs)
    assert [results[config.trial_id].error for config in configs] == [None] * 8
    assert 1 <= max(result.provenance.side_by_side for result in results.values()) <= 4
    assert_same(results[configs[0].trial_id], alone)


def test_a_trial_that_does_not_fit_alone_fails_alone() -> None:
    small, large = make_config(), make_config(**LARGE)
    torch.cuda.empty_cache()
    with memory(torch.cuda.memory_reserved(GPU) + 2**28):
        results = pack_of_eight([large, small])
    assert results[large.trial_id].outcome is Outcome.FAILED
    assert memory_ran_out(RuntimeError(str(results[large.trial_id].error)))
    assert results[small.trial_id].error is None
    assert trained(large).error is None
