"""The image workload trains like plain torchvision and torch.optim; what it adds equals a few lines of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.support.cases import rest_slow
from tests.support.images import NUM_CLASSES, image_folders, narrow_vgg16, numbers
from tests.trainables.image_classifier.recording import recordings
from trainables.contract import Member
from trainables.errors import ConfigError
from trainables.image_classifier import evaluation, graph_step, models
from trainables.image_classifier.batches import DeviceImages, epoch_augmentation, epoch_order
from trainables.image_classifier.config import Architecture, ImageClassifierConfig, ImageTracePoint
from trainables.image_classifier.graph_step import GraphStep
from trainables.image_classifier.models import group_norm, has_dropout, initial_model
from trainables.image_classifier.precise_batchnorm import PreciseErrors
from trainables.image_classifier.steps import EagerStep, batch_sums
from trainables.image_data.cache import ImageData
from trainables.image_data.images import open_images
from trainables.image_data.selection import Selection
from trainables.machine.torch_threads import torch_threads
from trainables.optimizers import make_optimizer, set_moments
from trainables.outcome import outcome
from trainables.registry import config_from_values, workload
from trainables.result import SATISFYING, Outcome, TrialResult

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 8, 16, 32), torch_threads(1):
        yield


def make_config(size: int = 8, **values: Any) -> ImageClassifierConfig:
    base = {"optimizer": "adam", "weight_decay": 1e-2, "learning_rate": 1e-3, "batch_size": 8, "seed": 3}
    names = {"workload": "image_classifier", "dataset": f"tiny{size}", "architecture": "resnet8", "num_epochs": 3}
    config = config_from_values({**base, **names, **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def data_of(config: ImageClassifierConfig) -> ImageData:
    return open_images(Selection(config.dataset, config.num_train, config.num_test), config.dataset_digest)


def ended(config: ImageClassifierConfig) -> TrialResult:
    (report,) = workload("image_classifier").open([Member(config, config.num_epochs)]).advance(math.inf)
    assert report.result is not None
    return report.result


def train(config: ImageClassifierConfig) -> TrialResult:
    result = ended(config)
    assert result.error is None
    return result


def last(result: TrialResult) -> ImageTracePoint:
    point = result.trace[-1]
    assert isinstance(point, ImageTracePoint)
    return point


def our_step(config: ImageClassifierConfig) -> tuple[EagerStep, nn.Module]:
    """The product's step on the product's model, with moments at zero."""
    model = initial_model(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(config, model.parameters())
    for w in model.parameters() if config.optimizer.has_moments else ():
        set_moments(optimizer, w, torch.tensor(0.0), torch.zeros_like(w), torch.zeros_like(w))
    dtype = torch.float64 if config.precision.value == "float64" else torch.float32
    on_device = DeviceImages(data_of(config), CPU, dtype)
    return EagerStep(config, model, optimizer, on_device, epoch_augmentation(config, 0, CPU), CPU), model


def our_losses(config: ImageClassifierConfig, num_steps: int) -> list[float]:
    """The losses of the trial's first steps, one by one."""
    step, model = our_step(config)
    model.train()
    losses = []
    for index_b in batches(config, num_steps):
        before = step.sums.clone()
        step(index_b)
        losses.append(float((step.sums - before)[0]) / len(index_b))
    return losses


