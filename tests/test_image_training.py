"""The image workload trains as plain torchvision and torch.optim do; what it adds, as a few lines of torch do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.images import NUM_CLASSES, image_folders
from trainables.errors import ConfigError
from trainables.image_batches import DeviceImages, epoch_augmentation, epoch_order
from trainables.image_config import Architecture, ImageClassifierConfig
from trainables.image_data import ImageData, Selection, open_images
from trainables.image_models import group_norm, initial_model
from trainables.image_steps import EagerStep, batch_sums
from trainables.optimizers import make_optimizer, set_moments
from trainables.registry import config_from_values, workload
from trainables.result import ImageTracePoint, Outcome, TrialResult
from trainables.torch_threads import torch_threads
from trainables.workload import Member

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with image_folders(tmp_path_factory.mktemp("images"), 8, 16, 32):
        yield


def make_config(size: int = 8, **values: Any) -> ImageClassifierConfig:
    base = {"optimizer": "adam", "weight_decay": 1e-2, "learning_rate": 1e-3, "batch_size": 8, "seed": 3}
    names = {"workload": "image_classifier", "dataset": f"tiny{size}", "architecture": "resnet8", "num_epochs": 3}
    config = config_from_values({**base, **names, **values})
    assert isinstance(config, ImageClassifierConfig)
    return config


def data_of(config: ImageClassifierConfig) -> ImageData:
    return open_images(Selection(config.dataset, config.num_train, config.num_test), config.dataset_digest)


def train(config: ImageClassifierConfig) -> TrialResult:
    (report,) = workload("image_classifier").open([Member(config, config.num_epochs)]).advance(math.inf)
    assert report.result is not None
    assert report.result.error is None
    return report.result


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


def plain_model(config: ImageClassifierConfig) -> nn.Module:
    """torchvision's network with the CIFAR changes, written down again."""
    model: Any
    if config.architecture is Architecture.VGG16:
        model = torchvision.models.vgg16_bn(num_classes=NUM_CLASSES)
        model.avgpool, model.classifier = nn.Identity(), nn.Linear(512, NUM_CLASSES)
    else:
        model = torchvision.models.resnet18(num_classes=NUM_CLASSES)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    model.load_state_dict(initial_model(config).state_dict())
    return model  # type: ignore[no-any-return]


def plain_losses(config: ImageClassifierConfig, num_steps: int, *, tuned: bool) -> list[float]:
    """A DataLoader, torchvision and torch.optim, as anyone writes it; `tuned`: channels_last and the fused rule."""
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


ONE_STEP_AN_EPOCH = {"learning_rate": 5e-4, "batch_size": 12, "num_train": 12, "num_test": 3, "num_epochs": 50}


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize(("architecture", "size"), [("resnet18", 8), pytest.param("vgg16", 32, marks=pytest.mark.slow)])
def test_training_equals_a_plain_loop(architecture: str, size: int, optimizer: str) -> None:
    """In float32 with the same kernels: where a gradient is rounding noise Adam takes a full step by its sign, and any

    other order of additions is another run after two steps.
    """
    config = make_config(size, architecture=architecture, optimizer=optimizer, **ONE_STEP_AN_EPOCH)
    ours = [point.train_loss for point in train(config).trace[1:]]
    plain = plain_losses(config, 50, tuned=True)
    assert len(ours) == len(plain) == 50
    assert ours[-1] < 0.5 * ours[0]
    assert np.abs(np.array(ours) - np.array(plain)).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_training_equals_a_plain_loop_with_other_kernels_in_float64(optimizer: str) -> None:
    """torch's defaults, whose kernels round differently: float64 keeps rounding noise too small to grow into sight."""
    config = make_config(architecture="resnet18", optimizer=optimizer, precision="float64", **ONE_STEP_AN_EPOCH)
    ours = [point.train_loss for point in train(config).trace[1:]]
    plain = plain_losses(config, 50, tuned=False)
    assert np.abs(np.array(ours) - np.array(plain)).max() < 1e-5


def test_the_trial_is_its_steps() -> None:
    """The whole run's trace is what its single steps give: batches in order, the last and smaller one included."""
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


# --- micro-batches ---


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_micro_batches_equal_the_batch_under_group_norm(precision: str, tolerance: float) -> None:
    common = {"normalization": "group", "batch_size": 24, "precision": precision, "learning_rate": 1e-4}
    whole, parts = make_config(**common), make_config(**common, micro_batch_size=7)
    assert whole.trial_id != parts.trial_id
    ours, others = np.array(our_losses(whole, 6)), np.array(our_losses(parts, 6))
    assert np.abs(ours / others - 1).max() < tolerance


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
        loss = cross_entropy(reference(on_device.train_batch(part, None, 0)), on_device.labels[part])
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
    plain = on_device.train_batch(everything, None, 0)
    drawn = {}
    for epoch in (0, 1):
        draws = [epoch_augmentation(c, epoch, CPU) for c in (config, pair)]
        augmented = [on_device.train_batch(everything, draw, 2) for draw in draws]
        assert torch.equal(*augmented)
        assert draws[0] is not None
        black = on_device._normalized(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))
        padded = black.expand(len(plain), 3, 20, 20).clone()
        padded[:, :, 2:-2, 2:-2] = plain
        for i, (top, left) in enumerate(draws[0].corners.tolist()):
            crop = padded[i, :, top : top + 16, left : left + 16]
            crop = crop.flip(-1) if draws[0].mirrored[i] else crop
            assert torch.equal(augmented[0][i], crop)
        assert 0.2 < draws[0].mirrored.double().mean() < 0.8
        drawn[epoch] = augmented[0]
    assert not torch.equal(drawn[0], drawn[1])
    assert epoch_augmentation(make_config(), 0, CPU) is None


