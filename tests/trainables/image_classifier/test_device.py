"""A step on a GPU, tested without a GPU: torch's fake tensors have devices, types and shapes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.images import image_folders
from trainables.image_classifier.batches import Augmentation, DeviceImages
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.device import Lane, home
from trainables.image_classifier.evaluation import SplitEvaluation
from trainables.image_classifier.models import initial_model, memory_format
from trainables.image_classifier.precise_batchnorm import PreciseErrors
from trainables.image_classifier.steps import EagerStep
from trainables.image_data.images import open_images
from trainables.image_data.selection import Selection
from trainables.optimizers import make_optimizer, set_moments
from trainables.registry import config_from_values

GPU = torch.device("cuda", 0)
BATCH = 8
LAYOUTS = {"bfloat16": torch.channels_last, "float32": torch.contiguous_format}


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 8):
        yield


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors without numbers. Backward passes need a real GPU; here they give each weight a gradient like itself."""

    def backward(loss: torch.Tensor) -> None:
        assert loss.device == GPU
        for w in weights:
            w.grad = torch.empty_like(w)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    # Fake tensors crash the process when they are copied deeply; what is measured on a copy is the model here.
    monkeypatch.setattr("trainables.image_classifier.precise_batchnorm.deepcopy", lambda model: model)
    weights.clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


weights: list[torch.Tensor] = []


def moved(model: nn.Module) -> nn.Module:
    """The model with its tensors on the GPU; `nn.Module.to` cannot move fake ones."""
    for module in model.modules():
        for name, w in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(w.detach().to(GPU)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(GPU))
    return model


def config_of(**values: Any) -> ImageClassifierConfig:
    base: dict[str, Any] = {"workload": "image_classifier", "dataset": "tiny8", "architecture": "resnet8"}
    base |= {"optimizer": "adam", "weight_decay": 1e-3, "batch_size": BATCH, "seed": 0, "num_epochs": 1}
    config = config_from_values({**base, **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def step_of(lie_on: torch.device = GPU, **values: Any) -> tuple[EagerStep, torch.optim.Optimizer]:
    config = config_of(**values)
    data = open_images(Selection(config.dataset, config.num_train, config.num_test), config.dataset_digest)
    on_gpu = DeviceImages(data, GPU, torch.float32, lie_on)
    model = moved(initial_model(config))
    weights.extend(model.parameters())
    variant = {"fused": True, "capturable": True} if config.bias_correction else {}
    optimizer = make_optimizer(config, weights, **variant)
    for w in weights if config.optimizer.has_moments else ():
        set_moments(optimizer, w, torch.zeros((), device=GPU), torch.zeros_like(w), torch.zeros_like(w))
    augmentation = None
    if config.augment_crop:
        mirrored = torch.empty(on_gpu.num_train, dtype=torch.bool, device=GPU)
        augmentation = Augmentation(mirrored, torch.empty(on_gpu.num_train, 2, dtype=torch.int64, device=GPU))
    return EagerStep(config, model, optimizer, on_gpu, augmentation, GPU), optimizer


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"augment_crop": 2, "augment_flip": True},
        {"precision": "bfloat16"},
        {"micro_batch_size": 3},
        {"bias_correction": False},
        {"optimizer": "adamw"},
        {"optimizer": "signsgd"},
        {"normalization": "group"},
    ],
    ids=str,
)
def test_a_step_never_leaves_the_device(fake: None, values: dict[str, Any]) -> None:
    step, optimizer = step_of(**values)
    step(torch.empty(BATCH, dtype=torch.int64, device=GPU))
    touched = [step.sums, *weights, *(w.grad for w in weights if w.grad is not None), *step.model.buffers()]
    touched += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    assert len(touched) > len(weights) * 2
    assert {t.device for t in touched} == {GPU}
    assert evaluated_on(step) == [GPU]


def evaluated_on(step: EagerStep) -> list[torch.device]:
    parts = [SplitEvaluation(step.config, step.model, step.images, test=is_test) for is_test in (False, True)]
    for part in parts:
        part.advance(1)
        assert part.is_done
    precise = PreciseErrors(step.config, step.model, step.images)
    while not precise.is_done:
        precise.advance(100)
    return list({part.sums.device for part in (*parts, precise.on_train, precise.on_test)})


@pytest.mark.parametrize("values", [{}, {"augment_crop": 2}, {"micro_batch_size": 3}], ids=str)
def test_images_in_the_hosts_memory_are_copied_batch_by_batch(fake: None, values: dict[str, Any]) -> None:
    on_host = torch.device("cpu")
    step, _ = step_of(on_host, **values)
    assert step.images.num_bytes == (48 + 24) * 8, "only the labels are on the GPU"
    index_b = torch.empty(BATCH, dtype=torch.int64, device=on_host)
    assert step.images.stored(index_b).device == GPU
    step(index_b)
    assert {step.sums.device, *(w.device for w in weights)} == {GPU}
    assert evaluated_on(step) == [GPU]


@pytest.mark.parametrize(("free", "lies_on"), [(30_000, GPU), (20_000, torch.device("cpu"))])
def test_images_that_would_fill_a_gpu_stay_on_the_host(
    free: int, lies_on: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    config = config_of()
    data = open_images(Selection(config.dataset, config.num_train, config.num_test), config.dataset_digest)
    assert data.train_images.nbytes + data.test_images.nbytes == (48 + 24) * 8 * 8 * 3
    assert home(data, GPU) == lies_on
    assert [record.getMessage().split(":")[0] for record in caplog.records] == (["tiny8"] if lies_on != GPU else [])


@pytest.mark.parametrize(("precision", "layout"), LAYOUTS.items())
def test_tensor_cores_get_channels_last_and_full_precision_what_cudnn_is_fast_at(
    fake: None, precision: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, _ = step_of(precision=precision)
    seen = []

    def noted(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen.extend(f for f in LAYOUTS.values() if inputs[0].is_contiguous(memory_format=f))

    step.model.register_forward_pre_hook(noted)
    step(torch.empty(BATCH, dtype=torch.int64, device=GPU))
    evaluated_on(step)
    assert set(seen) == {layout}
    assert memory_format(step.config, torch.device("cpu")) == torch.channels_last


def test_a_lane_does_all_its_work_in_one_thread_of_its_own() -> None:
    """torch keeps memory for each pair of a thread and a stream."""
    lanes = Lane(None), Lane(None)  # type: ignore[arg-type]  # without a GPU there are no streams to launch on
    threads = [lane.run(threading.get_ident) for _ in range(5) for lane in lanes]
    assert threads[:2] * 5 == threads
    assert len({threading.get_ident(), *threads}) == 3
    with pytest.raises(ZeroDivisionError):
        lanes[0].run(lambda: 1 / 0)
    assert lanes[0].run(threading.get_ident) == threads[0]


@pytest.mark.parametrize("part", ["_mean", "labels"])
def test_a_part_that_was_left_behind_is_found(fake: None, part: str) -> None:
    """The tests here can fail: fake tensors raise for a tensor on the wrong device."""
    step, _ = step_of()
    setattr(step.images, part, getattr(step.images, part).to("cpu"))
    with pytest.raises(RuntimeError, match="device"):
        step(torch.empty(BATCH, dtype=torch.int64, device=GPU))