def batches(config: ImageClassifierConfig, num_steps: int) -> list[Tensor]:
    """The batches of the trial's first steps."""
    epochs = range(1 + num_steps // config.steps_per_epoch)
    found = [b for e in epochs for b in torch.from_numpy(epoch_order(config, e)).split(config.batch_size)]
    return found[:num_steps]


# --- equal to a plain loop ---


class PlainResNet8(nn.Module):
    """He et al.'s CIFAR ResNet of three blocks, written down again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        block = torchvision.models.resnet.BasicBlock
        halving = [
            block(a, 2 * a, 2, nn.Sequential(nn.Conv2d(a, 2 * a, 1, 2, bias=False), nn.BatchNorm2d(2 * a)))
            for a in (16, 32)
        ]
        self.stages = nn.ModuleList([block(16, 16), *halving])
        self.fc = nn.Linear(64, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def plain_model(config: ImageClassifierConfig) -> nn.Module:
    """torchvision's network with the CIFAR changes, written down again."""
    model: Any
    with torch.device("meta"):
        if config.architecture is Architecture.RESNET8:
            model = PlainResNet8()
        elif config.architecture is Architecture.VGG16:
            model = torchvision.models.vgg16_bn(num_classes=NUM_CLASSES)
            model.avgpool, model.classifier = nn.Identity(), nn.Linear(512, NUM_CLASSES)
        else:
            model = getattr(torchvision.models, config.architecture.value)(num_classes=NUM_CLASSES)
            model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    model.load_state_dict(initial_model(config).state_dict(), assign=True)
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", rest_slow(("resnet8", "resnet18", "resnet50", "resnet101", "vgg16"), 2))
def test_networks_for_small_images_are_torchvisions_with_another_stem(architecture: str) -> None:
    config = make_config(32, architecture=architecture)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, plain = initial_model(config)(x), plain_model(config)(x)
    assert torch.equal(ours, plain)
    assert ours.std() > 0


def plain_losses(config: ImageClassifierConfig, num_steps: int, *, tuned: bool) -> list[float]:
    """A plain loop with a DataLoader, torchvision and torch.optim; `tuned`: channels_last and the fused rule."""
    data, dtype = data_of(config), getattr(torch, config.precision.value)
    normalize = torchvision.transforms.Normalize(data.manifest.mean, data.manifest.std)
    x_nchw = normalize(torch.from_numpy(np.array(data.train_images)).permute(0, 3, 1, 2).contiguous().to(dtype) / 255)
    loader = DataLoader(
        TensorDataset(x_nchw, torch.from_numpy(np.array(data.train_labels))),
        batch_sampler=[b.tolist() for b in batches(config, num_steps)],
    )
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = plain_model(config).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    rule = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    optimizer = rule(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        fused=True if tuned else None,
    )
    model.train()
    losses = []
    with torch_threads(1):
        for x, y in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(x.to(memory_format=layout)), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses


ONE_STEP_AN_EPOCH = {"learning_rate": 5e-4, "batch_size": 12, "num_train": 12, "num_test": 3}


# Where a gradient is rounding noise Adam takes a full step by its sign: in float32 any other order of additions is
# another run after a few steps. So float32 is compared with the same kernels, and torch's default ones in float64.


@pytest.mark.parametrize(
    ("architecture", "size", "optimizer", "num_steps"),
    [
        ("resnet8", 8, "adam", 50),
        ("resnet8", 8, "adamw", 50),
        pytest.param("resnet18", 8, "adamw", 12, marks=pytest.mark.slow),
        pytest.param("vgg16", 32, "adam", 12, marks=pytest.mark.slow),
    ],
)  # the large networks have learned 12 images after 12 steps: from there all losses are near 0
def test_training_equals_a_plain_loop(architecture: str, size: int, optimizer: str, num_steps: int) -> None:
    config = make_config(
        size, architecture=architecture, optimizer=optimizer, num_epochs=num_steps, **ONE_STEP_AN_EPOCH
    )
    ours = [point.train_loss for point in train(config).trace[1:]]
    plain = plain_losses(config, num_steps, tuned=True)
    assert len(ours) == len(plain) == num_steps
    assert ours[-1] < 0.5 * ours[0]
    assert np.abs(np.array(ours) - np.array(plain)).max() < 1e-5


@pytest.mark.parametrize(
    ("architecture", "optimizer", "num_steps"), rest_slow((("resnet8", "adam", 50), ("resnet18", "adamw", 12)))
)
def test_training_equals_a_plain_loop_with_torchs_default_kernels(
    architecture: str, optimizer: str, num_steps: int
) -> None:
    values = {**ONE_STEP_AN_EPOCH, "num_epochs": num_steps, "precision": "float64"}
    config = make_config(architecture=architecture, optimizer=optimizer, **values)
    ours = [point.train_loss for point in train(config).trace[1:]]
    plain = plain_losses(config, num_steps, tuned=False)
    assert ours[-1] < 0.5 * ours[0]
    assert np.abs(np.array(ours) - np.array(plain)).max() < 1e-5


def test_the_trial_is_its_steps() -> None:
    """The trace of a whole run equals that of its single steps: batches in order, including the smaller last one."""
    config = make_config(batch_size=20, num_epochs=2)
    losses = our_losses(config, 6)
    sizes = [len(b) for b in batches(config, 6)]
    assert sizes == [20, 20, 8] * 2
    result = train(config)
    for epoch in (1, 2):
        part = slice(3 * epoch - 3, 3 * epoch)
        mean = np.average(losses[part], weights=sizes[part])
        assert result.trace[epoch].train_loss == pytest.approx(mean, rel=1e-5)


def test_evaluation_is_of_the_weights_in_evaluation_mode() -> None:
    config = make_config(num_epochs=1)
    result = train(config)
    step, model = our_step(config)
    model.train()
    for index_b in batches(config, config.steps_per_epoch):
        step(index_b)
    model.eval()
    data = data_of(config)
    x = DeviceImages(data, CPU, torch.float32).plain_batch(0, config.num_test, test=True)
    with torch.no_grad():
        logits = model(x)
    y = torch.from_numpy(np.array(data.test_labels))
    assert last(result).test_loss == pytest.approx(float(cross_entropy(logits, y)), rel=1e-4)
    assert last(result).test_error == pytest.approx(float((logits.argmax(1) != y).double().mean()))
    norm = math.sqrt(sum(float(w.detach().double().square().sum()) for w in model.parameters()))
    assert last(result).weight_norm == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("pixels", [1, 5 * 8 * 8, 48 * 8 * 8])
def test_evaluation_does_not_depend_on_how_it_is_cut(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(num_epochs=1)
    whole = train(config)
    monkeypatch.setitem(evaluation._PIXELS, "cpu", pixels)
    cut = train(config)
    for one, other in zip(whole.trace, cut.trace, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-6)


@pytest.mark.slow
def test_measuring_may_be_cut_anywhere_and_goes_on_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating a large network takes minutes, so it is sliced and saved like training."""
    monkeypatch.setitem(evaluation._PIXELS, "cpu", 5 * 8 * 8)
    config = make_config(num_epochs=1, batch_size=24)
    opened, name = workload("image_classifier"), config.trial_id
    whole = train(config)
    run = opened.open([Member(config, 1)])
    waits, states = [], []
    while not run.is_done:
        (report,) = run.advance(0.0)
        waits.append(len(report.points))
        states.append(run.states()[name])
    num_test, num_train = (-(-num // 5) for num in (config.num_test, config.num_train))
    begins, epoch, ends = [0] * (num_train + num_test), [0] * (2 + num_test), [0] * (2 + num_train + num_test)
    begins[-1] = ends[-1] = 1
    assert waits == begins + epoch + ends, "each slice is one batch of measuring, or one step"
    for state in states:
        (report,) = opened.open([Member(config, 1, state)]).advance(math.inf)
        assert report.result is not None
        assert report.result.trace == whole.trace
    for done in range(0, len(states), 4):
        run, left = opened.open([Member(config, 1, states[done])]), 0
        while not run.is_done:
            run.advance(0.0)
            left += 1
        assert left == max(1, len(states) - 1 - done), "no slice is done again"


def test_what_a_graph_records_is_the_step() -> None:
    """The graph trains images that were gathered before it, all in one pass."""
    config = make_config(augment_crop=2)
    (called, model), (recorded, other) = our_step(config), our_step(config)
    for index_b in batches(config, 3):
        called(index_b)
        recorded.train_whole(recorded.images.stored(index_b), index_b)
    assert torch.equal(called.sums, recorded.sums)
    assert all(torch.equal(w, v) for w, v in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "signsgdw"])
def test_a_rehearsed_step_leaves_no_trace(optimizer: str) -> None:
    """A rehearsed step only measures the memory that training needs on a GPU."""
    config = make_config(optimizer=optimizer, augment_flip=True)
    step, model = our_step(config)
    mutable = mutable_of(step, model)
    before = [tensor.clone() for tensor in mutable]
    step.rehearse(mutable)
    assert all(torch.equal(now, then) for now, then in zip(mutable, before, strict=True))
    assert step.sums.tolist() == [0, 0, 0]
    assert all(w.grad is not None for w in model.parameters()), "it was a whole step"
    step(torch.arange(config.batch_size))
    changed = [not torch.equal(now, then) for now, then in zip(mutable, before, strict=True)]
    assert sum(changed) > len(changed) / 2


def mutable_of(step: EagerStep, model: nn.Module) -> list[Tensor]:
    """Every tensor that a step changes."""
    moments = [t for state in step.optimizer.state.values() for t in state.values()]
    return [*(w.detach() for w in model.parameters()), *model.buffers(), *moments]


def ask_the_host(eager: EagerStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the step read a number from the device, which cannot be recorded."""
    train = eager.train_whole

    def asking(stored_b: Tensor, index_b: Tensor) -> None:
        train(stored_b, index_b)
        assert math.isfinite(float(eager.sums[0]))

    monkeypatch.setattr(eager, "train_whole", asking)


def test_a_step_that_cannot_be_recorded_trains_eagerly_and_no_other_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graph_step, "_recording_has_failed", False)
    config = make_config(batch_size=10)
    for _ in range(2):
        eager, model = our_step(config)
        mutable = mutable_of(eager, model)
        before = [tensor.clone() for tensor in mutable]
        ask_the_host(eager, monkeypatch)
        with recordings():
            step = GraphStep(eager, mutable)
        assert step.engine == "eager-cpu"
        assert all(torch.equal(now, then) for now, then in zip(mutable, before, strict=True))
        wanted, reference = our_step(config)
        for index_b in batches(config, 7):
            step(index_b)
            wanted(index_b)
        assert torch.equal(step.sums, wanted.sums)
        pairs = zip(mutable, mutable_of(wanted, reference), strict=True)
        assert all(torch.equal(ours, others) for ours, others in pairs)
    (record,) = caplog.records
    assert record.getMessage().startswith("steps are not recorded")


def test_a_step_whose_recording_has_no_memory_says_so_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_step, "_recording_has_failed", False)
    eager, model = our_step(make_config())
    mutable = mutable_of(eager, model)
    before = [tensor.clone() for tensor in mutable]
    train, left = eager.train_whole, [2]

    def twice(stored_b: Tensor, index_b: Tensor) -> None:
        if not left[0]:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        left[0] -= 1
        train(stored_b, index_b)

    monkeypatch.setattr(eager, "train_whole", twice)
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        GraphStep(eager, mutable)
    assert all(torch.equal(now, then) for now, then in zip(mutable, before, strict=True))
    assert not graph_step._recording_has_failed