def test_augmentation_changes_training_and_is_reproducible() -> None:
    config = make_config(augment_crop=1)
    assert train(config).trace == train(config).trace
    assert train(config).trace[1:] != train(make_config()).trace[1:]


# --- measures and outcomes ---


def test_misses_are_those_of_topk_and_no_number_is_a_miss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 20, generator=generator), torch.randint(20, (200,), generator=generator)
    loss, wrong, wrong5 = batch_sums(logits, labels).tolist()
    assert loss / 200 == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-6)
    assert wrong == int((logits.argmax(1) != labels).sum())
    assert wrong5 == int((logits.topk(5).indices != labels[:, None]).all(1).sum())
    broken = torch.full((4, 20), math.nan)
    assert batch_sums(broken, labels[:4]).tolist()[1:] == [4, 4]
    equal = torch.zeros(4, 20)
    assert batch_sums(equal, labels[:4]).tolist()[1:] == [4, 4], "a network without an opinion is not right by chance"


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
    assert last(stuck).train_loss == pytest.approx(math.log(NUM_CLASSES), rel=0.05)
    diverged = train(make_config(optimizer="signsgd", learning_rate=1e30, batch_size=48))
    assert diverged.outcome is Outcome.DIVERGED


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


@pytest.mark.parametrize("optimizer", ["signsgd", "signsgdw"])
def test_sign_rules_equal_their_formula(optimizer: str) -> None:
    config = make_config(optimizer=optimizer, learning_rate=1e-3, weight_decay=0.1)
    step, model = our_step(config)
    before = [w.detach().clone() for w in model.parameters()]
    model.train()
    step(batches(config, 1)[0])
    for w, old in zip(model.parameters(), before, strict=True):
        assert w.grad is not None
        coupled = optimizer == "signsgd"
        g = w.grad + 0.1 * old if coupled else w.grad
        kept = old if coupled else old * (1 - 1e-3 * 0.1)
        torch.testing.assert_close(w.detach(), kept - 1e-3 * g.sign(), rtol=1e-6, atol=1e-8)


def test_without_bias_correction_first_steps_are_smaller() -> None:
    first = {}
    for correction in (True, False):
        config = make_config(bias_correction=correction, weight_decay=0.0)
        step, model = our_step(config)
        before = [w.detach().clone() for w in model.parameters()]
        model.train()
        step(batches(config, 1)[0])
        first[correction] = sum(
            float((w - b).abs().sum().detach()) for w, b in zip(model.parameters(), before, strict=True)
        )
    assert first[False] == pytest.approx(first[True] * 0.1 / math.sqrt(0.01), rel=1e-3)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "vgg16"])
def test_large_images_get_torchvisions_networks_unchanged(architecture: str) -> None:
    config = make_config(image_size=72, architecture=architecture)
    make = {"resnet18": "resnet18", "resnet50": "resnet50", "vgg16": "vgg16_bn"}[architecture]
    theirs = getattr(torchvision.models, make)(num_classes=NUM_CLASSES)
    ours = initial_model(config)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("architecture", list(Architecture))
@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_every_network_is_its_seeds(architecture: Architecture, normalization: str) -> None:
    config = make_config(32, architecture=architecture, normalization=normalization)
    state = torch.random.get_rng_state()
    first, again = initial_model(config), initial_model(config)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = initial_model(make_config(32, architecture=architecture, normalization=normalization, seed=4))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    kinds = {type(module) for module in first.modules()}
    assert (nn.BatchNorm2d in kinds) == (normalization == "batch")
    assert (nn.GroupNorm in kinds) == (normalization == "group")
    assert first(torch.zeros(2, 3, 32, 32)).shape == (2, NUM_CLASSES)


def test_group_norm_has_groups_of_four_channels_and_32_at_most() -> None:
    assert [group_norm(c).num_groups for c in (16, 64, 128, 512)] == [4, 16, 32, 32]


@pytest.mark.slow
def test_dropout_is_reproducible_and_goes_on_exactly() -> None:
    """VGG16 for large images draws masks: they are a function of seed and step, not of how the run is cut."""
    config = make_config(image_size=65, architecture="vgg16", batch_size=6, num_epochs=1, num_train=12, num_test=3)
    run = workload("image_classifier").open([Member(config, 1)])
    run.advance(0.0)
    whole = train(config)
    assert train(config).trace == whole.trace
    cut = workload("image_classifier").open([Member(config, 1, run.states()[config.trial_id])])
    (report,) = cut.advance(math.inf)
    assert report.result is not None
    assert report.result.trace == whole.trace


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_where_none_is_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^device 'cuda' is not there[^\n]*$"):
        workload("image_classifier").open([], device="cuda")


def test_a_states_of_another_network_is_refused(tmp_path: Path) -> None:
    config, other = make_config(), make_config(architecture="resnet18")
    run = workload("image_classifier").open([Member(config, 3)])
    run.advance(0.0)
    (report,) = workload("image_classifier").open([Member(other, 3, run.states()[config.trial_id])]).advance(0.0)
    assert report.result is not None
    assert report.result.outcome is Outcome.FAILED
    assert "weights is not this trial's" in str(report.result.error)