@pytest.mark.parametrize("batch_size", [1, 47, 48])
def test_all_batch_sizes_train(batch_size: int) -> None:
    """From one image to all of them; 47 leaves a last batch of one."""
    config = make_config(batch_size=batch_size, num_epochs=1)
    losses = our_losses(config, config.steps_per_epoch)
    assert len(losses) == -(-48 // batch_size)
    mean = np.average(losses, weights=[len(b) for b in batches(config, config.steps_per_epoch)])
    assert last(train(config)).train_loss == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize(
    ("num_train", "batches", "fits"),
    [
        (3, {"batch_size": 2}, False),
        (4, {"batch_size": 2}, True),
        pytest.param(3, {"batch_size": 1}, False, marks=pytest.mark.slow),
        pytest.param(3, {"batch_size": 3, "micro_batch_size": 2}, False, marks=pytest.mark.slow),
        pytest.param(6, {"batch_size": 4, "micro_batch_size": 3}, False, marks=pytest.mark.slow),
        pytest.param(8, {"batch_size": 6, "micro_batch_size": 4}, True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_batch_statistics_of_one_image_over_one_pixel_are_refused(
    num_train: int, batches: dict[str, int], fits: bool
) -> None:
    """resnet18 halves 8 pixels to 1, where torch's BatchNorm needs two images; other sizes and GroupNorm do not."""
    one = {"architecture": "resnet18", "num_train": num_train, "num_test": 3, "num_epochs": 1, **batches}
    if fits:
        assert train(make_config(**one)).outcome in SATISFYING
    else:
        with pytest.raises(ConfigError, match=r"^resnet18 ends in one pixel for images of 8[^\n]*$"):
            make_config(**one)
    assert train(make_config(**one, normalization="group")).outcome in SATISFYING
    assert make_config(**one, image_size=9).image_size == 9


# --- micro-batches ---


@pytest.mark.parametrize(("precision", "loss", "weights"), [("float32", 1e-6, 1e-4), ("float64", 1e-12, 1e-10)])
def test_micro_batches_equal_the_batch_under_group_norm(precision: str, loss: float, weights: float) -> None:
    common = {"normalization": "group", "batch_size": 24, "precision": precision, "learning_rate": 1e-4}
    whole, parts = make_config(**common, num_epochs=3), make_config(**common, num_epochs=3, micro_batch_size=7)
    assert whole.trial_id != parts.trial_id
    ours, others = np.array(our_losses(whole, 6)), np.array(our_losses(parts, 6))
    assert np.abs(ours / others - 1).max() < loss
    first, ours, others = (trained_weights(config, epochs) for config, epochs in ((whole, 0), (whole, 3), (parts, 3)))
    assert np.linalg.norm(ours - others) < weights * np.linalg.norm(ours - first), "beside the way they went"


def trained_weights(config: ImageClassifierConfig, num_epochs: int) -> np.ndarray[Any, Any]:
    if num_epochs == 0:
        return torch.nn.utils.parameters_to_vector(initial_model(config).parameters()).detach().numpy()
    run = workload("image_classifier").open([Member(config, num_epochs)])
    run.advance(math.inf)
    return run.states()[config.trial_id]["weights"]


def test_under_batch_norm_each_micro_batch_has_its_own_statistics() -> None:
    config = make_config(batch_size=24, micro_batch_size=10)
    assert config.batchnorm_policy == "micro_batch"
    step, model = our_step(config)
    model.train()
    (index_b,) = batches(config, 1)
    step(index_b)
    reference = initial_model(config)
    reference.train()
    on_device = DeviceImages(data_of(config), CPU, torch.float32)
    losses = []
    for part in index_b.split(10):
        loss = cross_entropy(
            reference(on_device.train_batch(on_device.stored(part), part, None, 0)), on_device.labels[part]
        )
        losses.append(loss.item() * len(part) / 24)
    assert float(step.sums[0]) / 24 == pytest.approx(sum(losses), rel=1e-5)
    for ours, wanted in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


# --- augmentation ---


def test_augmented_images_are_mirrored_crops_and_the_same_for_a_pair() -> None:
    config = make_config(16, augment_flip=True, augment_crop=2)
    pair = make_config(16, augment_flip=True, augment_crop=2, optimizer="adamw")
    on_device = DeviceImages(data_of(config), CPU, torch.float32)
    everything = torch.arange(config.num_train)
    plain = on_device.train_batch(on_device.stored(everything), everything, None, 0)
    drawn = {}
    for epoch in (0, 1):
        draws = [epoch_augmentation(c, epoch, CPU) for c in (config, pair)]
        augmented = [on_device.train_batch(on_device.stored(everything), everything, draw, 2) for draw in draws]
        assert torch.equal(*augmented)
        assert draws[0] is not None
        padded = black_images(config, len(plain), 20)
        padded[:, :, 2:-2, 2:-2] = plain
        for i, (top, left) in enumerate(draws[0].corners.tolist()):
            crop = padded[i, :, top : top + 16, left : left + 16]
            crop = crop.flip(-1) if draws[0].mirrored[i] else crop
            assert torch.equal(augmented[0][i], crop)
        assert 0.2 < draws[0].mirrored.double().mean() < 0.8
        drawn[epoch] = augmented[0]
    assert not torch.equal(drawn[0], drawn[1])
    other = epoch_augmentation(make_config(16, augment_flip=True, augment_crop=2, seed=4), 0, CPU)
    assert not torch.equal(on_device.train_batch(on_device.stored(everything), everything, other, 2), drawn[0])


def black_images(config: ImageClassifierConfig, num: int, size: int) -> Tensor:
    held = data_of(config).manifest
    return torchvision.transforms.Normalize(held.mean, held.std)(torch.zeros(num, config.channels, size, size))


def test_flips_alone_mirror_and_crops_alone_move() -> None:
    everything = torch.arange(48)
    flips, crops = make_config(augment_flip=True), make_config(augment_crop=3)
    on_device = DeviceImages(data_of(flips), CPU, torch.float32)
    plain = on_device.train_batch(on_device.stored(everything), everything, None, 0)
    flip, crop = (epoch_augmentation(config, 0, CPU) for config in (flips, crops))
    assert flip is not None
    assert crop is not None
    wanted = torch.where(flip.mirrored[:, None, None, None], plain.flip(-1), plain)
    assert torch.equal(on_device.train_batch(on_device.stored(everything), everything, flip, 0), wanted)
    assert not crop.mirrored.any()
    assert crop.corners.unique().tolist() == list(range(7))


def test_without_augmentation_images_are_as_they_are() -> None:
    config = make_config()
    assert epoch_augmentation(config, 0, CPU) is None
    data = data_of(config)
    on_device = DeviceImages(data, CPU, torch.float32)
    shuffled = torch.from_numpy(epoch_order(config, 0))
    pixels = torch.from_numpy(np.array(data.train_images)).permute(0, 3, 1, 2) / 255
    wanted = torchvision.transforms.Normalize(data.manifest.mean, data.manifest.std)(pixels)
    assert torch.equal(on_device.train_batch(on_device.stored(shuffled), shuffled, None, 0), wanted[shuffled])
    assert torch.equal(on_device.plain_batch(0, 48, test=False), wanted)


def test_augmentation_changes_training_and_is_reproducible() -> None:
    config = make_config(augment_crop=1)
    assert train(config).trace == train(config).trace
    assert train(config).trace[1:] != train(make_config()).trace[1:]


# --- BatchNorm's statistics at the end ---


def final_model(config: ImageClassifierConfig) -> nn.Module:
    """The product's model after the last step, in training mode."""
    step, model = our_step(config)
    model.train()
    for index_b in batches(config, config.num_epochs * config.steps_per_epoch):
        step(index_b)
    return model


def with_mean_statistics(model: nn.Module, config: ImageClassifierConfig, passes: list[Tensor]) -> nn.Module:
    """The model in evaluation mode, its statistics the mean of those that it has on these images in training mode."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    for layer in layers:
        layer.momentum = 0.0
        layer.register_forward_pre_hook(
            lambda layer, x: seen[layer].append((x[0].mean((0, 2, 3)), x[0].var((0, 2, 3))))
        )
    images = DeviceImages(data_of(config), CPU, torch.float32)
    with torch.no_grad():
        for index_b in passes:
            model(images.train_batch(images.stored(index_b), index_b, None, 0))
    weights = torch.tensor([len(index_b) for index_b in passes]) / sum(map(len, passes))
    for layer in layers:
        means, variances = zip(*seen[layer], strict=True)
        for statistic, values in ((layer.running_mean, means), (layer.running_var, variances)):
            assert statistic is not None
            statistic.copy_((weights[:, None] * torch.stack(values)).sum(0))
    return model.eval()


@pytest.mark.parametrize("values", [{"batch_size": 20}, {"batch_size": 20, "micro_batch_size": 15}], ids=str)
def test_precise_errors_are_of_the_final_weights_with_their_own_statistics(values: dict[str, int]) -> None:
    config = make_config(num_epochs=2, **values)
    result = train(config)
    order = torch.from_numpy(epoch_order(config, config.num_epochs))
    passes = [p for batch in order.split(20) for p in batch.split(values.get("micro_batch_size", 20))]
    model = with_mean_statistics(final_model(config), config, passes)
    images = DeviceImages(data_of(config), CPU, torch.float32)
    for split, is_test, labels, num in (("train", False, images.labels, 48), ("test", True, images.test_labels, 24)):
        with torch.no_grad():
            logits = model(images.plain_batch(0, num, test=is_test))
        loss = float(cross_entropy(logits, labels))
        assert getattr(last(result), f"precise_{split}_loss") == pytest.approx(loss, rel=1e-4)
        error = float((logits.argmax(1) != labels).double().mean())
        assert getattr(last(result), f"precise_{split}_error") == pytest.approx(error)
        assert getattr(last(result), f"precise_{split}_top5_error") == 0, "three classes"


def test_at_full_batch_precise_errors_are_those_of_training_mode_and_running_ones_lag() -> None:
    """Twelve steps leave the running statistics 0.9^12 = 28% of the initial ones and much of early weights'."""
    config = make_config(batch_size=48, num_epochs=12, learning_rate=1e-2)
    point, model = last(train(config)), final_model(config)
    images = DeviceImages(data_of(config), CPU, torch.float32)
    x = images.plain_batch(0, 48, test=False)
    with torch.no_grad():
        in_training = float(cross_entropy(model(x), images.labels))
        lagging = float(cross_entropy(model.eval()(x), images.labels))
    assert point.precise_train_loss == pytest.approx(in_training, rel=0.05)
    assert lagging > 2 * in_training


def test_without_batch_norm_precise_test_errors_are_the_test_errors() -> None:
    point = last(train(make_config(normalization="group")))
    assert (point.precise_test_loss, point.precise_test_error) == (point.test_loss, point.test_error)
    assert point.precise_train_loss is not None
    assert point.precise_train_loss < point.train_loss, "of the weights after the epoch, which train further in it"


def test_precise_errors_are_known_after_the_last_epoch_alone() -> None:
    config = make_config(num_epochs=3)
    assert [point.precise_test_error is None for point in train(config).trace] == [True, True, True, False]
    run = workload("image_classifier").open([Member(config, 2)])
    (report,) = run.advance(math.inf)
    assert report.result is not None
    assert report.result.outcome is Outcome.UNFINISHED
    assert [point.precise_test_error for point in report.result.trace] == [None] * 3


def test_statistics_are_taken_without_dropout_and_of_a_copy() -> None:
    config = make_config()
    images, model = DeviceImages(data_of(config), CPU, torch.float32), initial_model(config)
    before = [buffer.clone() for buffer in model.buffers()]
    means = []
    for network in (model, nn.Sequential(nn.Dropout(0.5), model)):
        precise = PreciseErrors(config, network, images)
        while not precise.is_done:
            precise.advance(1)
        means.append(precise.means())
    assert means[0] == means[1]
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), before, strict=True))
    assert model.training


# --- measures and outcomes ---


def test_misses_are_those_of_topk_and_no_number_is_a_miss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 20, generator=generator), torch.randint(20, (200,), generator=generator)
    loss, wrong, wrong5 = batch_sums(logits, labels).tolist()
    assert loss / 200 == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-6)
    assert wrong == int((logits.argmax(1) != labels).sum())
    assert wrong5 == int((logits.topk(5).indices != labels[:, None]).all(1).sum())
    for num_classes in (2, 3, 5, 6, 20):
        broken = torch.full((4, num_classes), math.nan)
        assert batch_sums(broken, labels[:4] % num_classes).tolist()[1:] == [4, 4]
    few = torch.randn(200, 3, generator=generator)
    assert batch_sums(few, labels % 3).tolist()[2] == 0, "of three classes all are among the first five"
    equal = torch.zeros(4, 20)
    chance = [4 * 19 / 20, 4 * 15 / 20]
    assert batch_sums(equal, labels[:4]).tolist()[1:] == pytest.approx(chance), "no opinion is right by chance"


def test_equal_outputs_miss_as_often_as_a_random_order_of_them_would() -> None:
    """Equal outputs are frequent in bfloat16, whose eight bits round nearly equal outputs to the same value."""
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randint(3, (50, 10), generator=generator), torch.randint(10, (50,), generator=generator)
    num_orders = 4000
    orders = torch.rand(num_orders, 50, 10, generator=generator)
    in_order = logits + 0.5 * orders  # breaks ties, and changes no other order
    top = in_order.topk(5).indices == labels[:, None]
    wanted = [float((~top[..., :k].any(-1)).sum()) / num_orders for k in (1, 5)]
    assert batch_sums(logits.bfloat16(), labels).tolist()[1:] == pytest.approx(wanted, abs=0.3)
    assert wanted[0] < float((logits.gather(1, labels[:, None]) <= logits).sum(1).gt(1).sum()) - 3, "ties decide much"


def test_the_best_epoch_is_kept_beside_the_last() -> None:
    result = train(make_config(num_epochs=8, learning_rate=3e-3))
    lowest = math.inf
    for point in result.trace:
        assert isinstance(point, ImageTracePoint)
        lowest = min(lowest, point.test_error)
        assert point.best_test_error == lowest
        assert result.trace[point.best_epoch].test_error == lowest
        assert point.test_top5_error <= point.test_error
    assert result.trial_row()["best_test_error"] == lowest


def test_outcomes() -> None:
    assert train(make_config(num_epochs=25, learning_rate=2e-3)).outcome is Outcome.LEARNED
    stuck = train(make_config(num_epochs=60, weight_decay=100.0, learning_rate=3e-2))
    assert stuck.outcome is Outcome.STUCK
    assert -1e-3 <= last(stuck).train_loss / math.log(NUM_CLASSES) - 1 <= 0.05
    diverged = train(make_config(optimizer="signsgd", learning_rate=1e30, batch_size=48))
    assert diverged.outcome is Outcome.DIVERGED
    assert last(diverged).test_top5_error == last(diverged).test_error == 1


def test_outputs_that_are_no_numbers_at_the_end_are_no_error_rate() -> None:
    """Float32 products overflow before a weight does, and may be finite an epoch later: there is no certificate."""
    ended_so = train(make_config(learning_rate=1e30, batch_size=48, num_epochs=1))
    assert math.isfinite(last(ended_so).train_loss + last(ended_so).weight_norm)
    assert math.isnan(last(ended_so).test_loss)
    assert ended_so.outcome is Outcome.DIVERGED
    assert (ended_so.certificate, ended_so.certificate_epoch) == (None, None)
    good = (0, 0.1, 0.0, 0.0, 1.0, 0.0)
    for losses in ({"test_loss": math.inf}, {"precise_train_loss": math.nan}, {"precise_test_loss": math.nan}):
        ending = ImageTracePoint(
            *good, **{"test_loss": 0.1, **losses}, test_top5_error=0.0, best_epoch=0, best_test_error=0.0
        )
        assert outcome([ending, ending], 10) is Outcome.DIVERGED


@pytest.mark.parametrize(
    ("test_error", "num_classes", "expected"),
    [
        (0.33, 3, Outcome.LEARNED),
        (0.34, 3, Outcome.MEMORIZED),
        (0.44, 10, Outcome.LEARNED),
        (0.46, 10, Outcome.MEMORIZED),
        (0.49, 1000, Outcome.LEARNED),
        (0.50, 1000, Outcome.MEMORIZED),
    ],
)
def test_memorized_is_nearer_to_chance_than_to_no_error(test_error: float, num_classes: int, expected: Outcome) -> None:
    first, trained = (
        ImageTracePoint(epoch, loss, error, test_error, 1.0, 0.0, 1.0, 0.0, 0, test_error)
        for epoch, loss, error in ((0, math.log(num_classes), 1.0), (1, 0.1, 0.005))
    )
    assert outcome([first, trained], num_classes) is expected


# --- precision, rules, networks ---


def test_bfloat16_trains_near_float32_with_float32_weights() -> None:
    config = make_config(precision="bfloat16")
    run = workload("image_classifier").open([Member(config, config.num_epochs)])
    (report,) = run.advance(math.inf)
    assert report.result is not None
    state = run.states()[config.trial_id]
    assert {state[name].dtype for name in ("weights", "exp_avg", "exp_avg_sq", "buffers")} == {np.dtype(np.float32)}
    near, exact = last(report.result).train_loss, last(train(make_config())).train_loss
    assert near != exact
    assert near == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("optimizer", "bias_correction"),
    [("adam", True), ("adamw", True), ("adam", False), ("adamw", False), ("signsgd", None), ("signsgdw", None)],
)
def test_each_rule_is_its_formula(optimizer: str, bias_correction: bool | None) -> None:
    """Equations (3.1)-(3.6) over the gradients of four steps."""
    eta, decay, beta1, beta2 = 1e-3, 0.1, 0.9, 0.99
    values = {} if bias_correction is None else {"bias_correction": bias_correction}
    config = make_config(optimizer=optimizer, learning_rate=eta, weight_decay=decay, precision="float64", **values)
    step, model = our_step(config)
    model.train()
    wanted = [w.detach().clone() for w in model.parameters()]
    ms, vs = ([torch.zeros_like(w) for w in wanted] for _ in range(2))
    for t, index_b in enumerate(batches(config, 4), 1):
        step(index_b)
        for w, old, m, v in zip(model.parameters(), wanted, ms, vs, strict=True):
            assert w.grad is not None
            coupled = optimizer in ("adam", "signsgd")
            g = w.grad + decay * old if coupled else w.grad
            old.mul_(1 if coupled else 1 - eta * decay)
            m.mul_(beta1).add_((1 - beta1) * g)
            v.mul_(beta2).add_((1 - beta2) * g**2)
            if bias_correction is None:
                old.sub_(eta * g.sign())
                continue
            first, second = (m / (1 - beta1**t), v / (1 - beta2**t)) if bias_correction else (m, v)
            old.sub_(eta * first / (second.sqrt() + 1e-8))
            torch.testing.assert_close(w.detach(), old, rtol=1e-10, atol=1e-12)
    for w, old in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(w.detach(), old, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("image_size", [65, 224])
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnet101", "vgg16"])
def test_large_images_get_torchvisions_networks_unchanged(architecture: str, image_size: int) -> None:
    config = make_config(image_size=image_size, architecture=architecture)
    make = {"vgg16": "vgg16_bn"}.get(architecture, architecture)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, make)(num_classes=NUM_CLASSES)
        ours = initial_model(config)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("image_size", [32, pytest.param(65, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", list(Architecture))
@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_every_network_takes_images_of_any_channels(
    architecture: Architecture, normalization: str, image_size: int, channels: int
) -> None:
    config = make_config(32, architecture=architecture, normalization=normalization)
    with torch.device("meta"):
        model = initial_model(config.model_copy(update={"channels": channels, "image_size": image_size}))
        logits = model(torch.zeros(2, channels, image_size, image_size))
    assert logits.shape == (2, NUM_CLASSES)
    kinds = {type(module) for module in model.modules()}
    assert (nn.BatchNorm2d in kinds) == (normalization == "batch")
    assert (nn.GroupNorm in kinds) == (normalization == "group")


@pytest.mark.parametrize("architecture", ["resnet8", "resnet18", pytest.param("vgg16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_every_network_is_its_seeds(architecture: str, normalization: str) -> None:
    config = make_config(32, architecture=architecture, normalization=normalization)
    state = torch.random.get_rng_state()
    first, again = initial_model(config), initial_model(config)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = initial_model(make_config(32, architecture=architecture, normalization=normalization, seed=4))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def spread(w: Tensor) -> float:
    return float(w.detach().std())


def test_initial_weights_are_drawn_as_torchvision_draws_them() -> None:
    """The same standard deviations in every layer, although the first convolution differs."""
    ours = dict(initial_model(make_config(32, architecture="resnet18")).named_parameters())
    theirs = dict(torchvision.models.resnet18(num_classes=NUM_CLASSES).named_parameters())
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"conv1.weight"}:
        if ours[name].numel() > 1000:
            assert spread(ours[name]) == pytest.approx(spread(theirs[name]), rel=0.1)
    assert spread(ours["conv1.weight"]) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)


def test_group_norm_has_groups_of_four_channels_and_32_at_most() -> None:
    assert [group_norm(c).num_groups for c in (16, 64, 128, 512)] == [4, 16, 32, 32]


@pytest.mark.slow
def test_dropout_is_reproducible_and_goes_on_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16 for large images samples dropout masks, which depend on seed and step, not on how the run is sliced."""
    config = make_config(image_size=65, architecture="vgg16", batch_size=6, num_epochs=1, num_train=12, num_test=3)
    with torch.device("meta"):
        assert has_dropout(initial_model(config))
    monkeypatch.setattr(models, "vgg16_bn", narrow_vgg16)
    run = workload("image_classifier").open([Member(config, 1)])
    whole = train(config)
    assert train(config).trace == whole.trace
    for num_steps in (0, 1):  # cut before the first step, and between the two
        state: Mapping[str, Any] = {}
        while not state or int(state["step"]) < num_steps:
            run.advance(0.0)
            state = run.states()[config.trial_id]
        (report,) = workload("image_classifier").open([Member(config, 1, state)]).advance(math.inf)
        assert report.result is not None
        assert report.result.trace == whole.trace


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_where_none_is_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^device 'cuda' is not available[^\n]*$"):
        workload("image_classifier").open([], device="cuda")


def test_a_state_of_another_network_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    config, other = make_config(), make_config(architecture="resnet18")
    run = workload("image_classifier").open([Member(config, 3)])
    run.advance(0.0)
    (report,) = workload("image_classifier").open([Member(other, 3, run.states()[config.trial_id])]).advance(0.0)
    assert report.result is None
    assert "its saved state is not used: ValueError: numbers of shape" in caplog.text


@pytest.mark.slow
def test_a_step_is_closed_when_its_trial_ends_and_when_it_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded step holds memory of the GPU."""
    closed: list[EagerStep] = []
    monkeypatch.setattr(EagerStep, "close", lambda step: closed.append(step))
    config, other = make_config(num_epochs=1), make_config(num_epochs=1, architecture="resnet18")
    run = workload("image_classifier").open([Member(config, 1)])
    run.advance(0.0)
    assert not closed
    state = run.states()[config.trial_id]
    run.advance(math.inf)
    assert run.is_done
    assert len(closed) == 1
    run = workload("image_classifier").open([Member(other, 1, state)])
    run.advance(0.0)
    assert len(closed) == 2, "the step that was made for the state of another network"
    run.advance(math.inf)
    assert len(closed) == 3
